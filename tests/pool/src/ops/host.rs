//! `host`, `pool` and `network` calls.

use crate::rpc::{Args, Cx, Methods};
use crate::value::{Failure, Outcome, Value};
use crate::world::World;

pub(super) fn enter(table: &mut Methods) {
    table.add("host.get_server_certificate", "host:ref(host)", |cx, args| async move {
        let host = cx.world.host(&args.text(0)).ok_or_else(|| Failure::handle_invalid("host", &args.text(0)))?;
        Ok(Value::str(host.identity().pem))
    });
    table.add("host.get_servertime", "host:ref(host)", |_, _| async { Ok(Value::now()) });
    table.add("host.call_plugin", "host:ref(host) plugin:string fn:string args:map", |_, args| async move {
        Err(Failure::new("XENAPI_MISSING_PLUGIN", &[&args.text(1)]))
    });
    table.add("host.compute_free_memory", "host:ref(host)", |cx, args| async move {
        Ok(cx.world.read(|db| {
            let metrics = db.text("host", &args.text(0), "metrics");
            Value::Int(db.int("host_metrics", &metrics, "memory_free"))
        }))
    });
    table.add("host.disable", "host:ref(host)", |cx, args| set_enabled(cx, args, false));
    table.add("host.enable", "host:ref(host)", |cx, args| set_enabled(cx, args, true));
    table.add("pool.designate_new_master", "host:ref(host)", |cx, args| async move {
        let host = args.text(0);
        if !cx.world.host(&host).is_some_and(crate::world::Host::is_up) {
            return Err(Failure::new("HOST_OFFLINE", &[&host]));
        }
        cx.world.write(|db| {
            let pool = db.references("pool").pop().unwrap_or_default();
            db.set("pool", &pool, "master", Value::str(host));
        });
        Ok(Value::Void)
    });
    table.add("network.add_purpose", "self:ref(network) value:string", add_purpose);
    table.add("network.remove_purpose", "self:ref(network) value:string", remove_purpose);
    table.add("network.create", "record:rec(network)", |cx, args| async move {
        let record = super::vdi::only(
            args.record(0),
            &["name_label", "name_description", "MTU", "other_config", "bridge", "managed", "tags"],
        );
        Ok(Value::str(cx.world.write(|db| db.create("network", record))))
    });
    table.add("network.destroy", "self:ref(network)", |cx, args| async move {
        let network = args.text(0);
        cx.world.write(|db| {
            if let Some(vif) = db.list("network", &network, "VIFs").first() {
                return Err(Failure::new("NETWORK_CONTAINS_VIF", &[vif]));
            }
            if let Some(pif) = db.list("network", &network, "PIFs").first() {
                return Err(Failure::new("NETWORK_CONTAINS_PIF", &[pif]));
            }
            db.delete("network", &network);
            Ok(Value::Void)
        })
    });
}

async fn set_enabled(cx: Cx, args: Args, enabled: bool) -> Outcome {
    cx.world.write(|db| db.set("host", &args.text(0), "enabled", Value::Bool(enabled)));
    Ok(Value::Void)
}

async fn add_purpose(cx: Cx, args: Args) -> Outcome {
    let (network, purpose) = (args.text(0), args.text(1));
    if !["nbd", "insecure_nbd"].contains(&purpose.as_str()) {
        return Err(Failure::new("INVALID_VALUE", &["purpose", &purpose]));
    }
    cx.world.write(|db| {
        let other = if purpose == "nbd" { "insecure_nbd" } else { "nbd" };
        for any in db.references("network") {
            if db.list("network", &any, "purpose").iter().any(|p| p == other) {
                return Err(Failure::new("NETWORK_INCOMPATIBLE_PURPOSES", &[&purpose, other]));
            }
        }
        let mut purposes = db.list("network", &network, "purpose");
        if !purposes.contains(&purpose) {
            purposes.push(purpose.clone());
        }
        db.set("network", &network, "purpose", Value::set(purposes));
        Ok(())
    })?;
    apply_nbd_modes(&cx.world);
    Ok(Value::Void)
}

async fn remove_purpose(cx: Cx, args: Args) -> Outcome {
    let (network, purpose) = (args.text(0), args.text(1));
    cx.world.write(|db| {
        let purposes = db.list("network", &network, "purpose").into_iter().filter(|p| *p != purpose);
        db.set("network", &network, "purpose", Value::set(purposes.collect::<Vec<_>>()));
    });
    apply_nbd_modes(&cx.world);
    Ok(Value::Void)
}

/// Hosts' NBD services follow the purposes of networks.
fn apply_nbd_modes(world: &World) {
    for host in &world.hosts {
        if let Some(server) = host.nbd.get() {
            server.set_mode(crate::nbd::mode(world, host));
        }
    }
}
