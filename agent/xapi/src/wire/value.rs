//! The `result` of a task: a value in the XML of XML-RPC, though everything else here is JSON.

use super::Malformed;

/// What a task returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XmlValue {
    /// Nothing, or the empty string.
    Void,
    /// A string: a reference, a bitmap in base64, …
    Text(String),
    /// A set.
    Set(Vec<XmlValue>),
}

/// Values nest this deep at most; XAPI's results have depth 2.
const MAX_DEPTH: usize = 8;

/// Reads the `result` field of a task: `<value>text</value>`, a set inside, or nothing.
///
/// # Errors
/// [`Malformed::Xml`] when it is something else.
pub fn parse_result(result: &str) -> Result<XmlValue, Malformed> {
    let text = result.trim();
    if text.is_empty() {
        return Ok(XmlValue::Void);
    }
    if !text.starts_with('<') {
        return Ok(XmlValue::Text(text.to_owned()));
    }
    let mut cursor = Cursor { rest: text };
    let value = cursor.value(0)?;
    cursor.space();
    if cursor.rest.is_empty() { Ok(value) } else { Err(Malformed::Xml("something follows it")) }
}

struct Cursor<'a> {
    rest: &'a str,
}

impl Cursor<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, tag: &str) -> bool {
        match self.rest.strip_prefix(tag) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, tag: &str) -> Result<(), Malformed> {
        if self.take(tag) { Ok(()) } else { Err(Malformed::Xml("a tag is missing or unknown")) }
    }

    /// Text up to the next tag, entities decoded.
    fn text(&mut self) -> Result<String, Malformed> {
        let end = self.rest.find('<').ok_or(Malformed::Xml("it ends too early"))?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        unescape(text)
    }

    fn value(&mut self, depth: usize) -> Result<XmlValue, Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed::Xml("it is nested too deep"));
        }
        if self.take("<value/>") {
            return Ok(XmlValue::Void);
        }
        self.expect("<value>")?;
        let before = self.text()?;
        let value = if self.rest.starts_with("</value>") {
            text_or_void(before)
        } else if self.take("<array>") {
            let set = self.set(depth)?;
            self.space();
            XmlValue::Set(set)
        } else {
            self.scalar()?
        };
        self.expect("</value>")?;
        Ok(value)
    }

    fn set(&mut self, depth: usize) -> Result<Vec<XmlValue>, Malformed> {
        let mut values = Vec::new();
        self.space();
        if !self.take("<data/>") {
            self.expect("<data>")?;
            self.space();
            while !self.take("</data>") {
                values.push(self.value(depth + 1)?);
                self.space();
            }
        }
        self.space();
        self.expect("</array>")?;
        Ok(values)
    }

    fn scalar(&mut self) -> Result<XmlValue, Malformed> {
        if self.take("<string/>") {
            self.space();
            return Ok(XmlValue::Void);
        }
        for tag in ["string", "int", "i4", "double", "boolean", "dateTime.iso8601"] {
            if self.take(&format!("<{tag}>")) {
                let text = self.text()?;
                self.expect(&format!("</{tag}>"))?;
                self.space();
                return Ok(text_or_void(text));
            }
        }
        Err(Malformed::Xml("a tag is missing or unknown"))
    }
}

fn text_or_void(text: String) -> XmlValue {
    if text.is_empty() { XmlValue::Void } else { XmlValue::Text(text) }
}

fn unescape(text: &str) -> Result<String, Malformed> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let (name, after) = after.split_once(';').ok_or(Malformed::Xml("an entity does not end"))?;
        plain.push(match name {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            _ => numeric(name).ok_or(Malformed::Xml("an unknown entity"))?,
        });
        rest = after;
    }
    plain.push_str(rest);
    Ok(plain)
}

fn numeric(name: &str) -> Option<char> {
    let digits = name.strip_prefix('#')?;
    let code = match digits.strip_prefix('x') {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    char::from_u32(code.ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> XmlValue {
        XmlValue::Text(text.to_owned())
    }

    #[test]
    fn results_are_read_as_tasks_write_them() {
        for (result, expected) in [
            ("", XmlValue::Void),
            ("<value></value>", XmlValue::Void),
            ("<value/>", XmlValue::Void),
            ("<value>OpaqueRef:1</value>", text("OpaqueRef:1")),
            ("<value><string>a&lt;&amp;&#x41;</string></value>", text("a<&A")),
            (
                "<value><array><data><value>a</value> <value>b</value></data></array></value>",
                XmlValue::Set(vec![text("a"), text("b")]),
            ),
            ("<value><array><data/></array></value>", XmlValue::Set(vec![])),
        ] {
            assert_eq!(parse_result(result).unwrap(), expected, "{result}");
        }
    }

    #[test]
    fn anything_else_is_malformed() {
        let deep = format!("{}{}", "<value><array><data>".repeat(40), "</data></array></value>".repeat(40));
        for result in
            ["<value>", "<value>a", "<value>&x;</value>", "<value>&lt</value>", "<a/>", "<value></value>x", &deep]
        {
            assert!(parse_result(result).is_err(), "{result}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(result in "(<value>|</value>|<array>|<data>|</data>|</array>|&|lt;|<string>|[a-z<>/ ]){0,30}") {
            let _ = parse_result(&result);
        }
    }
}
