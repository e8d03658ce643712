//! JSON-RPC 1.0 and 2.0 as hosts speak it: no batches, no notifications, status 200 always, `error.code` always 1.

use serde_json::{Value as Json, json};

use super::RawCall;
use crate::value::{Outcome, Value};

/// What an answer must repeat.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Envelope {
    second: bool,
    id: Json,
}

/// Reads a request; the error says what is wrong with it.
pub(crate) fn parse(body: &[u8]) -> Result<(Envelope, RawCall), String> {
    let request: Json = serde_json::from_slice(body).map_err(|e| format!("Json_parse({e})"))?;
    let second = request.get("jsonrpc").and_then(Json::as_str) == Some("2.0");
    let id = request.get("id").filter(|id| id.is_i64() || id.is_string()).cloned();
    let id = id.ok_or("Malformed_method_request(id)")?;
    let method = request.get("method").and_then(Json::as_str).ok_or("Malformed_method_request(method)")?;
    let params = match request.get("params") {
        Some(Json::Array(params)) => params.clone(),
        _ => return Err("Malformed_method_request(params)".to_owned()),
    };
    Ok((Envelope { second, id }, RawCall { method: method.to_owned(), params }))
}

/// Writes an answer.
pub(crate) fn render(envelope: &Envelope, outcome: &Outcome) -> String {
    let id = &envelope.id;
    let answer = match (outcome, envelope.second) {
        (Ok(value), true) => json!({ "jsonrpc": "2.0", "result": value.to_json(), "id": id }),
        (Ok(value), false) => json!({ "result": value.to_json(), "error": null, "id": id }),
        (Err(failure), true) => {
            let error = json!({ "code": 1, "message": failure.code, "data": failure.params });
            json!({ "jsonrpc": "2.0", "error": error, "id": id })
        }
        (Err(failure), false) => json!({ "result": null, "error": failure.list(), "id": id }),
    };
    answer.to_string()
}

/// The answer of `system.listMethods` is the same in this encoding as any other set.
pub(crate) fn refusal(text: &str) -> String {
    let outcome: Outcome<Value> = Err(crate::value::Failure::internal(text));
    render(&Envelope { second: true, id: Json::Null }, &outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Failure;

    #[test]
    fn each_version_gets_its_own_shape_of_answer() {
        let (two, call) = parse(br#"{"jsonrpc":"2.0","method":"pool.get_all","params":["s"],"id":"x"}"#).unwrap();
        assert_eq!(call, RawCall { method: "pool.get_all".into(), params: vec![json!("s")] });
        let failure: Outcome = Err(Failure::new("HANDLE_INVALID", &["VM", "r"]));
        let answer: Json = serde_json::from_str(&render(&two, &failure)).unwrap();
        let error = json!({"code":1,"message":"HANDLE_INVALID","data":["VM","r"]});
        assert_eq!(answer, json!({"jsonrpc":"2.0","error":error,"id":"x"}));
        let (one, _) = parse(br#"{"method":"pool.get_all","params":[],"id":0}"#).unwrap();
        let answer: Json = serde_json::from_str(&render(&one, &failure)).unwrap();
        assert_eq!(answer, json!({"result":null,"error":["HANDLE_INVALID","VM","r"],"id":0}));
        let answer: Json = serde_json::from_str(&render(&one, &Ok(Value::Void))).unwrap();
        assert_eq!(answer, json!({"result":"","error":null,"id":0}));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let bad: [&[u8]; 6] = [
            b"",
            b"[]",
            br#"{"method":"x","params":[]}"#,
            br#"{"method":"x","params":{},"id":1}"#,
            br#"{"params":[],"id":1}"#,
            br#"[{"method":"x","params":[],"id":1}]"#,
        ];
        for body in bad {
            assert!(parse(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }
}
