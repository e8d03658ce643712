//! What was probably meant by a name that does not exist.

use coffer_proto::v1;
use tonic::{Code, Status};

use super::LISTED;
use crate::Error;
use crate::client::{Client, all_pages};
use crate::show::text::{id, plain};

/// Names like this one: the same in another case, one that begins like it, or one with few letters changed.
pub(super) fn near<'name>(text: &str, names: impl IntoIterator<Item = &'name str>) -> Vec<&'name str> {
    let text = text.to_lowercase();
    let allowed = (text.chars().count() / 3).clamp(1, 3);
    let mut found: Vec<(usize, &str)> = names
        .into_iter()
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let far = if lower.starts_with(&text) { 1 } else { distance(&text, &lower) };
            (far <= allowed).then_some((far, name))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|(_, name)| name).take(LISTED).collect()
}

/// Letters that are to be put in, taken out, replaced or swapped with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, &a) in from.iter().enumerate() {
        let mut next = vec![row + 1];
        for (column, &b) in to.iter().enumerate() {
            let mut least = (last[column] + usize::from(a != b)).min(last[column + 1] + 1).min(next[column] + 1);
            if row > 0 && column > 0 && a == to[column - 1] && from[row - 1] == b {
                least = least.min(before[column - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut last, next);
    }
    last[to.len()]
}

/// Advice on a name that was not found: those that are near it, or how to see all.
pub(super) fn advice(text: &str, names: &[&str], lists: &str) -> String {
    let found = near(text, names.iter().copied());
    if found.is_empty() {
        return lists.to_owned();
    }
    let found: Vec<String> = found.into_iter().map(|name| format!("{:?}", plain(name))).collect();
    format!("did you mean {}? {lists}", found.join(" or "))
}

/// Adds what was probably meant to an answer that something does not exist.
pub(crate) async fn explained(client: &Client, error: Error) -> Error {
    let Error::Api(status) = &error else { return error };
    let Some(subject) = missing(status) else { return error };
    // Where the names cannot be had, the answer stands as it is.
    let Ok(Some((names, lists))) = others(client, subject).await else { return error };
    let names: Vec<&str> = names.iter().map(|name| id(name)).collect();
    let advice = advice(id(subject), &names, lists);
    Error::Rejected { message: error.report().message, advice: Some(advice) }
}

/// The resource that an answer says does not exist.
fn missing(status: &Status) -> Option<&str> {
    if !matches!(status.code(), Code::NotFound | Code::InvalidArgument) {
        return None;
    }
    let (before, _) = status.message().split_once(" does not exist")?;
    before.rsplit(' ').next().filter(|name| name.contains('/'))
}

/// What there is of the same kind, and how to see it.
async fn others(client: &Client, subject: &str) -> Result<Option<(Vec<String>, &'static str)>, Error> {
    Ok(Some(match subject.split('/').collect::<Vec<_>>()[..] {
        ["pools", _] => {
            let pools = client.all_pools().await?;
            (pools.into_iter().map(|pool| pool.name).collect(), "`coffer pool list` shows all")
        }
        ["remotes", _] => {
            let remotes = all_pages!(client.remotes(), list_remotes, remotes, v1::ListRemotesRequest::default());
            (remotes.into_iter().map(|remote| remote.name).collect(), "`coffer remote list` shows all")
        }
        ["jobs", _] => {
            let jobs = all_pages!(client.jobs(), list_jobs, jobs, v1::ListJobsRequest::default());
            (jobs.into_iter().map(|job| job.name).collect(), "`coffer job list` shows all")
        }
        ["jobs", job, "schedules", _] => {
            let schedules = client.all_schedules(&format!("jobs/{job}")).await?;
            (schedules.into_iter().map(|schedule| schedule.name).collect(), "`coffer schedule list` shows all")
        }
        ["agents", _] => {
            let agents = all_pages!(client.agents(), list_agents, agents, v1::ListAgentsRequest::default());
            (agents.into_iter().map(|agent| agent.name).collect(), "`coffer agent list` shows all")
        }
        ["runs", _] => (Vec::new(), "`coffer run list` shows the newest"),
        ["restorePoints", _] => (Vec::new(), "`coffer backup list` shows all"),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_near_and_other_words_are_not() {
        for (from, to, far) in [("nightly", "nigthly", 1), ("lab", "lap", 1), ("web", "webb", 1), ("", "ab", 2)] {
            assert_eq!(distance(from, to), far, "{from} {to}");
        }
        let names = ["nightly", "weekly", "Local storage 1", "Local storage 2"];
        assert_eq!(near("nihgtly", names), ["nightly"]);
        assert_eq!(near("local storage", names), ["Local storage 1", "Local storage 2"]);
        assert_eq!(near("monthly-full", names), Vec::<&str>::new());
        assert_eq!(advice("wekly", &names, "list them"), "did you mean \"weekly\"? list them");
        assert_eq!(advice("other", &names, "list them"), "list them");
    }

    #[test]
    fn what_is_missing_is_read_from_the_answer() {
        let of = |code, message: &str| missing(&Status::new(code, message)).map(str::to_owned);
        assert_eq!(of(Code::NotFound, "jobs/nihgtly does not exist").as_deref(), Some("jobs/nihgtly"));
        let field = "job.remotes: remotes/nasx does not exist";
        assert_eq!(of(Code::InvalidArgument, field).as_deref(), Some("remotes/nasx"));
        assert_eq!(of(Code::Unavailable, "jobs/x does not exist"), None);
        assert_eq!(of(Code::NotFound, "the folder does not exist"), None);
    }
}
