//! Reads archives as hosts do: offsets add up over the numbers, both kinds of checksum, compression told by its magic.

use std::collections::BTreeMap;

use tokio::io::AsyncRead;

use super::tar::{self, Member, UNIT};
use super::unpack::Unpacked;
use super::{CHUNK, Checksum, XvaFault};
use crate::BLOCK;
use crate::disk::{Disk, usize_of};
use crate::error::{Error, Result};
use crate::pump::{Progress, WriteBehind, blocking, fraction};

/// The largest `ova.xml`, in bytes.
const MAX_METADATA: u64 = 64 * 1024 * 1024;
/// The largest chunk, in bytes.
const MAX_CHUNK: u64 = 16 * 1024 * 1024;
/// The largest checksum or extended header, in bytes.
const MAX_NOTE: u64 = 64 * 1024;

/// An archive being read: its `ova.xml` first, then, when the program has created the disks, their content.
pub struct Import<R> {
    members: Members<R>,
    ova_xml: Vec<u8>,
}

impl<R: AsyncRead + Send + Unpin> Import<R> {
    /// Reads up to and including `ova.xml`; gzip and zstd are told by their magic.
    ///
    /// # Errors
    /// When the stream is no archive, or its first member is not `ova.xml`.
    pub async fn open(reader: R) -> Result<Self> {
        let mut members = Members { stream: Unpacked::open(reader).await? };
        let first = members.next().await?.ok_or(too_short("ova.xml"))?;
        if first.name != "ova.xml" {
            return Err(XvaFault::UnexpectedFile { expected: "ova.xml".to_owned(), found: first.name }.into());
        }
        let mut ova_xml = Vec::new();
        members.data(&first, MAX_METADATA, &mut ova_xml).await?;
        Ok(Self { members, ova_xml })
    }

    /// The bytes of `ova.xml`.
    pub fn ova_xml(&self) -> &[u8] {
        &self.ova_xml
    }

    /// Reads the disks' content onto the disks named by their references. `force` ignores checksum failures.
    ///
    /// # Errors
    /// When a member is out of place, a checksum does not match, the stream ends early, or a disk cannot be written.
    pub async fn read_disks(
        &mut self,
        disks: &BTreeMap<String, Disk>,
        force: bool,
        progress: Progress<'_>,
    ) -> Result<()> {
        self.members.read_disks(disks, force, progress).await
    }
}

/// Reads one disk as `import_raw_vdi?format=tar` takes it: the members of a disk under `vdi/`.
///
/// # Errors
/// As [`Import::read_disks`].
pub async fn import_vdi_tar<R: AsyncRead + Send + Unpin>(
    reader: &mut R,
    disk: &Disk,
    progress: Progress<'_>,
) -> Result<()> {
    let mut members = Members { stream: Unpacked::open(reader).await? };
    members.read_disks(&BTreeMap::from([("vdi".to_owned(), disk.clone())]), false, progress).await
}

struct Members<R> {
    stream: Unpacked<R>,
}

/// The disk that chunks are being read for.
struct Current {
    reference: String,
    writer: WriteBehind,
    size: u64,
    /// The last number read.
    number: Option<u64>,
    /// Bytes of an omitted chunk: the size of chunk 0.
    unit: u64,
    /// Where the next chunk goes, but for omitted ones.
    offset: u64,
}

impl<R: AsyncRead + Send + Unpin> Members<R> {
    async fn read_disks(&mut self, disks: &BTreeMap<String, Disk>, force: bool, progress: Progress<'_>) -> Result<()> {
        let mut total = 0;
        let mut waiting = BTreeMap::new();
        for (reference, disk) in disks {
            let (handle, disk) = (disk.clone(), disk.clone());
            let size = blocking(move || handle.size()).await?;
            total += size;
            waiting.insert(reference.clone(), (disk, size));
        }
        let mut before = 0;
        let mut current: Option<Current> = None;
        let mut buffer = Vec::new();
        while let Some(member) = self.next().await? {
            let unexpected = |expected: String| XvaFault::UnexpectedFile { expected, found: member.name.clone() };
            let expected = match (&current, waiting.keys().next()) {
                (Some(current), _) => current.next_name(),
                (None, Some(reference)) => format!("{reference}/00000000"),
                (None, None) => "the end of the archive".to_owned(),
            };
            let Some((reference, number)) = split(&member.name) else { return Err(unexpected(expected).into()) };
            let mut disk = match current.take() {
                Some(disk) if disk.reference == reference => disk,
                earlier => {
                    let Some((disk, size)) = waiting.remove(reference) else {
                        return Err(unexpected(expected).into());
                    };
                    if let Some(earlier) = earlier {
                        before += earlier.finish().await?;
                    }
                    Current::new(reference, disk, size)
                }
            };
            let expected = disk.next_name();
            let gap = disk.step(number, member.size).ok_or_else(|| unexpected(expected))?;
            self.data(&member, MAX_CHUNK, &mut buffer).await?;
            self.verify(&member, &buffer, force).await?;
            buffer = disk.place(&member, gap, buffer).await?;
            progress(fraction(before + disk.offset, total));
            current = Some(disk);
        }
        if let Some(last) = current {
            last.finish().await?;
        }
        if waiting.is_empty() { Ok(()) } else { Err(too_short("a disk")) }
    }

    /// Reads the checksum member that must follow a chunk.
    async fn verify(&mut self, member: &Member, chunk: &[u8], force: bool) -> Result<()> {
        let note = self.next().await?.ok_or(too_short("a checksum"))?;
        let kinds = [Checksum::Xxhash, Checksum::Sha1];
        let Some(kind) = kinds.into_iter().find(|kind| note.name.strip_suffix(kind.suffix()) == Some(&member.name))
        else {
            let expected = format!("{}{}", member.name, Checksum::Xxhash.suffix());
            return Err(XvaFault::UnexpectedFile { expected, found: note.name }.into());
        };
        let mut sum = Vec::new();
        self.data(&note, MAX_NOTE, &mut sum).await?;
        if sum.trim_ascii().eq_ignore_ascii_case(kind.of(chunk).as_bytes()) || force {
            return Ok(());
        }
        Err(XvaFault::BadChecksum { member: member.name.clone() }.into())
    }

    /// The next member's header; `None` at the end marker, or where the stream ends between members.
    async fn next(&mut self) -> Result<Option<Member>> {
        loop {
            let mut header = [0; UNIT];
            match self.read(&mut header).await? {
                0 => return Ok(None),
                UNIT => {}
                _ => return Err(too_short("a header")),
            }
            match tar::parse(&header)? {
                Some(member) if member.extended => {
                    self.data(&member, MAX_NOTE, &mut Vec::new()).await?;
                }
                member => return Ok(member),
            }
        }
    }

    /// Reads a member's data, and skips what pads it.
    async fn data(&mut self, member: &Member, limit: u64, data: &mut Vec<u8>) -> Result<()> {
        if member.size > limit {
            return Err(XvaFault::MemberTooLarge { member: member.name.clone(), size: member.size }.into());
        }
        data.resize(usize_of(member.size), 0);
        let mut padding = [0; UNIT];
        let padding = &mut padding[..usize_of(tar::padding(member.size))];
        if self.read(data).await? < data.len() || self.read(padding).await? < padding.len() {
            return Err(too_short("the data of a member"));
        }
        Ok(())
    }

    /// Fills the buffer; fewer bytes only at the end of the stream.
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.stream.read(&mut buffer[filled..]).await? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }
}

impl Current {
    fn new(reference: &str, disk: Disk, size: u64) -> Self {
        let writer = WriteBehind::new(disk);
        Self { reference: reference.to_owned(), writer, size, number: None, unit: CHUNK, offset: 0 }
    }

    fn next_name(&self) -> String {
        format!("{}/{:08}", self.reference, self.number.map_or(0, |number| number + 1))
    }

    /// Takes a chunk's number; returns the bytes left out before it, or `None` when it is out of order. A chunk
    /// without data takes a number, but no place.
    fn step(&mut self, number: u64, len: u64) -> Option<u64> {
        let gap = match self.number {
            Some(last) => number.checked_sub(last + 1)?.checked_mul(self.unit)?,
            None if number == 0 => {
                self.unit = if len == 0 { CHUNK } else { len };
                0
            }
            None => return None,
        };
        self.number = Some(number);
        Some(gap)
    }

    /// Writes a chunk behind its gap; returns a buffer to use.
    async fn place(&mut self, member: &Member, gap: u64, chunk: Vec<u8>) -> Result<Vec<u8>> {
        let hole = self.offset;
        let start = hole.saturating_add(gap);
        let end = start.saturating_add(chunk.len() as u64);
        if end > self.size {
            return Err(XvaFault::OutsideDisk { member: member.name.clone() }.into());
        }
        self.offset = end;
        self.writer
            .submit(chunk, move |disk, chunk| {
                disk.zero_at(hole, gap)?;
                disk.write_at(start, chunk)
            })
            .await
    }

    /// Waits for the last write. The last chunk is always present, so a disk that ends early was cut. Sizes in
    /// archives need not be multiples of 2 MiB.
    async fn finish(mut self) -> Result<u64> {
        self.writer.settle().await?;
        if self.offset.next_multiple_of(BLOCK) < self.size {
            return Err(too_short("the last chunk of a disk"));
        }
        Ok(self.size)
    }
}

/// `Ref:12/00000007` as reference and number.
fn split(name: &str) -> Option<(&str, u64)> {
    let (reference, digits) = name.rsplit_once('/')?;
    let number = (digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse())?;
    Some((reference, number.ok()?))
}

fn too_short(missing: &'static str) -> Error {
    Error::StreamTooShort { stream: "XVA", missing }
}
