//! The expressions of `get_all_records_where`: `field "power_state" = "Running" and not (…)`. Pure.

use super::Record;
use crate::value::{Value, format_time};

/// A parsed expression.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Query {
    Constant(bool),
    Equal(Operand, Operand),
    Not(Box<Query>),
    And(Box<Query>, Box<Query>),
    Or(Box<Query>, Box<Query>),
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Field(String),
    Literal(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Symbol(char),
}

impl Query {
    /// Reads an expression; `None` when it is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let tokens = tokens(text)?;
        let mut reader = Reader { tokens, at: 0, depth: 0 };
        let query = reader.or()?;
        (reader.at == reader.tokens.len()).then_some(query)
    }

    /// Whether a record satisfies it.
    pub(crate) fn matches(&self, record: &Record) -> bool {
        match self {
            Self::Constant(truth) => *truth,
            Self::Equal(left, right) => left.resolve(record) == right.resolve(record),
            Self::Not(inner) => !inner.matches(record),
            Self::And(left, right) => left.matches(record) && right.matches(record),
            Self::Or(left, right) => left.matches(record) || right.matches(record),
        }
    }
}

impl Operand {
    fn resolve(&self, record: &Record) -> String {
        match self {
            Self::Literal(text) => text.clone(),
            Self::Field(name) => record.get(name.as_str()).map(stored).unwrap_or_default(),
        }
    }
}

/// The representation that the database stores.
fn stored(value: &Value) -> String {
    match value {
        Value::Void => String::new(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(f) => f.to_string(),
        Value::Str(s) => s.clone(),
        Value::Time(t) => format_time(*t),
        Value::Set(items) => {
            format!("({})", items.iter().map(|v| format!("'{}'", stored(v))).collect::<Vec<_>>().join(" "))
        }
        Value::Map(map) => {
            let pairs: Vec<String> = map.iter().map(|(k, v)| format!("('{k}' '{}')", stored(v))).collect();
            format!("({})", pairs.join(" "))
        }
    }
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
        } else if c == '"' {
            chars.next();
            let mut quoted = String::new();
            loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => quoted.push(chars.next()?),
                    other => quoted.push(other),
                }
            }
            found.push(Token::Quoted(quoted));
        } else if c.is_alphanumeric() || c == '_' {
            let mut word = String::new();
            while let Some(&c) = chars.peek().filter(|c| c.is_alphanumeric() || **c == '_') {
                word.push(c);
                chars.next();
            }
            found.push(Token::Word(word));
        } else {
            chars.next();
            found.push(Token::Symbol(c));
        }
    }
    Some(found)
}

/// Nesting that is followed; an expression is written by a client.
const MAX_DEPTH: usize = 64;

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Reader {
    fn accept(&mut self, wanted: &Token) -> bool {
        let found = self.tokens.get(self.at) == Some(wanted);
        if found {
            self.at += 1;
        }
        found
    }

    fn word(&mut self, word: &str) -> bool {
        self.accept(&Token::Word(word.to_owned()))
    }

    fn or(&mut self) -> Option<Query> {
        let mut left = self.and()?;
        while self.word("or") {
            left = Query::Or(Box::new(left), Box::new(self.and()?));
        }
        Some(left)
    }

    fn and(&mut self) -> Option<Query> {
        let mut left = self.unary()?;
        while self.word("and") {
            left = Query::And(Box::new(left), Box::new(self.unary()?));
        }
        Some(left)
    }

    fn unary(&mut self) -> Option<Query> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let query = if self.word("not") {
            Query::Not(Box::new(self.unary()?))
        } else if self.word("true") {
            Query::Constant(true)
        } else if self.word("false") {
            Query::Constant(false)
        } else if self.accept(&Token::Symbol('(')) {
            let inner = self.or()?;
            self.accept(&Token::Symbol(')')).then_some(inner)?
        } else {
            let left = self.operand()?;
            self.accept(&Token::Symbol('=')).then_some(())?;
            Query::Equal(left, self.operand()?)
        };
        self.depth -= 1;
        Some(query)
    }

    fn operand(&mut self) -> Option<Operand> {
        let field = self.word("field");
        let Some(Token::Quoted(text)) = self.tokens.get(self.at).cloned() else { return None };
        self.at += 1;
        Some(if field { Operand::Field(text) } else { Operand::Literal(text) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_select_records() {
        let record = Record::from([
            ("power_state".to_owned(), Value::str("Running")),
            ("is_a_template".to_owned(), Value::Bool(false)),
            ("name__label".to_owned(), Value::str("a \"quoted\" name")),
        ]);
        for (text, expected) in [
            ("true", true),
            ("not true", false),
            (r#"field "power_state" = "Running""#, true),
            (r#"(field "power_state"="Halted") or not (field "is_a_template"="true")"#, true),
            (r#"field "is_a_template" = "true" and field "power_state" = "Running""#, false),
            (r#"field "name__label" = "a \"quoted\" name""#, true),
        ] {
            assert_eq!(Query::parse(text).map(|q| q.matches(&record)), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        let deep = "(".repeat(10_000);
        for text in ["", "field", r#"field "a""#, r#""a" = "b" junk"#, r#"field "a" = "b"#, deep.as_str()] {
            assert_eq!(Query::parse(text), None, "{}", text.get(..20).unwrap_or(text));
        }
    }
}
