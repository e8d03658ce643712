//! The ranges of a plan, read many at a time and delivered in order.

use super::disk::{NbdDisk, answered};
use super::plan::{Piece, ReadPlan};
use super::queue::Answer;
use async_trait::async_trait;
use coffer_extent::{Buffer, BufferPool, Extent, ExtentError, ExtentSource, is_zero};
use std::collections::VecDeque;
use tokio::sync::oneshot;

/// Yields a disk as its [`ReadPlan`] says; buffers that hold only zeros become zero extents.
///
/// Reads ahead as far as the connections can have requests in flight and the pool has buffers. Buffers are taken in the
/// order of the disk, so the extent that is due next always has its own: a small pool makes this slow, never stuck.
/// Calls of `next` may be dropped and repeated.
#[derive(Debug)]
pub struct NbdSource {
    disk: NbdDisk,
    plan: ReadPlan,
    step: u64,
    window: usize,
    /// Place on the disk up to which everything is in `ahead`.
    planned: u64,
    ahead: VecDeque<Ahead>,
}

/// An extent that is due, in order.
#[derive(Debug)]
enum Ahead {
    Known(Extent),
    Reading { offset: u64, len: usize, answer: oneshot::Receiver<Answer<Buffer>> },
}

impl NbdSource {
    pub(super) fn new(disk: NbdDisk, plan: ReadPlan) -> NbdSource {
        let (step, window) = (disk.step(), disk.window());
        NbdSource { disk, plan, step, window, planned: 0, ahead: VecDeque::with_capacity(window) }
    }

    /// The piece that is to be read next, if the window has room for it. Pieces that need no reading are queued on the
    /// way.
    fn next_read(&mut self) -> Option<(u64, usize)> {
        while self.ahead.len() < self.window {
            let piece = self.plan.piece_at(self.planned, self.step)?;
            let range = piece.range();
            let (offset, len) = (range.start, range.end - range.start);
            let known = match piece {
                Piece::Read(_) => return Some((offset, usize::try_from(len).expect("a step fits a buffer"))),
                Piece::Zero(_) => Extent::Zero { offset, len },
                Piece::Unchanged(_) => Extent::Unchanged { offset, len },
            };
            self.planned = range.end;
            self.ahead.push_back(Ahead::Known(known));
        }
        None
    }

    fn start(&mut self, offset: u64, len: usize, buffer: Buffer) {
        let answer = self.disk.submit(offset, len, buffer);
        self.planned = offset + len as u64;
        self.ahead.push_back(Ahead::Reading { offset, len, answer });
    }

    /// Takes the front, which is a read that has been answered.
    fn deliver(&mut self, answer: Answer<Buffer>) -> Result<Option<Extent>, ExtentError> {
        let Some(Ahead::Reading { offset, len, .. }) = self.ahead.pop_front() else { return Ok(None) };
        let buffer = answer.map_err(|source| self.disk.read_error(offset, len as u64, source))?;
        Ok(Some(if buffer.get(..len).is_some_and(is_zero) {
            Extent::Zero { offset, len: len as u64 }
        } else {
            Extent::Data { offset, bytes: buffer.freeze(len) }
        }))
    }
}

#[async_trait]
impl ExtentSource for NbdSource {
    fn size(&self) -> u64 {
        self.plan.size()
    }

    async fn next(&mut self) -> Result<Option<Extent>, ExtentError> {
        let pool: BufferPool = self.disk.pool().clone();
        loop {
            let wanted = self.next_read();
            if let Some((offset, len)) = wanted
                && let Some(buffer) = pool.try_take()
            {
                self.start(offset, len, buffer);
                continue;
            }
            match (self.ahead.front_mut(), wanted) {
                (Some(Ahead::Known(_)), _) => {
                    let Some(Ahead::Known(extent)) = self.ahead.pop_front() else { continue };
                    return Ok(Some(extent));
                }
                (Some(Ahead::Reading { answer, .. }), None) => {
                    let answer = answered(answer).await;
                    return self.deliver(answer);
                }
                (Some(Ahead::Reading { answer, .. }), Some((offset, len))) => {
                    tokio::select! {
                        biased;
                        answer = answered(answer) => return self.deliver(answer),
                        buffer = pool.take() => self.start(offset, len, buffer),
                    }
                }
                (None, Some((offset, len))) => {
                    let buffer = pool.take().await;
                    self.start(offset, len, buffer);
                }
                (None, None) => return Ok(None),
            }
        }
    }
}
