//! The HTTP layer's particulars.

use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Api, pool};

#[tokio::test]
async fn heads_above_1024_bytes_and_unknown_paths_and_methods_are_refused() {
    let pool = pool(1).await;
    let api = Api::of(&pool, 0);
    let long = format!("GET / HTTP/1.1\r\ncookie: {}\r\n\r\n", "x".repeat(1024));
    assert_eq!(api.exchange(long.as_bytes()).await.unwrap().status(), 431);
    assert_eq!(api.request("GET", "/nothing", b"").await.status(), 403);
    assert_eq!(api.exchange(b"BREW / HTTP/1.1\r\n\r\n").await.unwrap().status(), 501);
    assert_eq!(api.request("GET", "/", b"").await.status(), 200);
}

#[tokio::test]
async fn calls_need_a_known_length_of_at_most_300_kib() {
    let pool = pool(1).await;
    let api = Api::of(&pool, 0);
    let chunked = b"POST /jsonrpc HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(api.exchange(chunked).await.unwrap().status(), 400);
    let large = b"POST /jsonrpc HTTP/1.1\r\ncontent-length: 307201\r\n\r\n";
    assert_eq!(api.exchange(large).await.unwrap().status(), 413);
}

#[tokio::test]
async fn a_connection_serves_several_calls_and_closes_when_asked() {
    let pool = pool(1).await;
    let mut stream = Api::of(&pool, 0).connect().await.unwrap();
    let body = json!({"jsonrpc": "2.0", "method": "system.listMethods", "params": [], "id": "a"}).to_string();
    for (connection, kept) in [("keep-alive", true), ("keep-alive", true), ("close", false)] {
        let head =
            format!("POST /jsonrpc HTTP/1.1\r\nconnection: {connection}\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(answer).unwrap();
        assert!(head.contains("content-type: application/json\r\n"), "{head}");
        assert!(head.contains(if kept { "connection: keep-alive" } else { "connection: close" }), "{head}");
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut content = vec![0; length];
        stream.read_exact(&mut content).await.unwrap();
        let methods: Json = serde_json::from_slice(&content).unwrap();
        assert!(methods["result"].as_array().unwrap().contains(&json!("VM.get_all_records")));
    }
    let mut rest = Vec::new();
    assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0);
}

#[tokio::test]
async fn xml_rpc_is_answered_at_the_root_and_at_rpc2() {
    let pool = pool(1).await;
    let api = Api::of(&pool, 0);
    let call = "<?xml version='1.0'?><methodCall><methodName>session.login_with_password</methodName><params>\
        <param><value><string>root</string></value></param><param><value>simulated</value></param></params></methodCall>";
    for path in ["/", "/RPC2"] {
        let answer = api.request("POST", path, call.as_bytes()).await;
        assert_eq!(answer.header("content-type"), Some("text/xml"));
        let text = String::from_utf8(answer.body).unwrap();
        assert!(text.contains("<name>Status</name><value>Success</value>") && text.contains("OpaqueRef:"), "{text}");
    }
    assert_eq!(api.request("POST", "/RPC2", b"<methodCall>").await.status(), 500);
}

#[tokio::test]
async fn transfers_without_a_session_are_401_and_fail_their_task() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let answer = api.request("GET", "/export_raw_vdi/?vdi=x&session_id=OpaqueRef:no", b"").await;
    assert_eq!(answer.status(), 401);
    assert!(answer.header("www-authenticate").unwrap().starts_with("Basic realm="));
    let task = api.task().await;
    api.request("GET", &format!("/export_raw_vdi/?vdi=x&session_id=OpaqueRef:no&task_id={task}"), b"").await;
    assert_eq!(api.wait(&task).await["error_info"], json!(["SESSION_AUTHENTICATION_FAILED"]));
    let basic = b"GET /pool/xmldbdump HTTP/1.1\r\nauthorization: Basic cm9vdDpzaW11bGF0ZWQ=\r\n\r\n";
    let answer = api.exchange(basic).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(String::from_utf8(answer.body).unwrap().contains("<table name=\"VM\">"));
}
