//! JSON-RPC as XAPI speaks it: version 2.0 asked for, 2.0 and 1.0 understood.

use serde_json::{Map, Value, json};

use super::Malformed;

/// The answer to a call: a result, or XAPI's code and parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The call succeeded.
    Result(Value),
    /// XAPI refused it.
    Failure {
        /// `VDI_IN_USE`
        code: String,
        /// The parameters of the code.
        params: Vec<String>,
    },
}

/// The body of a call.
pub(crate) fn encode_call(method: &str, params: &[Value], id: u64) -> Vec<u8> {
    json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": id }).to_string().into_bytes()
}

/// Reads the body of an answer. With `id`, the answer must be to that call.
///
/// # Errors
/// [`Malformed`] when it is not an answer in JSON-RPC 2.0 or 1.0.
pub fn decode_answer(body: &[u8], id: Option<u64>) -> Result<Answer, Malformed> {
    let mut answer: Map<String, Value> = serde_json::from_slice(body).map_err(Malformed::Json)?;
    if let Some(id) = id
        && answer.get("id").and_then(Value::as_u64) != Some(id)
    {
        return Err(Malformed::Shape("the answer is to another call"));
    }
    match answer.remove("error") {
        None | Some(Value::Null) => {
            answer.remove("result").map(Answer::Result).ok_or(Malformed::Shape("neither a result nor an error"))
        }
        // 2.0: {"code": 1, "message": CODE, "data": [params]}
        Some(Value::Object(mut error)) => {
            let Some(Value::String(code)) = error.remove("message") else {
                return Err(Malformed::Shape("an error without a code"));
            };
            Ok(Answer::Failure { code, params: texts(error.remove("data")) })
        }
        // 1.0: [CODE, params…]
        Some(Value::Array(error)) => {
            let mut texts = texts(Some(Value::Array(error))).into_iter();
            let code = texts.next().ok_or(Malformed::Shape("an error without a code"))?;
            Ok(Answer::Failure { code, params: texts.collect() })
        }
        Some(_) => Err(Malformed::Shape("an error of an unknown form")),
    }
}

fn texts(value: Option<Value>) -> Vec<String> {
    let text = |value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    match value {
        Some(Value::Array(values)) => values.into_iter().map(text).collect(),
        None | Some(Value::Null) => Vec::new(),
        Some(other) => vec![text(other)],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_versions_of_an_answer_are_understood() {
        let failure = Answer::Failure { code: "VDI_IN_USE".into(), params: vec!["a".into(), "b".into()] };
        for (body, expected) in [
            (r#"{"jsonrpc":"2.0","result":[1],"id":3}"#, Answer::Result(json!([1]))),
            (r#"{"result":"","error":null,"id":3}"#, Answer::Result(json!(""))),
            (r#"{"error":{"code":1,"message":"VDI_IN_USE","data":["a","b"]},"id":3}"#, failure.clone()),
            (r#"{"result":null,"error":["VDI_IN_USE","a","b"],"id":3}"#, failure),
        ] {
            assert_eq!(decode_answer(body.as_bytes(), Some(3)).unwrap(), expected);
        }
    }

    #[test]
    fn anything_else_is_malformed() {
        for body in
            ["", "<html>", "[]", "{}", r#"{"error":{},"id":3}"#, r#"{"error":[],"id":3}"#, r#"{"error":7,"id":3}"#]
        {
            assert!(decode_answer(body.as_bytes(), None).is_err(), "{body}");
        }
        assert!(decode_answer(br#"{"result":1,"id":4}"#, Some(3)).is_err(), "an answer to another call was accepted");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_answer(&body, None);
        }
    }
}
