//! Who is let in, and what is said to who is not; and what lies where.

use coffer_store::{Error, EtcdOptions, EtcdStore, EtcdTls, StateStore, Txn, limits, list};
use etcd_client::GetOptions;

use crate::members::{Etcd, short};

async fn connect(endpoint: &str, tls: Option<EtcdTls>) -> Error {
    let options = EtcdOptions { tls, timeouts: short(), ..EtcdOptions::new([endpoint]) };
    EtcdStore::connect(options).await.expect_err("nobody should be let in")
}

#[tokio::test]
async fn certificates_that_do_not_fit_are_explained_with_what_to_do() {
    let etcd = Etcd::secured(1).await;
    let (endpoint, files) = (etcd.endpoint(0), etcd.certificates());
    for (tls, said) in [
        (files.client("other", Some("ours")), "give the one that signed the certificates of etcd"),
        (files.client("ours", Some("other")), "has signed for client authentication"),
        (files.client("ours", None), "client certificate"),
    ] {
        let error = connect(&endpoint, Some(tls.clone())).await;
        assert!(matches!(error, Error::Refused { .. }) && !error.is_retryable(), "{tls:?}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(said) && text.contains(&endpoint), "{tls:?}: {text}");
    }
    let plain = connect(&format!("http://{}", etcd.address(0)), None).await.to_string();
    assert!(plain.contains(etcd.address(0)), "{plain}");
    assert!(EtcdStore::connect(etcd.options()).await.is_ok());
}

#[tokio::test]
async fn certificate_files_that_cannot_be_used_are_named() {
    let etcd = Etcd::secured(1).await;
    let files = etcd.certificates();
    let mut absent = files.client("ours", Some("ours"));
    absent.ca = files.file("absent.pem");
    let mut empty = files.client("ours", Some("ours"));
    std::fs::write(files.file("empty.pem"), "not a certificate\n").unwrap();
    empty.ca = files.file("empty.pem");
    for (tls, name) in [(absent, "absent.pem"), (empty, "empty.pem")] {
        let error = connect(&etcd.endpoint(0), Some(tls)).await;
        assert!(matches!(&error, Error::Credential { path, .. } if path.ends_with(name)), "{error:?}");
    }
    let mut swapped = files.client("ours", Some("ours"));
    let identity = swapped.identity.as_mut().unwrap();
    std::mem::swap(&mut identity.cert, &mut identity.key);
    let error = connect(&etcd.endpoint(0), Some(swapped)).await;
    assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains("certificate"), "{error:?}");
    assert!(!error.to_string().contains("PRIVATE KEY"), "{error}");
}

#[tokio::test]
async fn endpoints_of_different_clusters_are_refused() {
    let (one, other) = (Etcd::plain(1).await, Etcd::plain(1).await);
    let options = EtcdOptions { timeouts: short(), ..EtcdOptions::new([one.endpoint(0), other.endpoint(0)]) };
    let error = EtcdStore::connect(options).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    assert!(error.to_string().contains(&one.endpoint(0)) && error.to_string().contains(&other.endpoint(0)), "{error}");
}

#[tokio::test]
async fn installations_with_different_prefixes_see_nothing_of_each_other_and_write_nowhere_else() {
    let etcd = Etcd::plain(1).await;
    let below = |prefix: &str| EtcdOptions { prefix: prefix.to_owned(), ..etcd.options() };
    let (berlin, bern) =
        (EtcdStore::connect(below("/c/berlin")).await.unwrap(), EtcdStore::connect(below("/c/bern")).await.unwrap());
    for (store, value) in [(&berlin, "1"), (&bern, "2")] {
        let txn = Txn::new().if_empty("/coffer").if_absent("k").put("/coffer/v1/k", value).put("k", value);
        assert!(store.txn(txn).await.unwrap().succeeded);
        let (entries, _) = list(store, "").await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["/coffer/v1/k", "k"]);
        assert!(entries.iter().all(|entry| entry.value == value));
    }
    let all = etcd.client(0).await.get("", Some(GetOptions::new().with_all_keys().with_keys_only())).await.unwrap();
    for key in all.kvs().iter().map(|entry| entry.key_str().unwrap()) {
        assert!(key.starts_with("/c/berlin/") || key.starts_with("/c/bern/"), "{key}");
    }
    assert_eq!(all.kvs().len(), 6, "two keys and one mark each");
}

#[tokio::test]
async fn a_transaction_at_every_limit_fits_below_the_longest_prefix() {
    let etcd = Etcd::plain(1).await;
    let prefix = format!("/{}", "p".repeat(limits::MAX_KEY_BYTES.min(127)));
    let store = EtcdStore::connect(EtcdOptions { prefix, ..etcd.options() }).await.unwrap();
    let most = limits::MAX_OPERATIONS;
    let names: Vec<String> = (0..most).map(|number| format!("{number:04}")).collect();
    let mut txn = names.iter().fold(Txn::new(), |txn, name| txn.if_absent(name).put(name, "").or_read(name));
    let used = most * 3 * (4 + limits::OPERATION_BYTES);
    txn.then.pop();
    let txn = txn.put("last", vec![7; limits::MAX_REQUEST_BYTES - used]);
    assert!(limits::check(&txn).is_ok());
    assert!(limits::check(&txn.clone().put("x", "")).is_err());
    assert!(store.txn(txn.clone()).await.unwrap().succeeded);
    let again = store.txn(txn).await.unwrap();
    assert_eq!((again.succeeded, again.reads.len(), again.reads.iter().flatten().count()), (false, most, most - 1));
}
