//! Trees: a folder's nodes, in JSON. The list of a disk's chunks is long (70 MB of JSON for 1 TiB), so trees are
//! written and read as streams.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, Serializer};

use super::Fault;
use crate::BlobId;

/// Same time for every file we write, so that a disk that did not change makes no new tree. The snapshot has the real
/// time.
const TIME: &str = "1970-01-01T00:00:00Z";
/// Mode bits as Go counts them: a file, and a folder.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = (1 << 31) | 0o700;

/// A folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Tree {
    /// What is in it.
    pub(crate) nodes: Vec<Node>,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A file.
    File,
    /// A folder.
    Dir,
    /// Anything else: links, devices. Only foreign trees have them.
    #[serde(other)]
    Other,
}

/// An entry of a folder. Of what foreign programs note, only what leads to data is read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Node {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: NodeKind,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) content: Option<Vec<BlobId>>,
    #[serde(default)]
    pub(crate) subtree: Option<BlobId>,
}

impl Node {
    /// The name of a file: one component of a path. `None` for what would lead elsewhere.
    pub(crate) fn file_name(&self) -> Option<String> {
        let name = if self.name.contains('\\') { unquote(&self.name)? } else { self.name.clone() };
        let is_component = !matches!(name.as_str(), "" | "." | "..") && !name.contains(['/', '\0']);
        is_component.then_some(name)
    }
}

/// Foreign programs write names as the inside of a Go string. Bytes that are no UTF-8 are replaced.
fn unquote(quoted: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(quoted.len());
    let mut letters = quoted.chars();
    let mut buffer = [0; 4];
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            bytes.extend_from_slice(letter.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        let escape = letters.next()?;
        let mut number = |digits: usize, radix: u32, begun: u32| {
            (0..digits).try_fold(begun, |value: u32, _| {
                value.checked_mul(radix)?.checked_add(letters.next()?.to_digit(radix)?)
            })
        };
        match escape {
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            'f' => bytes.push(12),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(11),
            same @ ('\\' | '\'' | '"') => bytes.extend_from_slice(same.encode_utf8(&mut buffer).as_bytes()),
            'x' => bytes.push(u8::try_from(number(2, 16, 0)?).ok()?),
            'u' => bytes.extend_from_slice(char::from_u32(number(4, 16, 0)?)?.encode_utf8(&mut buffer).as_bytes()),
            'U' => bytes.extend_from_slice(char::from_u32(number(8, 16, 0)?)?.encode_utf8(&mut buffer).as_bytes()),
            first => bytes.push(u8::try_from(number(2, 8, first.to_digit(8)?)?).ok()?),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

impl Tree {
    /// Reads the JSON of a tree.
    ///
    /// # Errors
    /// [`Fault::Json`].
    pub fn parse(json: &[u8]) -> Result<Self, Fault> {
        Ok(serde_json::from_slice(json)?)
    }
}

/// Reads a tree of at most `bytes` JSON bytes from a stream.
pub(crate) fn read_tree(reader: impl Read) -> Result<Tree, Fault> {
    Ok(serde_json::from_reader(io::BufReader::with_capacity(64 << 10, reader))?)
}

/// Writes the JSON of a tree node by node; names come in byte order.
pub(crate) struct TreeWriter<W> {
    out: W,
    first: bool,
}

#[derive(Serialize)]
struct NodeJson<'node> {
    name: &'node str,
    #[serde(rename = "type")]
    kind: &'static str,
    mode: u32,
    mtime: &'static str,
    atime: &'static str,
    ctime: &'static str,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<u32>,
    content: Option<Ids<'node>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subtree: Option<BlobId>,
}

struct Ids<'ids>(&'ids [BlobId]);

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0)
    }
}

impl<W: Write> TreeWriter<W> {
    pub(crate) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(b"{\"nodes\":[")?;
        Ok(Self { out, first: true })
    }

    pub(crate) fn file(&mut self, name: &str, size: u64, content: &[BlobId]) -> io::Result<()> {
        self.node("file", name, FILE_MODE, Some(size), Some(Ids(content)), None)
    }

    pub(crate) fn folder(&mut self, name: &str, subtree: BlobId) -> io::Result<()> {
        self.node("dir", name, FOLDER_MODE, None, None, Some(subtree))
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(b"]}\n")?;
        Ok(self.out)
    }

    fn node(
        &mut self,
        kind: &'static str,
        name: &str,
        mode: u32,
        size: Option<u64>,
        content: Option<Ids<'_>>,
        subtree: Option<BlobId>,
    ) -> io::Result<()> {
        if !std::mem::replace(&mut self.first, false) {
            self.out.write_all(b",")?;
        }
        let links = size.map(|_| 1);
        let (mtime, atime, ctime) = (TIME, TIME, TIME);
        let node = NodeJson { name, kind, mode, mtime, atime, ctime, uid: 0, gid: 0, size, links, content, subtree };
        Ok(serde_json::to_writer(&mut self.out, &node)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tree_comes_back_as_it_was_written() {
        let ids: Vec<BlobId> = (0..3_u8).map(|n| BlobId([n; 32])).collect();
        let mut writer = TreeWriter::new(Vec::new()).unwrap();
        writer.folder("disks", ids[0]).unwrap();
        writer.file("vm.json", 7, &ids).unwrap();
        let json = writer.finish().unwrap();
        let tree = Tree::parse(&json).unwrap();
        assert_eq!(tree.nodes.len(), 2);
        assert_eq!((tree.nodes[0].kind, tree.nodes[0].subtree), (NodeKind::Dir, Some(ids[0])));
        assert_eq!((tree.nodes[1].size, tree.nodes[1].content.as_deref()), (7, Some(&ids[..])));
        assert_eq!(read_tree(&json[..]).unwrap(), tree);
    }

    #[test]
    fn foreign_names_are_unquoted_and_cannot_lead_elsewhere() {
        let name = |name: &str| {
            let name = name.to_owned();
            Node { name, kind: NodeKind::File, size: 0, content: None, subtree: None }.file_name()
        };
        assert_eq!(name("plain").as_deref(), Some("plain"));
        assert_eq!(name(r#"a\\b\"c\t\u00e9\x41\101"#).as_deref(), Some("a\\b\"c\té\u{41}A"));
        for bad in ["", ".", "..", "a/b", r"\x2f", r"\u002e\u002e", r"\", r"\xZZ", r"\U99999999", r"\9"] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_unquoted_or_refused(name in ".{0,20}") {
            let _ = unquote(&name);
        }

        #[test]
        fn any_text_is_a_tree_or_refused(text in ".{0,100}") {
            let _ = Tree::parse(text.as_bytes());
            let _ = Tree::parse(format!("{{\"nodes\":[{{\"name\":\"x\",{text}}}]}}").as_bytes());
        }
    }
}
