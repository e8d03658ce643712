//! Passwords in the store are sealed with a key that is not in it.

use std::path::Path;
use std::sync::Arc;

use coffer_controller::{Controller, Error, Handle, SEALING_KEY_FILE, ServeOptions, Timings};
use coffer_proto::v1;
use coffer_store::{MemoryStore, StateStore};
use tempfile::TempDir;

use crate::support::{Agent, World};

const CANARY: &str = "canary c0ffee correct horse battery";

async fn serve(store: &Arc<dyn StateStore>, folder: &Path, forget_passwords: bool) -> Result<Handle, Error> {
    let options =
        ServeOptions { timings: Timings::short(), forget_passwords, ..ServeOptions::new(Arc::clone(store), folder) };
    Controller::serve(options).await
}

/// Everything in the store.
async fn dump(store: &Arc<dyn StateStore>) -> Vec<(String, String)> {
    let (entries, _) = coffer_store::list(&**store, "/").await.unwrap();
    entries.into_iter().map(|entry| (entry.key, String::from_utf8_lossy(&entry.value).into_owned())).collect()
}

/// A world with a remote whose password is the canary.
async fn world(store: &Arc<dyn StateStore>) -> World {
    let folder = TempDir::new().unwrap();
    let world = World { controller: serve(store, folder.path(), false).await.unwrap(), folder, store: store.clone() };
    let path = "/srv/nas".to_owned();
    let remote = v1::Remote {
        location: Some(v1::remote::Location::Local(v1::LocalLocation { path })),
        password: CANARY.to_owned(),
        ..Default::default()
    };
    let request = v1::CreateRemoteRequest { remote_id: "nas".to_owned(), remote: Some(remote), ..Default::default() };
    world.remotes().create_remote(request).await.unwrap();
    world
}

/// The same world under a controller that begins anew.
async fn restarted(world: World, store: &Arc<dyn StateStore>, forget_passwords: bool) -> Result<World, Error> {
    let World { controller, folder, store: _ } = world;
    controller.shutdown().await?;
    Ok(World { controller: serve(store, folder.path(), forget_passwords).await?, folder, store: store.clone() })
}

/// The password that an agent is told.
async fn told(world: &World) -> String {
    let agent = Agent::start(world, "rack-1", 0).await;
    agent.told_of.into_iter().map(|remote| remote.password).collect()
}

#[tokio::test]
async fn a_password_is_nowhere_in_the_store_and_whole_at_the_agent() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
    let world = world(&store).await;
    assert_eq!(told(&world).await, CANARY);
    let dump = dump(&store).await;
    assert!(dump.iter().any(|(key, _)| key.contains("secret/remote/nas")), "{dump:?}");
    let shown = |text: &str| text.contains("canary") || text.contains("c0ffee") || text.contains(&hex(CANARY));
    assert!(!dump.iter().any(|(key, value)| shown(key) || shown(value)), "{dump:?}");
    let world = restarted(world, &store, false).await.unwrap();
    assert_eq!(told(&world).await, CANARY);
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_controller_without_the_key_does_not_begin_and_with_a_copy_of_it_does() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
    let world = world(&store).await;
    let other = TempDir::new().unwrap();
    let refused = serve(&store, other.path(), false).await.unwrap_err();
    assert!(matches!(refused, Error::SealingKeyMissing { .. }), "{refused}");
    // With a key of its own it is no better off.
    std::fs::write(other.path().join(SEALING_KEY_FILE), "0".repeat(64)).unwrap();
    let refused = serve(&store, other.path(), false).await.unwrap_err();
    assert!(matches!(refused, Error::SealingKeyMissing { .. }), "{refused}");
    std::fs::copy(world.folder.path().join(SEALING_KEY_FILE), other.path().join(SEALING_KEY_FILE)).unwrap();
    let second = World { controller: serve(&store, other.path(), false).await.unwrap(), folder: other, store };
    assert_eq!(told(&second).await, CANARY);
}

#[tokio::test]
async fn a_new_key_in_front_seals_everything_anew_and_the_old_one_can_go() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
    let world = world(&store).await;
    let before = dump(&store).await;
    let file = world.folder.path().join(SEALING_KEY_FILE);
    let (old, new) = (std::fs::read_to_string(&file).unwrap(), "a1".repeat(32));
    // First behind, so that every controller can open what the first to begin anew will seal.
    std::fs::write(&file, format!("{old}{new}\n")).unwrap();
    let world = restarted(world, &store, false).await.unwrap();
    assert_eq!(secrets(&dump(&store).await), secrets(&before));
    std::fs::write(&file, format!("{new}\n{old}")).unwrap();
    let world = restarted(world, &store, false).await.unwrap();
    assert_ne!(secrets(&dump(&store).await), secrets(&before));
    std::fs::write(&file, new).unwrap();
    let world = restarted(world, &store, false).await.unwrap();
    assert_eq!(told(&world).await, CANARY);
}

fn secrets(dump: &[(String, String)]) -> Vec<&(String, String)> {
    dump.iter().filter(|(key, _)| key.contains("secret/")).collect()
}

#[tokio::test]
async fn when_the_key_is_lost_all_but_passwords_is_kept_on_request() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
    let world = world(&store).await;
    std::fs::remove_file(world.folder.path().join(SEALING_KEY_FILE)).unwrap();
    let world = restarted(world, &store, true).await.unwrap();
    let remotes = world.remotes().list_remotes(v1::ListRemotesRequest::default()).await.unwrap().into_inner().remotes;
    assert_eq!(remotes.len(), 1);
    assert_eq!(told(&world).await, "");
    let update = v1::UpdateRemoteRequest {
        remote: Some(v1::Remote { password: CANARY.to_owned(), ..remotes[0].clone() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["password".to_owned()] }),
    };
    world.remotes().update_remote(update).await.unwrap();
    assert_eq!(told(&world).await, CANARY);
}

#[tokio::test]
async fn a_damaged_password_is_told_and_nothing_is_made_up() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
    let world = world(&store).await;
    let key = dump(&store).await.into_iter().find(|(key, _)| key.contains("secret/remote/nas")).unwrap().0;
    let file = world.folder.path().join(SEALING_KEY_FILE);
    let old = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{}\n{old}", "b2".repeat(32))).unwrap();
    // A password of another owner in its place does not open as this one's.
    let value = store.get(&key).await.unwrap().unwrap().value;
    let mut txn = coffer_store::Txn::new();
    let moved = key.replace("remote/nas", "remote/other");
    txn.then.push(coffer_store::Op::Put { key: moved, value, lease: coffer_store::PutLease::None });
    store.txn(txn).await.unwrap();
    let refused = restarted(world, &store, false).await.map(drop).unwrap_err();
    assert!(matches!(refused, Error::Unsealed { .. }), "{refused}");
}
