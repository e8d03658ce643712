//! A disk written into a VHD file. Unlike a stream, a file needs no plan: its block table is written last.

use super::partial::{Order, PartialFile};
use crate::Error;
use crate::vhd::{BLOCK_BYTES, FOOTER_BYTES, Footer, HEADER_BYTES, Header, MAX_SIZE, UNUSED, VhdKind, bat_bytes};
use async_trait::async_trait;
use bytes::Bytes;
use coffer_extent::{Extent, ExtentError, ExtentSink, StreamError};
use std::path::Path;
use uuid::Uuid;

/// Writes a complete disk into a dynamic VHD file; the size is rounded up to a sector of 512 bytes.
///
/// Blocks that hold only zeros are left out. Each block has all its sectors marked present; what was not written of it
/// is a hole of the file and reads as zeros.
#[derive(Debug)]
pub struct VhdFileSink {
    file: PartialFile,
    order: Order,
    footer: Footer,
    header: Header,
    /// The block table: sector of each block.
    table: Vec<u32>,
    /// Where the next block goes.
    end: u64,
}

const BITMAP_BYTES: u64 = 512;
/// Data of blocks start at multiples of this, as in the platform's own files.
const ALIGNMENT: u64 = 4096;

impl VhdFileSink {
    /// A new file for a disk of `size` bytes; the name must be free. Until `finish` it is called `PATH.partial`.
    pub async fn create(path: impl AsRef<Path>, size: u64) -> Result<VhdFileSink, Error> {
        let path = path.as_ref();
        if size > MAX_SIZE {
            return Err(Error::TooLarge { path: path.to_owned(), format: "VHD", size, limit: MAX_SIZE });
        }
        let entries = u32::try_from(size.div_ceil(BLOCK_BYTES)).expect("at most 2040 GiB / 2 MiB blocks");
        let header_offset = FOOTER_BYTES as u64;
        let table_offset = header_offset + HEADER_BYTES as u64;
        let virtual_size = size.next_multiple_of(512);
        Ok(VhdFileSink {
            file: PartialFile::create(path).await?,
            order: Order::new(size),
            footer: Footer { kind: VhdKind::Dynamic, size: virtual_size, header_offset, uuid: Uuid::new_v4() },
            header: Header { table_offset, entries, block_bytes: BLOCK_BYTES, parent: Uuid::nil() },
            table: vec![UNUSED; usize::try_from(entries).expect("a million entries")],
            end: table_offset + bat_bytes(entries),
        })
    }

    /// Writes data that lie inside one block.
    async fn put(&mut self, offset: u64, bytes: Bytes) -> Result<(), Error> {
        let index = usize::try_from(offset / BLOCK_BYTES).expect("a million entries");
        let mut parts = Vec::with_capacity(2);
        if self.table[index] == UNUSED {
            let data = (self.end + BITMAP_BYTES).next_multiple_of(ALIGNMENT);
            let bitmap = data - BITMAP_BYTES;
            self.table[index] = u32::try_from(bitmap / 512).expect("2040 GiB of blocks are fewer than 2^32 sectors");
            self.end = data + BLOCK_BYTES;
            parts.push((bitmap, Bytes::from_static(&[0xff; 512])));
        }
        let data = u64::from(self.table[index]) * 512 + BITMAP_BYTES;
        parts.push((data + offset % BLOCK_BYTES, bytes));
        self.file.write(parts).await
    }

    fn subject(&self) -> String {
        self.file.target().display().to_string()
    }
}

#[async_trait]
impl ExtentSink for VhdFileSink {
    async fn accept(&mut self, extent: Extent) -> Result<(), ExtentError> {
        self.order.advance(&extent).map_err(|error| error.about(self.subject()))?;
        match extent {
            Extent::Zero { .. } => {}
            Extent::Unchanged { offset, len } => {
                return Err(StreamError::UnexpectedUnchanged { offset, len }.about(self.subject()));
            }
            Extent::Data { mut offset, mut bytes } => {
                while !bytes.is_empty() {
                    let room = usize::try_from(BLOCK_BYTES - offset % BLOCK_BYTES).expect("a block has 2 MiB");
                    let front = bytes.split_to(room.min(bytes.len()));
                    let next = offset + front.len() as u64;
                    self.put(offset, front).await?;
                    offset = next;
                }
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), ExtentError> {
        self.order.complete().map_err(|error| error.about(self.subject()))?;
        let mut table: Vec<u8> = self.table.iter().flat_map(|sector| sector.to_be_bytes()).collect();
        let padded = usize::try_from(bat_bytes(self.header.entries)).expect("4 MiB");
        table.resize(padded, 0xff);
        let footer = Bytes::copy_from_slice(&self.footer.encode());
        let parts = vec![
            (self.header.table_offset, Bytes::from(table)),
            (self.footer.header_offset, Bytes::copy_from_slice(&self.header.encode())),
            (self.end, footer.clone()),
            (0, footer),
        ];
        self.file.write(parts).await?;
        self.file.publish().await?;
        Ok(())
    }
}
