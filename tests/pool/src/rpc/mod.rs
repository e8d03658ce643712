//! From a raw call to its outcome: names, aliases, parameter checks, sessions, faults, `Async.` tasks.
//!
//! Knows no single operation: those are entered into the [`Methods`] table by `ops`, fields are served by `generic`.

mod generic;
mod method;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;

pub(crate) use method::{Args, Methods, Param};

use crate::db::{Type, decode_record};
use crate::value::{Failure, NULL, Outcome, Value};
use crate::wire::RawCall;
use crate::world::{Host, World};

/// Who calls, where, and how the call may be stopped.
#[derive(Clone, Debug)]
pub(crate) struct Cx {
    pub(crate) world: Arc<World>,
    /// Number of the host that serves the call.
    pub(crate) host: usize,
    pub(crate) session: String,
    /// The key of this call in `current_operations`; a task's reference when there is one.
    pub(crate) task: String,
    /// Whether `task` has a record.
    pub(crate) has_task: bool,
    pub(crate) cancel: CancellationToken,
}

impl Cx {
    /// A call without a task of its own.
    pub(crate) fn new(world: &Arc<World>, host: usize, session: &str) -> Self {
        Self {
            world: Arc::clone(world),
            host,
            session: session.to_owned(),
            task: format!("OpaqueRef:{}", uuid::Uuid::new_v4()),
            has_task: false,
            cancel: CancellationToken::new(),
        }
    }

    /// The same call inside a task.
    pub(crate) fn in_task(mut self, task: &str) -> Self {
        self.cancel = self.world.task_token(task);
        task.clone_into(&mut self.task);
        self.has_task = true;
        self
    }

    pub(crate) fn here(&self) -> &Host {
        self.world.hosts.get(self.host).expect("calls are served by a host of the pool")
    }

    /// A point at which the operation can be stopped.
    pub(crate) fn checkpoint(&self) -> Outcome<()> {
        if self.cancel.is_cancelled() { Err(Failure::new("TASK_CANCELLED", &[&self.task])) } else { Ok(()) }
    }

    pub(crate) fn progress(&self, part: f64) {
        if self.has_task {
            self.world.task_progress(&self.task, part);
        }
    }
}

/// What goes back to the client.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) outcome: Outcome,
    /// Left out of the status struct in XML-RPC.
    pub(crate) bare: bool,
    /// The connection closes instead.
    pub(crate) unanswered: bool,
}

/// Carries out a call that came to a host.
pub(crate) async fn dispatch(world: &Arc<World>, methods: &Arc<Methods>, host: usize, call: RawCall) -> Reply {
    let (name, asynchronous) = match call.method.strip_prefix("Async.") {
        Some(rest) => (rest.to_owned(), true),
        None => (alias(world, &call.method), false),
    };
    world.tally.call(&name);
    let faults = world.faults.call(&name);
    if let Some(cleared) = faults.hang {
        tokio::select! { () = cleared.cancelled() => {}, () = world.stop.cancelled() => {} }
    }
    let delay = faults.delay.unwrap_or_default();
    let bare = name == "system.listMethods";
    let outcome = if asynchronous {
        carry_out(world, methods, host, &name, call, Some(Late { delay, failure: faults.error })).await
    } else {
        tokio::time::sleep(delay).await;
        match faults.error {
            Some(failure) => Err(failure),
            None => carry_out(world, methods, host, &name, call, None).await,
        }
    };
    if let Err(failure) = &outcome {
        world.tally.failure(&failure.code);
        tracing::debug!(method = name, %failure, "a call failed");
    }
    world.durable().await;
    Reply { outcome, bare, unanswered: faults.unanswered }
}

/// `VM_guest_metrics_get_record` and `task_create` mean the same with a dot.
fn alias(world: &World, name: &str) -> String {
    if name.contains('.') {
        return name.to_owned();
    }
    let classes: Vec<String> = world.read(|db| db.schema().classes().map(|c| c.name.clone()).collect());
    let known = |class: &str| classes.iter().any(|c| c == class) || ["event", "system"].contains(&class);
    let split = name.match_indices('_').map(|(at, _)| name.split_at(at)).rfind(|(class, _)| known(class));
    split.map_or_else(|| name.to_owned(), |(class, rest)| format!("{class}.{}", rest.trim_start_matches('_')))
}

/// What the task of an `Async.` call meets.
#[derive(Debug, Default)]
struct Late {
    delay: Duration,
    failure: Option<Failure>,
}

async fn carry_out(
    world: &Arc<World>,
    methods: &Arc<Methods>,
    host: usize,
    name: &str,
    call: RawCall,
    late: Option<Late>,
) -> Outcome {
    let asynchronous = late.is_some();
    if name == "system.listMethods" {
        return Ok(Value::set(names(world, methods)));
    }
    let unknown = || Failure::new("MESSAGE_METHOD_UNKNOWN", &[&call.method]);
    let operation = methods.get(name);
    let field =
        if operation.is_none() && !asynchronous { world.read(|db| generic::resolve(db.schema(), name)) } else { None };
    let params: &[Param] = match (&operation, &field) {
        (Some(operation), _) => &operation.params,
        (None, Some(field)) => &field.params,
        (None, None) => return Err(unknown()),
    };
    if name.starts_with("system.") || name.starts_with("session.slave_local") {
        // answered by any host, without a session
    } else if world.coordinator().number != host {
        return Err(Failure::new("HOST_IS_SLAVE", &[&world.coordinator().address]));
    }
    let class = name.split_once('.').map_or(name, |(class, _)| class);
    if asynchronous && (["session", "event", "task", "blob", "data_source"].contains(&class) || name.contains(".get_"))
    {
        return Err(unknown());
    }
    let needs_session = operation.as_ref().is_none_or(|o| o.session);
    let offset = usize::from(needs_session);
    let least = params.iter().filter(|p| p.default.is_none()).count() + offset;
    let most = params.len() + offset;
    if !(least..=most).contains(&call.params.len()) {
        let (expected, received) = (most.to_string(), call.params.len().to_string());
        return Err(Failure::new("MESSAGE_PARAMETER_COUNT_MISMATCH", &[&call.method, &expected, &received]));
    }
    let session = match call.params.first().filter(|_| needs_session) {
        None => String::new(),
        Some(Json::String(session)) => session.clone(),
        Some(_) => return Err(Failure::new("FIELD_TYPE_ERROR", &["session_id"])),
    };
    let ended = if needs_session { Some(world.session(&session)?) } else { None };
    let given = call.params.get(offset..).unwrap_or_default();
    let args = Args::new(world.read(|db| decode(db, params, given))?);
    let cx = Cx::new(world, host, &session);
    drop(ended);
    match (operation, field) {
        (Some(operation), _) if asynchronous => {
            let Late { delay, failure: injected } = late.unwrap_or_default();
            let here = cx.here().reference.clone();
            let task = world.create_task(&format!("Async.{name}"), "", &here, operation.cancellable);
            let cx = cx.in_task(&task);
            let (world, finished) = (Arc::clone(world), task.clone());
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let outcome = match injected {
                    Some(failure) => Err(failure),
                    None => (operation.run)(cx, args).await,
                };
                if let Err(failure) = &outcome {
                    world.tally.failure(&failure.code);
                }
                world.finish_task(&finished, &outcome);
            });
            Ok(Value::str(task))
        }
        (Some(operation), _) => (operation.run)(cx, args).await,
        (None, Some(field)) => field.run(&cx, &args),
        (None, None) => Err(unknown()),
    }
}

/// Checks the parameters' types; an object that is meant must exist, unless it is `NULL` and not the first.
fn decode(db: &crate::db::Db, params: &[Param], given: &[Json]) -> Outcome<Vec<Value>> {
    let mut values = Vec::with_capacity(params.len());
    for (at, param) in params.iter().enumerate() {
        let wrong = |name: &str| Failure::new("FIELD_TYPE_ERROR", &[name]);
        let value = match (given.get(at), &param.kind, &param.default) {
            (None, _, Some(default)) => default.clone(),
            (None, _, None) => return Err(wrong(&param.name)),
            (Some(json), Type::Rec(class), _) => {
                let class = db.schema().class(class).ok_or_else(|| wrong(&param.name))?;
                decode_record(class, json).map_err(|field| wrong(&field))?
            }
            (Some(json), kind, _) => kind.decode(json).ok_or_else(|| wrong(&param.name))?,
        };
        if let Type::Ref(class) = &param.kind {
            let reference = value.as_str();
            let optional = at > 0 && reference == NULL;
            if !optional && !class.is_empty() && class != "session" && !db.exists(class, reference) {
                return Err(Failure::handle_invalid(class, reference));
            }
        }
        values.push(value);
    }
    Ok(values)
}

/// Every method's name, for `system.listMethods`.
fn names(world: &World, methods: &Methods) -> Vec<String> {
    let mut names: Vec<String> = methods.names().map(str::to_owned).collect();
    names.extend(world.read(|db| generic::names(db.schema())));
    names.sort();
    names.dedup();
    names
}
