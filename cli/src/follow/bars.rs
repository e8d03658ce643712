//! Live progress on a terminal: a line per task that is worked on, a bar per disk under it.

use std::collections::BTreeMap;
use std::time::Duration;

use coffer_proto::v1;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::narrator::extent;
use super::picture::Picture;
use crate::Error;
use crate::show::runs::subject;
use crate::show::text::{plain, size};

/// How often the line of a task turns.
const TICK: Duration = Duration::from_millis(120);
/// Columns for the name of a disk.
const NAME: usize = 22;

/// A task's line or a disk's bar: the task, and the disk's UUID (empty: the task's own line).
type Key = (String, String);

/// The bars of a run.
pub(crate) struct Bars {
    all: MultiProgress,
    shown: BTreeMap<Key, ProgressBar>,
    task: ProgressStyle,
    disk: ProgressStyle,
}

impl Bars {
    /// Bars on standard error.
    pub(crate) fn new() -> Self {
        Self::on(ProgressDrawTarget::stderr())
    }

    fn on(target: ProgressDrawTarget) -> Self {
        let style =
            |template| ProgressStyle::with_template(template).expect("the template is constant and well-formed");
        Self {
            all: MultiProgress::with_draw_target(target),
            shown: BTreeMap::new(),
            task: style("{spinner} {prefix}  {wide_msg}"),
            disk: style("    {prefix} {bar:28} {percent:>3} %  {wide_msg}").progress_chars("━╸ "),
        }
    }

    /// Shows the tasks that are worked on as they are now.
    pub(crate) fn draw(&mut self, picture: &Picture) {
        for task in &picture.tasks {
            if is_worked_on(task) {
                self.draw_task(task);
            } else {
                self.remove(&task.name);
            }
        }
    }

    fn draw_task(&mut self, task: &v1::Task) {
        let line = self.bar((task.name.clone(), String::new()), None);
        line.set_prefix(subject(task));
        line.set_message(status(task));
        let mut above = line;
        if !moves_disks(task) {
            self.remove_if(|(of, disk)| *of == task.name && !disk.is_empty());
            return;
        }
        for disk in &task.disks {
            let transfer = disk.transfer.unwrap_or_default();
            let (done, all) = extent(&transfer);
            let bar = self.bar((task.name.clone(), disk.disk_uuid.clone()), Some(&above));
            bar.set_prefix(name(disk));
            bar.set_length(all);
            bar.set_position(done);
            bar.set_message(format!("{} of {}  {}/s", size(done), size(all), size(disk.rate_bytes_per_second)));
            above = bar;
        }
    }

    fn bar(&mut self, key: Key, below: Option<&ProgressBar>) -> ProgressBar {
        if let Some(bar) = self.shown.get(&key) {
            return bar.clone();
        }
        let bar = match below {
            None => {
                let line = self.all.add(ProgressBar::no_length().with_style(self.task.clone()));
                line.enable_steady_tick(TICK);
                line
            }
            Some(above) => self.all.insert_after(above, ProgressBar::new(0).with_style(self.disk.clone())),
        };
        self.shown.insert(key, bar.clone());
        bar
    }

    fn remove(&mut self, task: &str) {
        self.remove_if(|key| key.0 == task);
    }

    fn remove_if(&mut self, is_gone: impl Fn(&Key) -> bool) {
        let gone = self.shown.extract_if(.., |key, _| is_gone(key));
        for (_, bar) in gone {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
    }

    /// Writes lines above the bars.
    pub(crate) fn above(
        &self,
        lines: &[String],
        mut write: impl FnMut(&str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.all.suspend(|| lines.iter().try_for_each(|line| write(line)))
    }

    /// Takes all bars away.
    pub(crate) fn clear(&mut self) {
        for bar in std::mem::take(&mut self.shown).into_values() {
            bar.finish_and_clear();
        }
    }
}

fn is_worked_on(task: &v1::Task) -> bool {
    use v1::task::State;
    matches!(task.state(), State::Running | State::Disconnected | State::Recovering)
}

fn running(task: &v1::Task) -> Option<&v1::Step> {
    task.steps.iter().rev().find(|step| step.state() == v1::step::State::Running)
}

/// Before and after, bars of disks would only stand there.
fn moves_disks(task: &v1::Task) -> bool {
    running(task).is_some_and(|step| matches!(step.name.as_str(), "transfer" | "verify" | "export"))
}

fn status(task: &v1::Task) -> String {
    let step = running(task).or(task.steps.last());
    match task.state() {
        v1::task::State::Disconnected => "its agent has not been heard of".to_owned(),
        v1::task::State::Recovering => "recovering".to_owned(),
        _ => step.map_or_else(|| "begins".to_owned(), |step| step.name.clone()),
    }
}

fn name(disk: &v1::DiskTransfer) -> String {
    let name = plain(&format!("{} {}", disk.device, disk.label));
    format!("{:<NAME$}", name.chars().take(NAME).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_a_line_and_its_disks_bars_until_it_ends() {
        let mut bars = Bars::on(ProgressDrawTarget::hidden());
        let disk = |uuid: &str, done| v1::DiskTransfer {
            disk_uuid: uuid.to_owned(),
            transfer: Some(v1::Transfer { read_bytes: done, disk_bytes: 100, ..Default::default() }),
            ..Default::default()
        };
        let mut task = v1::Task {
            name: "runs/r/tasks/t".to_owned(),
            state: v1::task::State::Running.into(),
            disks: vec![disk("a", 40), disk("b", 0)],
            steps: vec![v1::Step {
                name: "transfer".to_owned(),
                state: v1::step::State::Running.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        bars.draw(&Picture { run: None, tasks: vec![task.clone()] });
        assert_eq!(bars.shown.len(), 3);
        let first = &bars.shown[&("runs/r/tasks/t".to_owned(), "a".to_owned())];
        assert_eq!((first.position(), first.length()), (40, Some(100)));
        task.steps[0].state = v1::step::State::Done.into();
        bars.draw(&Picture { run: None, tasks: vec![task.clone()] });
        assert_eq!(bars.shown.len(), 1);
        task.state = v1::task::State::Succeeded.into();
        bars.draw(&Picture { run: None, tasks: vec![task] });
        assert!(bars.shown.is_empty());
    }
}
