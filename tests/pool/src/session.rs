//! Sessions: login, use, expiry, limits, logout.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::value::{Failure, Outcome, Record, Value};
use crate::world::{World, lock};

/// Unused sessions die after this.
const IDLE: Duration = Duration::from_secs(24 * 3600);
/// Sessions of one originator and user.
const LIMIT: usize = 500;
/// What a wrong password costs.
const PENALTY: Duration = Duration::from_secs(5);

/// The running side of sessions; their records are in the database.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    live: Mutex<HashMap<String, Live>>,
}

#[derive(Debug)]
struct Live {
    group: (String, String),
    used: Instant,
    /// Cancelled by logout: blocked `event.from` calls end.
    ended: CancellationToken,
}

impl World {
    /// `session.login_with_password`.
    pub(crate) async fn login(&self, user: &str, password: &str, originator: &str) -> Outcome<String> {
        if user != self.config.user || password != self.config.password {
            self.latency(PENALTY).await;
            return Err(Failure::new("SESSION_AUTHENTICATION_FAILED", &[user, "Authentication failure"]));
        }
        let host = self.coordinator().reference.clone();
        let record = Record::from([
            ("this_host".to_owned(), Value::str(host)),
            ("last_active".to_owned(), Value::now()),
            ("validation_time".to_owned(), Value::now()),
            ("is_local_superuser".to_owned(), Value::Bool(true)),
            ("auth_user_name".to_owned(), Value::str(user)),
            ("originator".to_owned(), Value::str(originator)),
        ]);
        let reference = self.write(|db| db.create("session", record));
        let group = (originator.to_owned(), user.to_owned());
        let surplus = {
            let mut live = lock(&self.sessions.live);
            let ended = CancellationToken::new();
            live.insert(reference.clone(), Live { group: group.clone(), used: Instant::now(), ended });
            let mut mine: Vec<_> =
                live.iter().filter(|(_, l)| l.group == group).map(|(r, l)| (l.used, r.clone())).collect();
            mine.sort();
            mine.truncate(mine.len().saturating_sub(LIMIT));
            mine
        };
        surplus.iter().for_each(|(_, session)| self.logout(session));
        Ok(reference)
    }

    /// Checks a session and counts it as used; the answer ends with the session.
    pub(crate) fn session(&self, reference: &str) -> Outcome<CancellationToken> {
        let found = {
            let mut live = lock(&self.sessions.live);
            match live.get_mut(reference) {
                Some(session) if session.used.elapsed() < IDLE => {
                    session.used = Instant::now();
                    Some(session.ended.clone())
                }
                _ => None,
            }
        };
        found.ok_or_else(|| {
            self.logout(reference);
            Failure::session_invalid(reference)
        })
    }

    /// Ends a session.
    pub(crate) fn logout(&self, reference: &str) {
        if let Some(session) = lock(&self.sessions.live).remove(reference) {
            session.ended.cancel();
        }
        self.write(|db| db.delete("session", reference));
    }

    /// A restart of the coordinator's toolstack: every session is gone.
    pub(crate) fn forget_sessions(&self) {
        let sessions: Vec<String> = lock(&self.sessions.live).keys().cloned().collect();
        sessions.iter().for_each(|session| self.logout(session));
    }
}
