//! XML-RPC as hosts speak it: integers untagged, `{Status, Value | ErrorDescription}` as the result.
//!
//! Values are read into JSON, so that both encodings share one check of parameters.

use std::fmt::Write;

use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::Value as Json;

use super::RawCall;
use crate::value::{Outcome, Value, format_time};

/// Nesting that is followed.
const MAX_DEPTH: usize = 64;

/// Elements in which blanks alone are text.
const TEXTUAL: [&str; 3] = ["value", "string", "name"];

/// Reads a `methodCall`.
pub(crate) fn parse(body: &[u8]) -> Result<RawCall, String> {
    let mut xml = Xml::new(body)?;
    xml.open("methodCall")?;
    xml.open("methodName")?;
    let method = xml.text("methodName")?;
    let mut params = Vec::new();
    if xml.next()? == Piece::Open("params".to_owned()) {
        loop {
            match xml.next()? {
                Piece::Open(name) if name == "param" => {
                    xml.open("value")?;
                    params.push(xml.value(0)?);
                    xml.close("param")?;
                }
                Piece::Close(name) if name == "params" => break,
                other => return Err(format!("unexpected {other:?} in params")),
            }
        }
    }
    Ok(RawCall { method: method.trim().to_owned(), params })
}

/// Reads a document that is one `value`.
pub(crate) fn parse_value(body: &[u8]) -> Result<Json, String> {
    let mut xml = Xml::new(body)?;
    xml.open("value")?;
    xml.value(0)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Open(String),
    Close(String),
    Text(String),
    End,
}

/// The document as opening tags, closing tags and text, blanks between tags left out.
struct Xml {
    pieces: std::vec::IntoIter<Piece>,
}

impl Xml {
    fn new(body: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(body).map_err(|_| "the body is not UTF-8")?;
        let mut reader = Reader::from_str(text);
        let mut pieces: Vec<Piece> = Vec::new();
        let mut run = String::new();
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        loop {
            let event = reader.read_event().map_err(|e| format!("Xml_parse({e})"))?;
            match event {
                Event::Text(t) => run.push_str(&t.decode().map_err(|e| e.to_string())?),
                Event::CData(t) => run.push_str(&t.decode().map_err(|e| e.to_string())?),
                Event::GeneralRef(entity) => run.push(resolve(&entity)?),
                Event::Start(tag) => {
                    flush(&mut run, &mut pieces, true);
                    pieces.push(Piece::Open(name(tag.name().as_ref())));
                }
                Event::End(tag) => {
                    let leaf = matches!(pieces.last(), Some(Piece::Open(name)) if TEXTUAL.contains(&name.as_str()));
                    flush(&mut run, &mut pieces, !leaf);
                    pieces.push(Piece::Close(name(tag.name().as_ref())));
                }
                Event::Empty(tag) => {
                    flush(&mut run, &mut pieces, true);
                    let name = name(tag.name().as_ref());
                    pieces.extend([Piece::Open(name.clone()), Piece::Close(name)]);
                }
                Event::Eof => break,
                Event::DocType(_) => return Err("a document type is not accepted".to_owned()),
                _ => {}
            }
        }
        Ok(Self { pieces: pieces.into_iter() })
    }

    #[expect(clippy::unnecessary_wraps, reason = "reads as one step of a chain that can fail")]
    fn next(&mut self) -> Result<Piece, String> {
        Ok(self.pieces.next().unwrap_or(Piece::End))
    }

    fn open(&mut self, name: &str) -> Result<(), String> {
        match self.next()? {
            Piece::Open(found) if found == name => Ok(()),
            other => Err(format!("expected <{name}>, found {other:?}")),
        }
    }

    fn close(&mut self, name: &str) -> Result<(), String> {
        match self.next()? {
            Piece::Close(found) if found == name => Ok(()),
            other => Err(format!("expected </{name}>, found {other:?}")),
        }
    }

    /// Text up to the closing tag.
    fn text(&mut self, name: &str) -> Result<String, String> {
        match self.next()? {
            Piece::Text(text) => self.close(name).map(|()| text),
            Piece::Close(found) if found == name => Ok(String::new()),
            other => Err(format!("expected text in <{name}>, found {other:?}")),
        }
    }

    /// The inside of a `value` that is open already, and its closing tag.
    fn value(&mut self, depth: usize) -> Result<Json, String> {
        if depth > MAX_DEPTH {
            return Err("values are nested too deeply".to_owned());
        }
        let kind = match self.next()? {
            Piece::Text(text) => return self.close("value").map(|()| Json::String(text)),
            Piece::Close(name) if name == "value" => return Ok(Json::String(String::new())),
            Piece::Open(kind) => kind,
            other => return Err(format!("unexpected {other:?} in a value")),
        };
        let value = match kind.as_str() {
            "string" | "dateTime.iso8601" | "int" | "i4" | "i8" | "base64" => Json::String(self.text(&kind)?),
            "boolean" => match self.text(&kind)?.trim() {
                "1" | "true" => Json::Bool(true),
                "0" | "false" => Json::Bool(false),
                other => return Err(format!("{other} is no boolean")),
            },
            "double" => {
                let text = self.text(&kind)?;
                let number: f64 = text.trim().parse().map_err(|_| format!("{text} is no number"))?;
                Json::from(number)
            }
            "nil" => self.close("nil").map(|()| Json::String(String::new()))?,
            "array" => self.array(depth)?,
            "struct" => self.structure(depth)?,
            other => return Err(format!("unknown type <{other}>")),
        };
        self.close("value")?;
        Ok(value)
    }

    fn array(&mut self, depth: usize) -> Result<Json, String> {
        let mut items = Vec::new();
        self.open("data")?;
        loop {
            match self.next()? {
                Piece::Open(name) if name == "value" => items.push(self.value(depth + 1)?),
                Piece::Close(name) if name == "data" => break,
                other => return Err(format!("unexpected {other:?} in an array")),
            }
        }
        self.close("array")?;
        Ok(Json::Array(items))
    }

    fn structure(&mut self, depth: usize) -> Result<Json, String> {
        let mut members = serde_json::Map::new();
        loop {
            match self.next()? {
                Piece::Open(name) if name == "member" => {
                    self.open("name")?;
                    let name = self.text("name")?;
                    self.open("value")?;
                    members.insert(name, self.value(depth + 1)?);
                    self.close("member")?;
                }
                Piece::Close(name) if name == "struct" => return Ok(Json::Object(members)),
                other => return Err(format!("unexpected {other:?} in a struct")),
            }
        }
    }
}

fn flush(run: &mut String, pieces: &mut Vec<Piece>, blanks_only_are_nothing: bool) {
    let is_nothing = if blanks_only_are_nothing { run.trim().is_empty() } else { run.is_empty() };
    if !is_nothing {
        pieces.push(Piece::Text(std::mem::take(run)));
    }
    run.clear();
}

fn resolve(entity: &quick_xml::events::BytesRef<'_>) -> Result<char, String> {
    if let Some(c) = entity.resolve_char_ref().map_err(|e| e.to_string())? {
        return Ok(c);
    }
    match entity.decode().map_err(|e| e.to_string())?.as_ref() {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        other => Err(format!("unknown entity &{other};")),
    }
}

/// Writes a `methodResponse`; `bare` leaves out the status struct, as `system.listMethods` does.
pub(crate) fn render(outcome: &Outcome, bare: bool) -> String {
    let mut xml = String::from("<?xml version=\"1.0\"?><methodResponse><params><param>");
    match outcome {
        Ok(value) if bare => write_value(&mut xml, value),
        Ok(value) => {
            xml.push_str("<value><struct><member><name>Status</name><value>Success</value></member>");
            xml.push_str("<member><name>Value</name>");
            write_value(&mut xml, value);
            xml.push_str("</member></struct></value>");
        }
        Err(failure) => {
            xml.push_str("<value><struct><member><name>Status</name><value>Failure</value></member>");
            xml.push_str("<member><name>ErrorDescription</name>");
            write_value(&mut xml, &Value::set(failure.list()));
            xml.push_str("</member></struct></value>");
        }
    }
    xml.push_str("</param></params></methodResponse>");
    xml
}

/// A value with its `<value>` tags, as task results and `ova.xml` hold it.
pub(crate) fn value_text(value: &Value) -> String {
    let mut xml = String::new();
    write_value(&mut xml, value);
    xml
}

fn write_value(xml: &mut String, value: &Value) {
    xml.push_str("<value>");
    match value {
        Value::Void => {}
        Value::Bool(b) => {
            let _ = write!(xml, "<boolean>{}</boolean>", i32::from(*b));
        }
        Value::Int(i) => {
            let _ = write!(xml, "{i}");
        }
        Value::Float(f) => {
            let _ = write!(xml, "<double>{f}</double>");
        }
        Value::Str(s) => escape(xml, s),
        Value::Time(t) => {
            let _ = write!(xml, "<dateTime.iso8601>{}</dateTime.iso8601>", format_time(*t));
        }
        Value::Set(items) => {
            xml.push_str("<array><data>");
            items.iter().for_each(|item| write_value(xml, item));
            xml.push_str("</data></array>");
        }
        Value::Map(map) => {
            xml.push_str("<struct>");
            for (name, value) in map {
                xml.push_str("<member><name>");
                escape(xml, name);
                xml.push_str("</name>");
                write_value(xml, value);
                xml.push_str("</member>");
            }
            xml.push_str("</struct>");
        }
    }
    xml.push_str("</value>");
}

/// Text with markup escaped and control characters dropped.
pub(crate) fn escape(xml: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            '\r' => xml.push_str("&#13;"),
            c if c.is_control() && c != '\n' && c != '\t' => {}
            c => xml.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Failure;
    use serde_json::json;

    #[test]
    fn a_call_as_pythons_library_writes_it_is_read() {
        let body = b"<?xml version='1.0'?>\n<methodCall>\n<methodName>event.from</methodName>\n<params>\n\
            <param>\n<value><string>OpaqueRef:1</string></value>\n</param>\n\
            <param>\n<value><array><data>\n<value><string>*</string></value>\n</data></array></value>\n</param>\n\
            <param>\n<value>a &lt;b&gt; &#38; c </value>\n</param>\n\
            <param><value><double>30.5</double></value></param><param><value><boolean>1</boolean></value></param>\n\
            <param><value><struct>\n<member>\n<name>k</name>\n<value><int>7</int></value>\n</member>\n</struct></value></param>\n\
            <param>\n<value><struct>\n</struct></value>\n</param>\n<param><value><array><data>\n</data></array></value></param>\n\
            </params>\n</methodCall>\n";
        let call = parse(body).unwrap();
        assert_eq!(call.method, "event.from");
        let scalars = [json!("OpaqueRef:1"), json!(["*"]), json!("a <b> & c "), json!(30.5), json!(true)];
        let expected = [&scalars[..], &[json!({"k":"7"}), json!({}), json!([])]].concat();
        assert_eq!(call.params, expected);
    }

    #[test]
    fn text_survives_both_ways() {
        for text in ["", " ", "a&b<c>\"d'", "line\nbreak\ttab", "ünïcode ✓", "]]>"] {
            let xml = value_text(&Value::str(text));
            assert_eq!(parse_value(xml.as_bytes()).unwrap(), json!(text), "{xml}");
        }
    }

    #[test]
    fn failures_carry_code_and_parameters() {
        let xml = render(&Err(Failure::new("UUID_INVALID", &["VM", "x"])), false);
        assert!(xml.contains("<name>ErrorDescription</name><value><array><data><value>UUID_INVALID</value><value>VM<"));
    }

    #[test]
    fn what_is_no_call_is_refused() {
        let deep =
            format!("<methodCall><methodName>x</methodName><params><param>{}", "<value><array><data>".repeat(500));
        for body in ["", "<methodCall>", "<a/>", "<methodCall><methodName>x</methodName><params><param></param>", &deep]
        {
            assert!(parse(body.as_bytes()).is_err(), "{}", body.get(..40).unwrap_or(body));
        }
    }
}
