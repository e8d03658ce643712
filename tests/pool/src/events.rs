//! `event.from`: what changed since a token, for whom. The selection is pure; waiting is at the bottom.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::db::Db;
use crate::rpc::Cx;
use crate::value::{Failure, Outcome, Record, Value};

/// Changes are collected this long before an answer, unless only tasks are watched.
const BATCH: Duration = Duration::from_millis(50);

/// Where a listener stands: database generation and message generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    database: u64,
    messages: u64,
}

impl Token {
    pub(crate) fn new(database: u64, messages: u64) -> Self {
        Self { database, messages }
    }

    /// The empty text stands before everything.
    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        if text.is_empty() {
            return Ok(Self { database: 0, messages: 0 });
        }
        let numbers = text.split_once(',').and_then(|(d, m)| Some((d.parse().ok()?, m.parse().ok()?)));
        let (database, messages) = numbers.ok_or_else(|| Failure::new("EVENT_FROM_TOKEN_PARSE_FAILURE", &[text]))?;
        Ok(Self { database, messages })
    }

    pub(crate) fn render(self) -> String {
        format!("{:020},{:020}", self.database, self.messages)
    }
}

/// What a listener wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subscription {
    All,
    Class(String),
    Object(String, String),
}

impl Subscription {
    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        let fail = || Failure::new("EVENT_SUBSCRIPTION_PARSE_FAILURE", &[text]);
        match text.split_once('/') {
            _ if text == "*" => Ok(Self::All),
            _ if text.is_empty() => Err(fail()),
            None => Ok(Self::Class(text.to_ascii_lowercase())),
            Some((class, object)) if !class.is_empty() && !object.is_empty() && !object.contains('/') => {
                Ok(Self::Object(class.to_ascii_lowercase(), object.to_owned()))
            }
            Some(_) => Err(fail()),
        }
    }

    fn covers(&self, class: &str, reference: &str) -> bool {
        match self {
            Self::All => true,
            Self::Class(name) => name == class,
            Self::Object(name, object) => name == class && object == reference,
        }
    }

    fn only_tasks(&self) -> bool {
        matches!(self, Self::Class(c) | Self::Object(c, _) if c == "task")
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    class: String,
    operation: &'static str,
    reference: String,
    generation: u64,
    snapshot: Option<Record>,
}

/// Everything after the token that somebody of these subscriptions wants, in the order of hosts: messages first, then
/// adds, changes and deletions by their age.
fn since(db: &Db, subscriptions: &[Subscription], token: Token) -> Vec<Event> {
    let mut found = Vec::new();
    for (name, table) in db.tables() {
        let class = name.to_ascii_lowercase();
        let wanted = |reference: &str| subscriptions.iter().any(|s| s.covers(&class, reference));
        if !db.schema().class(name).is_some_and(|c| c.events) {
            continue;
        }
        let after = if name == "message" { token.messages } else { token.database };
        for (reference, row) in table.rows.iter().filter(|(r, row)| row.changed > after && wanted(r)) {
            found.push(Event {
                class: class.clone(),
                operation: if row.created > after { "add" } else { "mod" },
                reference: reference.clone(),
                generation: row.changed,
                snapshot: Some(row.record.clone()),
            });
        }
        let gone = table.deleted.iter().filter(|d| d.deleted > after && d.created <= after && wanted(&d.reference));
        found.extend(gone.map(|d| Event {
            class: class.clone(),
            operation: "del",
            reference: d.reference.clone(),
            generation: d.deleted,
            snapshot: None,
        }));
    }
    let rank = |event: &Event| match (event.class.as_str(), event.operation) {
        ("message", _) => 0,
        (_, "add") => 1,
        (_, "mod") => 2,
        _ => 3,
    };
    found.sort_by_key(|event| (rank(event), event.generation));
    found
}

fn answer(db: &Db, events: Vec<Event>) -> Value {
    let (database, messages) = db.generations();
    let counts = db
        .tables()
        .filter(|(name, _)| *name != "message" && db.schema().class(name).is_some_and(|c| c.events))
        .map(|(name, table)| (name.to_ascii_lowercase(), Value::bytes(table.rows.len() as u64)));
    let events = events.into_iter().map(|event| {
        let mut fields = BTreeMap::from([
            ("id".to_owned(), Value::str(event.generation.to_string())),
            ("timestamp".to_owned(), Value::str("0.0")),
            ("class".to_owned(), Value::str(event.class)),
            ("operation".to_owned(), Value::str(event.operation)),
            ("ref".to_owned(), Value::str(event.reference)),
        ]);
        if let Some(record) = event.snapshot {
            fields.insert("snapshot".to_owned(), Value::Map(record));
        }
        Value::Map(fields)
    });
    Value::Map(BTreeMap::from([
        ("events".to_owned(), Value::Set(events.collect())),
        ("valid_ref_counts".to_owned(), Value::Map(counts.collect())),
        ("token".to_owned(), Value::str(Token { database, messages }.render())),
    ]))
}

/// `event.from(classes, token, timeout)`.
pub(crate) async fn from(cx: &Cx, classes: &[String], token: &str, timeout: f64) -> Outcome {
    let subscriptions: Vec<Subscription> = classes.iter().map(|c| Subscription::parse(c)).collect::<Outcome<_>>()?;
    let token = Token::parse(token)?;
    let ended = cx.world.session(&cx.session)?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs_f64(timeout.clamp(0.0, 86_400.0));
    let mut changes = cx.world.changes();
    let lost = |event: &Event| cx.world.faults.loses(&event.class, event.operation);
    let mut forgotten: Vec<(String, u64)> = Vec::new();
    loop {
        changes.mark_unchanged();
        let mut found = cx.world.read(|db| since(db, &subscriptions, token));
        if !found.is_empty() && !subscriptions.iter().all(Subscription::only_tasks) {
            tokio::time::sleep(BATCH).await;
        }
        let reply = cx.world.read(|db| {
            found = since(db, &subscriptions, token);
            found.retain(|e| !forgotten.contains(&(e.reference.clone(), e.generation)));
            let dropped: Vec<_> =
                found.iter().filter(|e| lost(e)).map(|e| (e.reference.clone(), e.generation)).collect();
            found.retain(|e| !dropped.contains(&(e.reference.clone(), e.generation)));
            forgotten.extend(dropped);
            (!found.is_empty() || tokio::time::Instant::now() >= deadline)
                .then(|| answer(db, std::mem::take(&mut found)))
        });
        if let Some(reply) = reply {
            return Ok(reply);
        }
        tokio::select! {
            changed = changes.changed() => changed.map_err(Failure::internal)?,
            () = tokio::time::sleep_until(deadline) => {}
            () = ended.cancelled() => return Err(Failure::session_invalid(&cx.session)),
            () = cx.world.stop.cancelled() => return Err(Failure::session_invalid(&cx.session)),
        }
    }
}

/// `event.inject(class, ref)`: the object counts as changed; the answer is the moment before.
pub(crate) fn inject(cx: &Cx, class: &str, reference: &str) -> Outcome {
    cx.world.write(|db| {
        let name = db.schema().classes().map(|c| c.name.clone()).find(|name| name.eq_ignore_ascii_case(class));
        let name =
            name.filter(|name| db.exists(name, reference)).ok_or_else(|| Failure::handle_invalid(class, reference))?;
        let before = db.touch(&name, reference);
        let messages = db.generations().1;
        Ok(Value::str(Token::new(before, messages).render()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Profile;
    use crate::db::Schema;

    fn db() -> Db {
        Db::new(Schema::new(Profile::V8_3))
    }

    fn now(db: &Db) -> Token {
        let (database, messages) = db.generations();
        Token::new(database, messages)
    }

    fn seen(db: &Db, token: Token) -> Vec<(String, &'static str)> {
        since(db, &[Subscription::All], token).into_iter().map(|e| (e.class, e.operation)).collect()
    }

    #[test]
    fn tokens_read_back_and_nonsense_is_refused() {
        let token = Token::new(12345, 7);
        assert_eq!(token.render(), "00000000000000012345,00000000000000000007");
        assert_eq!(Token::parse(&token.render()), Ok(token));
        for wrong in ["x", "1", "1,x", "-1,2"] {
            assert_eq!(Token::parse(wrong).unwrap_err().code, "EVENT_FROM_TOKEN_PARSE_FAILURE");
        }
    }

    #[test]
    fn an_object_is_one_event_whatever_happened_to_it() {
        let mut db = db();
        let start = now(&db);
        let vm = db.create("VM", Record::new());
        db.set("VM", &vm, "power_state", Value::str("Running"));
        assert_eq!(seen(&db, start), [("vm".to_owned(), "add")]);
        let middle = now(&db);
        db.set("VM", &vm, "power_state", Value::str("Halted"));
        db.set("VM", &vm, "power_state", Value::str("Running"));
        assert_eq!(seen(&db, middle), [("vm".to_owned(), "mod")]);
        db.delete("VM", &vm);
        assert_eq!(seen(&db, middle), [("vm".to_owned(), "del")]);
        assert!(seen(&db, start).is_empty(), "made and deleted unseen");
    }

    #[test]
    fn messages_come_first_and_sessions_never() {
        let mut db = db();
        let start = now(&db);
        db.create("VM", Record::new());
        db.create("session", Record::new());
        db.create("message", Record::new());
        assert_eq!(seen(&db, start), [("message".to_owned(), "add"), ("vm".to_owned(), "add")]);
    }

    #[test]
    fn subscriptions_name_classes_in_any_case_or_one_object() {
        assert_eq!(Subscription::parse("VM"), Ok(Subscription::Class("vm".to_owned())));
        let one = Subscription::parse("VM/OpaqueRef:1").unwrap();
        assert!(one.covers("vm", "OpaqueRef:1") && !one.covers("vm", "OpaqueRef:2"));
        for wrong in ["", "/", "vm/", "/x", "vm/a/b"] {
            assert_eq!(Subscription::parse(wrong).unwrap_err().code, "EVENT_SUBSCRIPTION_PARSE_FAILURE", "{wrong}");
        }
    }
}
