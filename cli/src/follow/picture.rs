//! What is known of a run that is followed.

use coffer_proto::v1;

use crate::show::runs;

/// A run and its tasks, as last heard.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    pub(crate) run: Option<v1::Run>,
    /// In the order in which they were first heard of, which is the planned one.
    pub(crate) tasks: Vec<v1::Task>,
}

impl Picture {
    /// Takes a change in.
    pub(crate) fn apply(&mut self, change: v1::FollowRunResponse) {
        self.run = change.run.or(self.run.take());
        for task in change.tasks {
            match self.tasks.iter_mut().find(|known| known.name == task.name) {
                Some(known) => *known = task,
                None => self.tasks.push(task),
            }
        }
    }

    /// The run, if it has ended.
    pub(crate) fn ended(&self) -> Option<&v1::Run> {
        self.run.as_ref().filter(|run| runs::has_ended(run.state()))
    }
}
