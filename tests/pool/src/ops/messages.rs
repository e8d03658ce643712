//! `message` and `task` calls.

use crate::config::Profile;
use crate::rpc::{Args, Cx, Methods};
use crate::value::{Failure, Outcome, Record, Value};
use crate::world::World;

pub(super) fn enter(table: &mut Methods) {
    table.add("message.create", "name:string priority:int cls:string obj_uuid:string body:string", create);
    table.add("message.destroy", "self:ref(message)", |cx, args| async move {
        cx.world.write(|db| db.delete("message", &args.text(0)));
        Ok(Value::Void)
    });
    table.add("message.get_since", "since:time", |cx, args| async move { Ok(since(&cx.world, &args.value(0), None)) });
    table.add("message.get", "cls:string obj_uuid:string since:time", |cx, args| async move {
        Ok(since(&cx.world, &args.value(2), Some((args.text(0), args.text(1)))))
    });
    table.add("task.create", "label:string description:string", create_task);
    table.add("task.destroy", "self:ref(task)", |cx, args| async move {
        cx.world.destroy_task(&args.text(0));
        Ok(Value::Void)
    });
    table.add("task.cancel", "task:ref(task)", |cx, args| async move { cx.world.cancel_task(&args.text(0)) });
    table.add("task.set_status", "self:ref(task) value:string", set_status);
    if table.profile() == Profile::V8_3 {
        table.add("task.set_result", "self:ref(task) value:string", |cx, args| set(cx, args, "result"));
        table.add("task.set_error_info", "self:ref(task) value:set", |cx, args| set(cx, args, "error_info"));
    }
}

/// Posts a message about an object.
pub(crate) fn post(world: &World, name: &str, priority: i64, class: &str, uuid: &str, body: &str) -> String {
    let record = Record::from([
        ("name".to_owned(), Value::str(name)),
        ("priority".to_owned(), Value::Int(priority)),
        ("cls".to_owned(), Value::str(class)),
        ("obj_uuid".to_owned(), Value::str(uuid)),
        ("timestamp".to_owned(), Value::now()),
        ("body".to_owned(), Value::str(body)),
    ]);
    world.write(|db| db.create("message", record))
}

async fn create(cx: Cx, args: Args) -> Outcome {
    let class = args.text(2);
    if !["VM", "Host", "SR", "Pool", "VMPP", "VMSS", "PVS_proxy", "VDI", "Certificate"].contains(&class.as_str()) {
        return Err(Failure::new("INVALID_VALUE", &["cls", &class]));
    }
    Ok(Value::str(post(&cx.world, &args.text(0), args.int(1), &class, &args.text(3), &args.text(4))))
}

fn since(world: &World, since: &Value, about: Option<(String, String)>) -> Value {
    let Value::Time(since) = since else { return Value::Map(Record::new()) };
    let wanted = |record: &Record| {
        let recent = matches!(record.get("timestamp"), Some(Value::Time(at)) if at >= since);
        let text = |key: &str| record.get(key).map(|v| v.as_str().to_owned()).unwrap_or_default();
        recent && about.as_ref().is_none_or(|(class, uuid)| text("cls") == *class && text("obj_uuid") == *uuid)
    };
    world.read(|db| {
        let found = db.rows("message").filter(|(_, record)| wanted(record));
        Value::Map(found.map(|(reference, record)| (reference.to_owned(), Value::Map(record.clone()))).collect())
    })
}

async fn create_task(cx: Cx, args: Args) -> Outcome {
    let here = cx.here().reference.clone();
    Ok(Value::str(cx.world.create_task(&args.text(0), &args.text(1), &here, true)))
}

async fn set_status(cx: Cx, args: Args) -> Outcome {
    let status = args.text(1).to_ascii_lowercase();
    if !["pending", "success", "failure", "cancelling", "cancelled"].contains(&status.as_str()) {
        return Err(Failure::new("INVALID_VALUE", &["status", &status]));
    }
    cx.world.write(|db| db.set("task", &args.text(0), "status", Value::str(status)));
    Ok(Value::Void)
}

async fn set(cx: Cx, args: Args, field: &'static str) -> Outcome {
    cx.world.write(|db| db.set("task", &args.text(0), field, args.value(1)));
    Ok(Value::Void)
}
