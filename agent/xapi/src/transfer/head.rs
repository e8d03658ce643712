//! The first bytes of a download, held back until it is clear that they are data.

use bytes::{Bytes, BytesMut};

use super::error_status;

/// As many bytes as tell an HTTP error from data.
const HEAD: usize = 13;

/// Pieces of a body on their way to the reader.
#[derive(Debug)]
pub(crate) struct Pieces {
    head: Option<BytesMut>,
    ready: Bytes,
}

/// The status of an error that stands in place of data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ErrorStatus(pub(crate) u16);

impl Pieces {
    pub(crate) fn new() -> Self {
        Self { head: Some(BytesMut::new()), ready: Bytes::new() }
    }

    /// Takes in what came next.
    pub(crate) fn take(&mut self, data: Bytes) -> Result<(), ErrorStatus> {
        match &mut self.head {
            None => self.ready = data,
            Some(head) if head.is_empty() && data.len() >= HEAD => {
                self.head = None;
                self.ready = data;
                self.refuse_error()?;
            }
            Some(head) => {
                head.extend_from_slice(&data);
                if head.len() >= HEAD {
                    self.end()?;
                }
            }
        }
        Ok(())
    }

    /// Nothing comes any more: what was held back is all there is.
    pub(crate) fn end(&mut self) -> Result<(), ErrorStatus> {
        if let Some(head) = self.head.take() {
            self.ready = head.freeze();
            self.refuse_error()?;
        }
        Ok(())
    }

    /// What the reader may have now; empty when there is nothing yet.
    pub(crate) fn ready(&mut self) -> Bytes {
        std::mem::take(&mut self.ready)
    }

    /// Puts back what the reader had no room for.
    pub(crate) fn put_back(&mut self, rest: Bytes) {
        self.ready = rest;
    }

    fn refuse_error(&mut self) -> Result<(), ErrorStatus> {
        match error_status(&self.ready) {
            None => Ok(()),
            Some(status) => {
                self.ready.clear();
                Err(ErrorStatus(status))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(pieces: &[&[u8]]) -> Result<Vec<u8>, ErrorStatus> {
        let (mut held, mut all) = (Pieces::new(), Vec::new());
        for piece in pieces {
            held.take(Bytes::copy_from_slice(piece))?;
            all.extend_from_slice(&held.ready());
        }
        held.end()?;
        all.extend_from_slice(&held.ready());
        Ok(all)
    }

    #[test]
    fn an_error_cut_into_pieces_is_still_an_error() {
        assert_eq!(all(&[b"HTTP/1.1 5", b"00 Intern", b"al"]), Err(ErrorStatus(500)));
        assert_eq!(all(&[b"HTTP/1.1 500 Internal"]), Err(ErrorStatus(500)));
        assert_eq!(all(&[b"HTTP/1.1 5"]).unwrap(), b"HTTP/1.1 5");
    }

    proptest! {
        #[test]
        fn data_comes_through_whole_however_it_is_cut(data in proptest::collection::vec(any::<u8>(), 0..60), cut in 1..20_usize) {
            let pieces: Vec<&[u8]> = data.chunks(cut).collect();
            prop_assert_eq!(all(&pieces).unwrap(), data);
        }
    }
}
