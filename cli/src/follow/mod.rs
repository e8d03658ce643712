//! Showing a run while it works: live bars on a terminal, plain lines elsewhere, JSON lines for programs. A connection
//! that breaks is made anew; the run itself does not notice.

mod bars;
mod narrator;
mod picture;

use std::time::Duration;

use coffer_proto::v1;
use coffer_runtime::exit::Exit;
use coffer_runtime::retry::{Delays, Policy};
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use crate::Error;
use crate::context::Context;
use crate::show::text::id;
use crate::show::{Format, View, json, runs};
use bars::Bars;
use narrator::Narrator;
use picture::Picture;

/// How long a controller may be away before following is given up.
const PATIENCE: Duration = Duration::from_secs(180);

/// Shows a run until it has ended, and says how a program ends that waited for it.
pub(crate) async fn follow(context: &mut Context<'_>, name: &str) -> Result<Exit, Error> {
    let mut following = Following {
        picture: Picture::default(),
        narrator: Narrator::default(),
        bars: (context.format == Format::Table && context.terminal.is_live).then(Bars::new),
    };
    // One watch over the whole time: from the first on, the signal does nothing else any more.
    let result = tokio::select! {
        result = to_the_end(context, name, &mut following) => result,
        _ = tokio::signal::ctrl_c() => {
            following.end();
            context.note(&format!("{0} goes on; stop it with: coffer run cancel {0}", id(name)))?;
            return Ok(Exit::Interrupted);
        }
    };
    following.end();
    let run = result?;
    if context.format == Format::Table {
        let summary = runs::summary(&run, &View::of(context.terminal));
        context.terminal.print(&format!("{} {summary}", id(&run.name)))?;
    }
    Ok(runs::exit_of(run.state()))
}

/// Follows until the run has ended, however often the connection breaks.
async fn to_the_end(context: &mut Context<'_>, name: &str, following: &mut Following) -> Result<v1::Run, Error> {
    let mut contact = Contact { heard: Instant::now(), delays: Policy::RECONNECT.delays(0), ever: false };
    loop {
        let broken = listen(context, name, following, &mut contact).await?;
        if let Some(run) = following.picture.ended() {
            return Ok(run.clone());
        }
        contact.wait(name, broken).await?;
        // The one that broke off may be gone for long. When none answers, the next attempt tells.
        drop(context.client.turn().await);
    }
}

/// What is known of the run, and how it is shown.
struct Following {
    picture: Picture,
    narrator: Narrator,
    bars: Option<Bars>,
}

impl Following {
    fn end(&mut self) {
        if let Some(bars) = &mut self.bars {
            bars.clear();
        }
    }

    fn hear(&mut self, change: v1::FollowRunResponse, context: &mut Context<'_>) -> Result<(), Error> {
        if context.format == Format::Json {
            context.terminal.print(&json::message("FollowRunResponse", &change).to_string())?;
            self.picture.apply(change);
            return Ok(());
        }
        self.picture.apply(change);
        let view = View::of(context.terminal);
        let lines = self.narrator.tell(&self.picture, &view, self.bars.is_none());
        match &mut self.bars {
            Some(bars) => {
                bars.draw(&self.picture);
                bars.above(&lines, |line| context.terminal.note(line))
            }
            None => lines.iter().try_for_each(|line| context.terminal.print(line)),
        }
    }
}

/// Contact with the controller.
struct Contact {
    heard: Instant,
    delays: Delays,
    ever: bool,
}

impl Contact {
    fn made(&mut self) {
        self.heard = Instant::now();
        self.ever = true;
        self.delays.reset();
    }

    /// Waits before the next attempt; fails when there is no sense in one.
    async fn wait(&mut self, name: &str, broken: Option<Status>) -> Result<(), Error> {
        if let Some(status) = broken {
            if !self.ever || !may_pass(status.code()) {
                return Err(status.into());
            }
            tracing::info!(%status, "the connection broke; following again");
        }
        if self.heard.elapsed() > PATIENCE {
            return Err(Error::unavailable(
                format!("the controller has not answered for {} s; the run may go on", PATIENCE.as_secs()),
                format!("follow it again: coffer run follow {}", id(name)),
            ));
        }
        tokio::time::sleep(self.delays.next().unwrap_or(Policy::RECONNECT.max)).await;
        Ok(())
    }
}

/// Failures that a restarted controller or a mended network ends.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
    )
}

/// Follows until the stream ends. `Ok(Some)`: it broke.
async fn listen(
    context: &mut Context<'_>,
    name: &str,
    following: &mut Following,
    contact: &mut Contact,
) -> Result<Option<Status>, Error> {
    let request = v1::FollowRunRequest { name: name.to_owned(), interval: None };
    let mut changes = match context.client.runs().follow_run(Request::new(request)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(Some(status)),
    };
    loop {
        match changes.message().await {
            Ok(Some(change)) => {
                contact.made();
                following.hear(change, context)?;
            }
            Ok(None) => return Ok(None),
            Err(status) => return Ok(Some(status)),
        }
    }
}
