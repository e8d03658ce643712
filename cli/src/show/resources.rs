//! Pools, remotes, jobs, schedules, restore points and agents, in tables and words.

use std::collections::BTreeMap;

use coffer_proto::v1;

use super::View;
use super::table::{Rows, pairs};
use super::text::{count, id, instant, or_dash, plain, shown, size, size_or_dash, time};

fn words(state: &str) -> String {
    state.to_lowercase().replace('_', " ")
}

fn limit(number: u32) -> String {
    if number == 0 { "no limit".to_owned() } else { number.to_string() }
}

pub(crate) fn pools(pools: &[v1::Pool], view: &View) -> String {
    let mut rows = Rows::new(&["NAME", "STATE", "HOSTS", ">VMS", "PRODUCT"], view.width);
    for pool in pools {
        rows.push([
            id(&pool.name).to_owned(),
            words(pool.state().as_str_name()),
            pool.hosts.join(", "),
            pool.vm_count.to_string(),
            or_dash(&pool.product).to_owned(),
        ]);
    }
    let mut text = rows.finish("No pools yet. Add one: coffer pool add NAME --host ADDRESS --user USER");
    for pool in pools.iter().filter(|pool| !pool.state_message.is_empty()) {
        text.push_str(&format!("\n{}: {}", id(&pool.name), plain(&pool.state_message)));
    }
    text
}

pub(crate) fn pool(pool: &v1::Pool, view: &View) -> String {
    let mut shown = vec![
        ("name", id(&pool.name).to_owned()),
        ("display name", pool.display_name.clone()),
        ("state", words(pool.state().as_str_name())),
        ("", pool.state_message.clone()),
        ("since", time(pool.state_time.as_ref(), &view.zone)),
        ("hosts", pool.hosts.join(", ")),
        ("user", pool.username.clone()),
        ("fingerprint", or_dash(&pool.fingerprint).to_owned()),
        ("seen", if pool.seen_fingerprint == pool.fingerprint { String::new() } else { pool.seen_fingerprint.clone() }),
        ("pool in XAPI", [pool.name_label.as_str(), pool.uuid.as_str()].join(" ").trim().to_owned()),
        ("product", pool.product.clone()),
        ("VMs", pool.vm_count.to_string()),
        ("most tasks", limit(pool.max_concurrent_tasks)),
    ];
    for (number, member) in pool.members.iter().enumerate() {
        let coordinator = if member.coordinator { " (coordinator)" } else { "" };
        let certificate = or_dash(&member.fingerprint);
        let heading = if number == 0 { "certificates" } else { "" };
        shown.push((heading, format!("{} {}{coordinator} {certificate}", member.name_label, member.address)));
    }
    pairs(&shown)
}

pub(crate) fn vms(vms: &[v1::VirtualMachine], view: &View) -> String {
    let mut rows = Rows::new(&["NAME", "POWER", ">DISKS", ">SIZE", "TAGS", "=UUID"], view.width);
    for vm in vms {
        let taken = vm.disks.iter().filter(|disk| !disk.excluded);
        let excluded = vm.disks.iter().filter(|disk| disk.excluded).count();
        let disks = if excluded == 0 {
            vm.disks.len().to_string()
        } else {
            format!("{} ({excluded} left out)", vm.disks.len() - excluded)
        };
        rows.push([
            vm.name_label.clone(),
            vm.power_state.clone(),
            disks,
            size(taken.map(|disk| disk.size_bytes).sum()),
            or_dash(&vm.tags.join(", ")).to_owned(),
            vm.uuid.clone(),
        ]);
    }
    rows.finish("No virtual machines seen yet.")
}

pub(crate) fn srs(srs: &[v1::StorageRepository], view: &View) -> String {
    let mut rows = Rows::new(&["NAME", "TYPE", "SHARED", ">SIZE", ">FREE", "=UUID"], view.width);
    for sr in srs {
        rows.push([
            sr.name_label.clone(),
            sr.r#type.clone(),
            if sr.shared { "yes" } else { "no" }.to_owned(),
            size_or_dash(sr.size_bytes),
            size_or_dash(sr.size_bytes.saturating_sub(sr.used_bytes)),
            sr.uuid.clone(),
        ]);
    }
    rows.finish("No storage repositories seen yet.")
}

fn location(remote: &v1::Remote) -> &str {
    match &remote.location {
        Some(v1::remote::Location::Local(local)) => &local.path,
        None => "-",
    }
}

pub(crate) fn remotes(remotes: &[v1::Remote], view: &View) -> String {
    let mut rows = Rows::new(&["NAME", "STATE", "LOCATION", ">SIZE", ">FREE"], view.width);
    for remote in remotes {
        rows.push([
            id(&remote.name).to_owned(),
            words(remote.state().as_str_name()),
            location(remote).to_owned(),
            size_or_dash(remote.size_bytes),
            size_or_dash(remote.free_bytes),
        ]);
    }
    let mut text = rows.finish("No remotes yet. Add one: coffer remote add NAME --path FOLDER");
    for remote in remotes.iter().filter(|remote| !remote.state_message.is_empty()) {
        text.push_str(&format!("\n{}: {}", id(&remote.name), plain(&remote.state_message)));
    }
    text
}

pub(crate) fn remote(remote: &v1::Remote, view: &View) -> String {
    pairs(&[
        ("name", id(&remote.name).to_owned()),
        ("display name", remote.display_name.clone()),
        ("state", words(remote.state().as_str_name())),
        ("", remote.state_message.clone()),
        ("since", time(remote.state_time.as_ref(), &view.zone)),
        ("location", location(remote).to_owned()),
        ("size", size_or_dash(remote.size_bytes)),
        ("free", size_or_dash(remote.free_bytes)),
        ("repository", remote.repository_id.clone()),
        (
            "chunk size",
            if remote.chunk_size_bytes == 0 { String::new() } else { size(u64::from(remote.chunk_size_bytes)) },
        ),
        ("most tasks", limit(remote.max_concurrent_tasks)),
    ])
}

/// `pool lab, tags prod, not no-backup, Running; 2 VMs by name`.
pub(crate) fn selection(selection: &v1::Selection) -> String {
    let ids = |names: &[String]| names.iter().map(|name| id(name)).collect::<Vec<_>>().join(", ");
    let mut smart = Vec::new();
    if !selection.pools.is_empty() {
        smart.push(format!("{} {}", if selection.pools.len() == 1 { "pool" } else { "pools" }, ids(&selection.pools)));
    }
    if !selection.tags.is_empty() {
        smart.push(format!("with tag {}", selection.tags.join(" or ")));
    }
    if !selection.exclude_tags.is_empty() {
        smart.push(format!("without tag {}", selection.exclude_tags.join(", ")));
    }
    if !selection.power_state.is_empty() {
        smart.push(selection.power_state.clone());
    }
    let mut parts = vec![smart.join(", ")];
    if !selection.vms.is_empty() {
        parts.push(format!("{} by name", count(selection.vms.len(), "VM")));
    }
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") }
}

/// The next time that any of these schedules fires.
fn next(schedules: &[&v1::Schedule], view: &View) -> String {
    let next = schedules.iter().filter_map(|schedule| instant(schedule.next_time.as_ref())).min();
    next.map_or_else(|| "-".to_owned(), |next| shown(next, &view.zone))
}

fn job_of(schedule: &str) -> &str {
    schedule.split_once("/schedules/").map_or(schedule, |(job, _)| job)
}

/// Jobs, with the schedules of all of them.
pub(crate) fn jobs(jobs: &[v1::Job], schedules: &[v1::Schedule], view: &View) -> String {
    let mut by_job: BTreeMap<&str, Vec<&v1::Schedule>> = BTreeMap::new();
    for schedule in schedules {
        by_job.entry(job_of(&schedule.name)).or_default().push(schedule);
    }
    let mut rows = Rows::new(&["NAME", "SELECTION", "REMOTES", ">SCHEDULES", "NEXT"], view.width);
    for job in jobs {
        let schedules = by_job.get(job.name.as_str()).map_or(&[][..], Vec::as_slice);
        rows.push([
            id(&job.name).to_owned(),
            job.selection.as_ref().map_or_else(|| "nothing".to_owned(), selection),
            job.remotes.iter().map(|remote| id(remote)).collect::<Vec<_>>().join(", "),
            schedules.len().to_string(),
            if job.paused { "paused".to_owned() } else { next(schedules, view) },
        ]);
    }
    rows.finish("No jobs yet. Create one: coffer job create NAME --pool POOL --remote REMOTE")
}

pub(crate) fn job(job: &v1::Job, schedules: &[v1::Schedule], view: &View) -> String {
    let vms = job.selection.iter().flat_map(|selection| &selection.vms);
    let pairs = pairs(&[
        ("name", id(&job.name).to_owned()),
        ("display name", job.display_name.clone()),
        ("selection", job.selection.as_ref().map_or_else(|| "nothing".to_owned(), selection)),
        (
            "VMs by name",
            vms.map(|vm| vm.trim_start_matches("pools/").replace("/vms/", "/")).collect::<Vec<_>>().join(", "),
        ),
        ("remotes", job.remotes.iter().map(|remote| id(remote)).collect::<Vec<_>>().join(", ")),
        ("at once", job.concurrency.to_string()),
        ("kept by hand", job.manual_retention.to_string()),
        ("attempts", job.max_attempts.to_string()),
        ("paused", if job.paused { "yes" } else { "" }.to_owned()),
        ("created", time(job.create_time.as_ref(), &view.zone)),
    ]);
    if schedules.is_empty() {
        return format!(
            "{pairs}\n\nNo schedules. Add one: coffer schedule add {} daily --cron '0 3 * * *'",
            id(&job.name)
        );
    }
    format!("{pairs}\n\n{}", self::schedules(schedules, view))
}

pub(crate) fn schedules(schedules: &[v1::Schedule], view: &View) -> String {
    let mut rows = Rows::new(&["JOB", "SCHEDULE", "CRON", "TIME ZONE", ">KEEPS", "NEXT", "LAST"], view.width);
    for schedule in schedules {
        rows.push([
            id(job_of(&schedule.name)).to_owned(),
            id(&schedule.name).to_owned(),
            schedule.cron.clone(),
            if schedule.time_zone.is_empty() { "UTC".to_owned() } else { schedule.time_zone.clone() },
            schedule.retention.to_string(),
            if schedule.paused { "paused".to_owned() } else { time(schedule.next_time.as_ref(), &view.zone) },
            time(schedule.last_time.as_ref(), &view.zone),
        ]);
    }
    rows.finish("No schedules yet. Add one: coffer schedule add JOB NAME --cron '0 3 * * *'")
}

/// How a restore point was made: `nightly/daily`, or `nightly by hand`.
fn made_by(point: &v1::RestorePoint) -> String {
    if point.schedule.is_empty() {
        format!("{} by hand", id(&point.job))
    } else {
        format!("{}/{}", id(&point.job), id(&point.schedule))
    }
}

fn verified(point: &v1::RestorePoint, view: &View) -> String {
    if point.damage.is_empty() { time(point.verified_time.as_ref(), &view.zone) } else { "DAMAGED".to_owned() }
}

pub(crate) fn points(points: &[v1::RestorePoint], view: &View) -> String {
    let mut rows = Rows::new(&["VM", "TIME", ">SIZE", ">ADDED", "MADE BY", "VERIFIED", "=RESTORE POINT"], view.width);
    for point in points {
        rows.push([
            point.vm_label.clone(),
            time(point.time.as_ref(), &view.zone),
            size(point.disk_bytes),
            size(point.added_bytes),
            made_by(point),
            verified(point, view),
            id(&point.name).to_owned(),
        ]);
    }
    rows.finish("No restore points.")
}

pub(crate) fn point(point: &v1::RestorePoint, view: &View) -> String {
    let pairs = pairs(&[
        ("restore point", id(&point.name).to_owned()),
        ("VM", format!("{} ({})", point.vm_label, point.vm_uuid)),
        ("pool", id(&point.pool).to_owned()),
        ("time", time(point.time.as_ref(), &view.zone)),
        ("remote", id(&point.remote).to_owned()),
        ("made by", made_by(point)),
        ("run", id(&point.run).to_owned()),
        ("size", size(point.disk_bytes)),
        ("added", size(point.added_bytes)),
        (
            "verified",
            if point.damage.is_empty() && point.verified_time.is_none() {
                "never".to_owned()
            } else {
                verified(point, view)
            },
        ),
        ("damage", point.damage.clone()),
        ("snapshot", format!("{} (of the restic repository)", point.snapshot_id)),
    ]);
    let mut rows = Rows::new(&["DEVICE", "DISK", ">SIZE", "PATH IN THE SNAPSHOT"], view.width);
    for disk in &point.disks {
        rows.push([disk.device.clone(), disk.label.clone(), size(disk.size_bytes), disk.path.clone()]);
    }
    format!("{pairs}\n\n{}", rows.finish("No disks."))
}

pub(crate) fn agents(agents: &[v1::Agent], view: &View) -> String {
    let mut rows = Rows::new(&["NAME", "STATE", "TASKS", "MACHINE", "VERSION", "SINCE", "LAST HEARD OF"], view.width);
    for agent in agents {
        rows.push([
            id(&agent.name).to_owned(),
            words(agent.state().as_str_name()),
            format!("{} of {}", agent.tasks, agent.capacity),
            agent.hostname.clone(),
            agent.version.clone(),
            time(agent.start_time.as_ref(), &view.zone),
            time(agent.seen_time.as_ref(), &view.zone),
        ]);
    }
    rows.finish("No agents have registered yet.")
}

#[cfg(test)]
mod tests;
