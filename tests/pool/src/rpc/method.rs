//! The table of operations: name, parameters, code.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value as Json;

use super::Cx;
use crate::config::Profile;
use crate::db::{Type, parse_type};
use crate::value::{Outcome, Record, Value};

/// One parameter after the session.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) name: String,
    pub(crate) kind: Type,
    pub(crate) default: Option<Value>,
}

/// Checked parameters, by position.
#[derive(Clone, Debug)]
pub(crate) struct Args(Vec<Value>);

impl Args {
    pub(crate) fn new(values: Vec<Value>) -> Self {
        Self(values)
    }

    pub(crate) fn value(&self, at: usize) -> Value {
        self.0.get(at).cloned().unwrap_or(Value::Void)
    }

    /// Text or reference.
    pub(crate) fn text(&self, at: usize) -> String {
        self.0.get(at).map(|v| v.as_str().to_owned()).unwrap_or_default()
    }

    pub(crate) fn flag(&self, at: usize) -> bool {
        self.0.get(at).is_some_and(Value::as_bool)
    }

    pub(crate) fn int(&self, at: usize) -> i64 {
        self.0.get(at).map_or(0, Value::as_int)
    }

    pub(crate) fn float(&self, at: usize) -> f64 {
        if let Some(Value::Float(number)) = self.0.get(at) { *number } else { 0.0 }
    }

    pub(crate) fn strings(&self, at: usize) -> Vec<String> {
        self.0.get(at).map(Value::strings).unwrap_or_default()
    }

    pub(crate) fn record(&self, at: usize) -> Record {
        self.0.get(at).map(Value::as_map).unwrap_or_default()
    }
}

type Run = Box<dyn Fn(Cx, Args) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// One operation.
pub(crate) struct Method {
    pub(crate) params: Vec<Param>,
    /// Whether the first parameter is the session.
    pub(crate) session: bool,
    /// Whether its task can be cancelled.
    pub(crate) cancellable: bool,
    pub(crate) run: Run,
}

/// All operations of a profile.
pub(crate) struct Methods {
    profile: Profile,
    table: BTreeMap<String, Arc<Method>>,
}

impl std::fmt::Debug for Methods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.table.keys()).finish()
    }
}

impl Methods {
    pub(crate) fn new(profile: Profile) -> Self {
        Self { profile, table: BTreeMap::new() }
    }

    pub(crate) fn profile(&self) -> Profile {
        self.profile
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Method>> {
        self.table.get(name).cloned()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.table.keys().map(String::as_str)
    }

    /// Enters an operation. Signature: `vm:ref(VM) name:string ignore:set(ref(VDI))=[]`, defaults in JSON.
    pub(crate) fn add<F, Fut>(&mut self, name: &str, signature: &str, run: F)
    where
        F: Fn(Cx, Args) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        self.enter(name, signature, true, false, run);
    }

    /// As [`add`](Self::add), for operations whose task can be cancelled.
    pub(crate) fn add_cancellable<F, Fut>(&mut self, name: &str, signature: &str, run: F)
    where
        F: Fn(Cx, Args) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        self.enter(name, signature, true, true, run);
    }

    /// As [`add`](Self::add), for calls that come before there is a session.
    pub(crate) fn add_open<F, Fut>(&mut self, name: &str, signature: &str, run: F)
    where
        F: Fn(Cx, Args) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        self.enter(name, signature, false, false, run);
    }

    fn enter<F, Fut>(&mut self, name: &str, signature: &str, session: bool, cancellable: bool, run: F)
    where
        F: Fn(Cx, Args) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let params = signature.split_whitespace().map(parse_param).collect();
        let run: Run = Box::new(move |cx, args| run(cx, args).boxed());
        self.table.insert(name.to_owned(), Arc::new(Method { params, session, cancellable, run }));
    }
}

fn parse_param(text: &str) -> Param {
    let (name, rest) = text.split_once(':').expect("signatures of this crate name their types");
    let (kind, default) = rest.split_once('=').map_or((rest, None), |(kind, default)| (kind, Some(default)));
    let kind = parse_type(kind);
    let default = default.map(|text| {
        let plain = matches!(kind, Type::Str | Type::Ref(_));
        let json = if plain { Json::from(text) } else { serde_json::from_str(text).unwrap_or_default() };
        kind.decode(&json).expect("defaults of this crate have their parameter's type")
    });
    Param { name: name.to_owned(), kind, default }
}
