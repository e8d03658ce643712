//! Request heads, bodies of known length, answers.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Request line and headers together.
const MAX_HEAD: usize = 1024;

/// A request that cannot be served, by its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u16);

impl Status {
    pub(crate) fn reason(self) -> &'static str {
        match self.0 {
            200 => "OK",
            302 => "Found",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            408 => "Request Timeout",
            413 => "Request Entity Too Large",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            501 => "Method Not Implemented",
            503 => "Service Unavailable",
            _ => "Unknown",
        }
    }
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    /// As it came.
    pub(crate) raw_query: String,
    query: Vec<(String, String)>,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    version_1_0: bool,
}

impl Request {
    fn parse(head: &[u8]) -> Result<Self, Status> {
        let text = std::str::from_utf8(head).map_err(|_| Status(400))?;
        let mut lines = text.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Status(400));
        };
        if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
            return Err(Status(400));
        }
        let (path, raw_query) = target.split_once('?').unwrap_or((target, ""));
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line.split_once(':').ok_or(Status(400))?;
                Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<Result<_, Status>>()?;
        let query = raw_query.split('&').filter(|pair| !pair.is_empty());
        let query =
            query.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (unescape(k), unescape(v)));
        Ok(Self {
            method: method.to_owned(),
            path: unescape(path),
            raw_query: raw_query.to_owned(),
            query: query.collect(),
            headers,
            version_1_0: version == "HTTP/1.0",
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A cookie, else a parameter of the query.
    pub(crate) fn cookie_or_query(&self, name: &str) -> Option<String> {
        let cookies = self.headers.iter().filter(|(n, _)| n == "cookie").flat_map(|(_, v)| v.split([';', '&']));
        let cookie = cookies.filter_map(|c| c.trim().split_once('=')).find(|(n, _)| *n == name);
        cookie.map(|(_, v)| unescape(v)).or_else(|| self.query(name).map(str::to_owned))
    }

    pub(crate) fn content_length(&self) -> Result<Option<u64>, Status> {
        self.header("content-length").map(|text| text.parse().map_err(|_| Status(400))).transpose()
    }

    pub(crate) fn keep_alive(&self) -> bool {
        let wish = self.header("connection").map(str::to_ascii_lowercase);
        if self.version_1_0 { wish.as_deref() == Some("keep-alive") } else { wish.as_deref() != Some("close") }
    }
}

/// Decodes `%41` and leaves everything else.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let pair = tail.get(..2).filter(|_| first == b'%').and_then(|p| std::str::from_utf8(p).ok());
        if let Some(byte) = pair.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            bytes.push(if first == b'+' { b' ' } else { first });
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads a head. `Ok(None)`: the client closed the connection between requests.
pub(crate) async fn read_head<S: AsyncBufRead + Unpin>(stream: &mut S) -> io::Result<Result<Option<Request>, Status>> {
    let mut head = Vec::with_capacity(256);
    loop {
        let available = stream.fill_buf().await?;
        if available.is_empty() {
            return Ok(if head.is_empty() { Ok(None) } else { Err(Status(400)) });
        }
        let before = head.len();
        let room = (MAX_HEAD + 4).saturating_sub(before).min(available.len());
        head.extend_from_slice(available.get(..room).unwrap_or_default());
        let end = head.windows(4).position(|w| w == b"\r\n\r\n");
        if let Some(end) = end {
            stream.consume((end + 4).saturating_sub(before));
            head.truncate(end);
            return Ok(if end > MAX_HEAD { Err(Status(431)) } else { Request::parse(&head).map(Some) });
        }
        stream.consume(room);
        if head.len() > MAX_HEAD {
            return Ok(Err(Status(431)));
        }
    }
}

/// Reads a body of known length, which is at most `max`.
pub(crate) async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    request: &Request,
    max: u64,
) -> io::Result<Result<Vec<u8>, Status>> {
    let length = match request.content_length() {
        Ok(Some(length)) if length <= max => length,
        Ok(Some(_)) => return Ok(Err(Status(413))),
        Ok(None) | Err(_) => return Ok(Err(Status(400))),
    };
    if request.header("transfer-encoding").is_some() {
        return Ok(Err(Status(400)));
    }
    let mut body = Vec::new();
    stream.take(length).read_to_end(&mut body).await?;
    Ok(if body.len() as u64 == length { Ok(body) } else { Err(Status(400)) })
}

/// Writes a whole answer.
pub(crate) async fn respond<S: AsyncWrite + Unpin>(
    stream: &mut S,
    status: Status,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} {}\r\ncontent-length: {}\r\n", status.0, status.reason(), body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn head(bytes: &[u8]) -> Result<Option<Request>, Status> {
        let mut stream = tokio::io::BufReader::with_capacity(7, bytes);
        read_head(&mut stream).await.unwrap()
    }

    #[tokio::test]
    async fn a_head_of_1024_bytes_is_read_and_one_more_is_refused() {
        let fixed = "GET / HTTP/1.1\r\nx: ".len();
        let with = |total: usize| format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(total - fixed));
        assert!(head(with(1024).as_bytes()).await.unwrap().is_some());
        assert_eq!(head(with(1025).as_bytes()).await, Err(Status(431)));
        assert_eq!(head("y".repeat(5000).as_bytes()).await, Err(Status(431)));
    }

    #[tokio::test]
    async fn queries_and_cookies_are_decoded() {
        let text =
            b"PUT /import/?session_id=OpaqueRef%3A1&x HTTP/1.0\r\nCookie: a=b; session_id=OpaqueRef:2\r\n\r\nrest";
        let request = head(text).await.unwrap().unwrap();
        assert_eq!((request.method.as_str(), request.path.as_str()), ("PUT", "/import/"));
        assert_eq!(request.query("session_id"), Some("OpaqueRef:1"));
        assert_eq!(request.cookie_or_query("session_id").as_deref(), Some("OpaqueRef:2"));
        assert_eq!(request.query("x"), Some(""));
        assert!(!request.keep_alive());
    }

    #[tokio::test]
    async fn nonsense_is_a_bad_request() {
        for text in
            ["GET\r\n\r\n", "GET / SPDY/3\r\n\r\n", "GET x HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n"]
        {
            assert_eq!(head(text.as_bytes()).await, Err(Status(400)), "{text}");
        }
        assert_eq!(head(b"").await, Ok(None));
        assert_eq!(head(b"GET / HT").await, Err(Status(400)));
    }
}
