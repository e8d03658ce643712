//! `session`, `event` and `system` calls.

use crate::events;
use crate::rpc::{Args, Cx, Methods};
use crate::value::{Failure, Outcome, Value};

pub(super) fn enter(table: &mut Methods) {
    table.add_open(
        "session.login_with_password",
        "uname:string pwd:string version:string=1.1 originator:string=",
        login,
    );
    table.add_open("session.slave_local_login_with_password", "uname:string pwd:string", |_, _| async {
        Err(Failure::new("RBAC_PERMISSION_DENIED", &["session.slave_local_login_with_password", "No permission"]))
    });
    table.add("session.logout", "", |cx, _| async move {
        cx.world.logout(&cx.session);
        Ok(Value::Void)
    });
    table.add("session.get_all_subject_identifiers", "", |_, _| async { Ok(Value::Set(Vec::new())) });
    table.add("event.from", "classes:set token:string timeout:float", event_from);
    table.add("event.inject", "class:string ref:string", |cx, args| async move {
        events::inject(&cx, &args.text(0), &args.text(1))
    });
    table.add_open("system.listMethods", "", |_, _| async { Ok(Value::Set(Vec::new())) });
}

async fn login(cx: Cx, args: Args) -> Outcome {
    cx.world.login(&args.text(0), &args.text(1), &args.text(3)).await.map(Value::Str)
}

async fn event_from(cx: Cx, args: Args) -> Outcome {
    events::from(&cx, &args.strings(0), &args.text(1), args.float(2)).await
}
