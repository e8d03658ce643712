//! `event.from` over the wire.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use simpool::control::Fault;
use tokio::io::AsyncWriteExt;

use crate::support::{Api, pool, text, vm};

async fn from(api: &Api, classes: &[&str], token: &str, timeout: f64) -> Json {
    api.call("event.from", &[json!(classes), json!(token), json!(timeout)]).await.unwrap()
}

fn seen(answer: &Json) -> Vec<(String, String)> {
    let events = answer["events"].as_array().unwrap();
    events.iter().map(|e| (text(&e["class"]), text(&e["operation"]))).collect()
}

#[tokio::test]
async fn a_listener_sees_everything_once_then_changes_then_nothing() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let info = vm(pool.control(), "", 0).await;
    let all = from(&api, &["*"], "", 5.0).await;
    assert!(seen(&all).iter().all(|(_, operation)| operation == "add"));
    assert!(!seen(&all).iter().any(|(class, _)| class == "session"));
    assert_eq!(all["valid_ref_counts"]["vm"], json!(3), "dom0, a template and the VM");
    let token = text(&all["token"]);
    let started = Instant::now();
    assert!(seen(&from(&api, &["vm", "VDI"], &token, 0.2).await).is_empty());
    assert!(started.elapsed() >= Duration::from_millis(200));
    let waiting = {
        let (api, token) = (api.clone(), token.clone());
        tokio::spawn(async move { from(&api, &["vm", "nonsense"], &token, 20.0).await })
    };
    let mut stream = api.connect().await.unwrap();
    let rename = |name: &str| {
        let params = json!([api.session, info.vm.reference, name]);
        let call = json!({"method": "VM.set_name_label", "params": params, "id": 0}).to_string();
        format!("POST /jsonrpc HTTP/1.1\r\ncontent-length: {}\r\n\r\n{call}", call.len())
    };
    stream.write_all((rename("one") + &rename("two")).as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let answer = waiting.await.unwrap();
    assert_eq!(seen(&answer), [("vm".to_owned(), "mod".to_owned())], "states within 50 ms are one event");
    assert_eq!(answer["events"][0]["snapshot"]["name_label"], "two");
    assert!(answer["events"][0]["id"].is_string());
}

#[tokio::test]
async fn deletions_have_no_snapshot_and_barriers_come_through() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let task = api.task().await;
    let before = text(&from(&api, &["task"], "", 1.0).await["token"]);
    api.call("task.set_status", &[json!(task), json!("success")]).await.unwrap();
    api.call("task.destroy", &[json!(task)]).await.unwrap();
    let gone = from(&api, &[&format!("task/{task}")], &before, 5.0).await;
    assert_eq!(seen(&gone), [("task".to_owned(), "del".to_owned())]);
    assert!(gone["events"][0].get("snapshot").is_none());
    let pool_ref = text(&api.call("pool.get_all", &[]).await.unwrap()[0]);
    let token = text(&api.call("event.inject", &[json!("pool"), json!(pool_ref)]).await.unwrap());
    assert_eq!(seen(&from(&api, &["pool"], &token, 5.0).await), [("pool".to_owned(), "mod".to_owned())]);
    let bad = api.call("event.from", &[json!(["*"]), json!("nonsense"), json!(1)]).await.unwrap_err();
    assert_eq!(bad, ["EVENT_FROM_TOKEN_PARSE_FAILURE", "nonsense"]);
}

#[tokio::test]
async fn logout_ends_a_waiting_listener_and_lost_events_never_come() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let other = Api::login(&pool).await;
    let token = text(&from(&api, &["task"], "", 1.0).await["token"]);
    let waiting = {
        let (other, token) = (other.clone(), token.clone());
        tokio::spawn(async move { other.call("event.from", &[json!(["vm"]), json!(token), json!(60.0)]).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    other.call("session.logout", &[]).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err()[0], "SESSION_INVALID");
    let lost = Fault::LoseEvents { class: "task".to_owned(), operation: String::new(), nth: 1, times: 1 };
    pool.control().fault(lost).await.unwrap();
    let task = api.task().await;
    let answer = from(&api, &["task"], &token, 0.3).await;
    assert!(seen(&answer).is_empty());
    assert_eq!(api.get("task.get_status", &task).await, "pending", "the record is right when read");
}
