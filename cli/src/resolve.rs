//! From what people type to resource names. Short forms are taken when they can mean one thing only; otherwise the
//! error lists what they can mean. Choosing is pure; fetching what there is to choose from is done around it.

mod near;
mod points;

use coffer_model::names::Named;
use coffer_model::{AgentId, JobId, NameError, PoolId, RemoteId, RunId, ScheduleName, SrName, VmName};
use coffer_proto::v1;

pub(crate) use near::explained;
pub(crate) use points::point;

use crate::Error;
use crate::client::{Client, timed};
use crate::show::text::{id, plain};

/// At most so many candidates are listed.
const LISTED: usize = 10;

/// A name of one kind, given whole or as its id.
fn named<T: Named>(text: &str) -> Result<String, Error> {
    let whole = T::SHAPE.split('/').next().unwrap_or_default();
    let named = if text.contains('/') { T::from_name(text) } else { T::from_name(&format!("{whole}/{text}")) };
    named.map(|named| named.name()).map_err(|error| invalid(&error))
}

fn invalid(error: &NameError) -> Error {
    match error {
        NameError::Id { source, .. } => Error::usage(source.to_string(), None),
        NameError::Shape { .. } => Error::usage(error.to_string(), None),
    }
}

/// `lab` or `pools/lab`.
pub(crate) fn pool(text: &str) -> Result<String, Error> {
    named::<PoolId>(text)
}

/// `nas` or `remotes/nas`.
pub(crate) fn remote(text: &str) -> Result<String, Error> {
    named::<RemoteId>(text)
}

/// `nightly` or `jobs/nightly`.
pub(crate) fn job(text: &str) -> Result<String, Error> {
    named::<JobId>(text)
}

/// `rack-1` or `agents/rack-1`.
pub(crate) fn agent(text: &str) -> Result<String, Error> {
    named::<AgentId>(text)
}

/// Several names, each by `one`.
pub(crate) fn each(texts: &[String], one: fn(&str) -> Result<String, Error>) -> Result<Vec<String>, Error> {
    texts.iter().map(|text| one(text)).collect()
}

/// A schedule, by its job and its id.
pub(crate) fn schedule(job: &str, text: &str) -> Result<String, Error> {
    let whole = if text.contains('/') { text.to_owned() } else { format!("{}/schedules/{text}", self::job(job)?) };
    ScheduleName::from_name(&whole).map(|name| name.name()).map_err(|error| invalid(&error))
}

/// A run: its id, `latest`, or `JOB@latest`.
pub(crate) async fn run(client: &Client, text: &str) -> Result<String, Error> {
    let of = match text {
        "latest" => "",
        text => match text.strip_suffix("@latest") {
            Some(of) => of,
            None => return named::<RunId>(text),
        },
    };
    let job = if of.is_empty() { String::new() } else { job(of)? };
    let request = v1::ListRunsRequest { page_size: 1, job, ..Default::default() };
    let runs = client.runs().list_runs(timed(request)).await?.into_inner().runs;
    let newest = runs.into_iter().next().map(|run| run.name);
    newest.ok_or_else(|| Error::rejected(format!("there is no run yet for {text:?}"), "start one: coffer job run JOB"))
}

/// Something that a text may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    /// Resource name.
    name: String,
    /// UUID, or another exact name.
    exact: String,
    /// Name for people.
    label: String,
}

/// Chooses what `text` means: an exact name, else a label, else a label in another case.
fn choose(what: &str, text: &str, candidates: &[Candidate], advice: &str) -> Result<String, Error> {
    let by = |matches: &dyn Fn(&Candidate) -> bool| candidates.iter().filter(|one| matches(one)).collect::<Vec<_>>();
    let lower = text.to_lowercase();
    let rounds = [
        by(&|one| one.name == text || one.exact == text),
        by(&|one| one.label == text),
        by(&|one| one.label.to_lowercase() == lower),
    ];
    match rounds.iter().find(|found| !found.is_empty()).map(Vec::as_slice) {
        Some([one]) => Ok(one.name.clone()),
        Some(several) => {
            let names: Vec<String> =
                several.iter().take(LISTED).map(|one| format!("{} ({})", one.name, plain(&one.label))).collect();
            let more = several.len().saturating_sub(LISTED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            Err(Error::rejected(
                format!("{text:?} means {} {what}s", several.len()),
                format!("say which: {}{more}", names.join(", ")),
            ))
        }
        None => {
            let labels: Vec<&str> = candidates.iter().map(|one| one.label.as_str()).collect();
            Err(Error::rejected(format!("there is no {what} {text:?}"), near::advice(text, &labels, advice)))
        }
    }
}

/// The pools that a text like `lab/web` or `web` can be about, and the rest of the text.
async fn scope<'text>(client: &Client, text: &'text str) -> Result<(Vec<String>, &'text str), Error> {
    let pools = client.all_pools().await?;
    let names = || pools.iter().map(|pool| pool.name.clone()).collect();
    Ok(match text.split_once('/') {
        Some((first, rest)) if pools.iter().any(|pool| id(&pool.name) == first) => {
            (vec![format!("pools/{first}")], rest)
        }
        _ => (names(), text),
    })
}

/// A virtual machine: `pools/lab/vms/UUID`, a UUID, a name, or `lab/name`.
pub(crate) async fn vm(client: &Client, text: &str) -> Result<String, Error> {
    if let Ok(name) = VmName::from_name(text) {
        return Ok(name.name());
    }
    let (pools, text) = scope(client, text).await?;
    let mut candidates = Vec::new();
    for pool in &pools {
        let vms = client.all_vms(pool).await?;
        candidates.extend(vms.into_iter().map(|vm| Candidate { name: vm.name, exact: vm.uuid, label: vm.name_label }));
    }
    choose("virtual machine", text, &candidates, "`coffer pool vms POOL` lists them")
}

/// A storage repository: `pools/lab/srs/UUID`, a UUID, a name, or `lab/name`.
pub(crate) async fn sr(client: &Client, text: &str) -> Result<String, Error> {
    if let Ok(name) = SrName::from_name(text) {
        return Ok(name.name());
    }
    let (pools, text) = scope(client, text).await?;
    let mut candidates = Vec::new();
    for pool in &pools {
        let srs = client.all_srs(pool).await?;
        candidates.extend(srs.into_iter().map(|sr| Candidate { name: sr.name, exact: sr.uuid, label: sr.name_label }));
    }
    choose("storage repository", text, &candidates, "`coffer pool srs POOL` lists them")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates() -> Vec<Candidate> {
        let one = |name: &str, exact: &str, label: &str| Candidate {
            name: name.to_owned(),
            exact: exact.to_owned(),
            label: label.to_owned(),
        };
        vec![
            one("pools/lab/vms/u1", "u1", "web"),
            one("pools/lab/vms/u2", "u2", "Web"),
            one("pools/lab/vms/u3", "u3", "db"),
            one("pools/far/vms/u4", "u4", "db"),
            one("pools/far/vms/u5", "u5", "u1"),
        ]
    }

    fn check(text: &str) -> Result<String, String> {
        choose("virtual machine", text, &candidates(), "list them").map_err(|error| {
            let report = error.report();
            format!("{} | {}", report.message, report.advice.unwrap_or_default())
        })
    }

    #[test]
    fn an_exact_name_wins_over_a_label_and_a_label_over_one_in_another_case() {
        assert_eq!(check("u1").unwrap(), "pools/lab/vms/u1");
        assert_eq!(check("pools/far/vms/u4").unwrap(), "pools/far/vms/u4");
        assert_eq!(check("web").unwrap(), "pools/lab/vms/u1");
        assert_eq!(check("Web").unwrap(), "pools/lab/vms/u2");
    }

    #[test]
    fn what_can_mean_several_things_is_refused_with_all_of_them() {
        assert_eq!(
            check("db").unwrap_err(),
            "\"db\" means 2 virtual machines | say which: pools/lab/vms/u3 (db), pools/far/vms/u4 (db)"
        );
        assert!(check("WEB").unwrap_err().starts_with("\"WEB\" means 2 virtual machines"));
        assert_eq!(check("nothing").unwrap_err(), "there is no virtual machine \"nothing\" | list them");
        assert!(check("wep").unwrap_err().contains("did you mean \"Web\" or \"web\"? list them"));
    }

    #[test]
    fn short_and_whole_names_are_the_same_and_others_are_refused() {
        assert_eq!(pool("lab").unwrap(), "pools/lab");
        assert_eq!(pool("pools/lab").unwrap(), "pools/lab");
        assert_eq!(schedule("nightly", "daily").unwrap(), "jobs/nightly/schedules/daily");
        let error = remote("pools/lab").unwrap_err().report().message;
        assert_eq!(error, "\"pools/lab\" is not the name of a remote; expected remotes/{id}");
        let error = job("Nightly").unwrap_err().report().message;
        assert!(error.starts_with("\"Nightly\" is not the id of a job; expected 1 to 63 of"), "{error}");
    }
}
