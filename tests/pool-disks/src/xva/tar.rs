//! Tar headers: written in the old V7 form as hosts do, read in that form and as ustar. Pure.

use super::XvaFault;

/// Bytes of a header, and what members are padded to.
pub(super) const UNIT: usize = 512;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) size: u64,
    /// Whether it is an extended header about the next member, to be skipped.
    pub(super) extended: bool,
}

/// Bytes that follow a member of `size` bytes, up to the next header.
pub(super) fn padding(size: u64) -> u64 {
    size.next_multiple_of(UNIT as u64) - size
}

/// A V7 header: no magic, type NUL, mode 0400, owner 0.
pub(super) fn header(name: &str, size: u64) -> [u8; UNIT] {
    let mut bytes = [0; UNIT];
    let mut put = |at: usize, text: &str| bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name.get(..name.len().min(100)).unwrap_or_default());
    put(100, "0000400");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    let sum = checksum(&bytes);
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

/// Reads a header; `None` is the zero block that ends an archive.
pub(super) fn parse(bytes: &[u8; UNIT]) -> Result<Option<Member>, XvaFault> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let bad = |why| XvaFault::BadHeader { why };
    if octal(&bytes[148..156]) != Some(u64::from(checksum(bytes))) {
        return Err(bad("its checksum does not match"));
    }
    let size = octal(&bytes[124..136]).ok_or(bad("its size is no octal number"))?;
    let mut name = text(&bytes[..100]).ok_or(bad("its name is no text"))?.to_owned();
    if &bytes[257..262] == b"ustar" {
        let prefix = text(&bytes[345..500]).ok_or(bad("its prefix is no text"))?;
        if !prefix.is_empty() {
            name = format!("{prefix}/{name}");
        }
    }
    match bytes[156] {
        0 | b'0' => Ok(Some(Member { name, size, extended: false })),
        b'x' | b'g' => Ok(Some(Member { name, size, extended: true })),
        _ => Err(bad("it is no regular file")),
    }
}

/// The sum of all bytes, those of the checksum counted as spaces.
fn checksum(bytes: &[u8; UNIT]) -> u32 {
    let own = 148..156;
    bytes.iter().enumerate().map(|(at, byte)| if own.contains(&at) { 32 } else { u32::from(*byte) }).sum()
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = text(field)?.trim_matches(' ');
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    std::str::from_utf8(field.get(..end)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_the_old_form_and_parses() {
        let header = header("Ref:12/00000007", 1 << 20);
        assert_eq!(&header[..16], b"Ref:12/00000007\0");
        assert_eq!(&header[100..108], b"0000400\0");
        assert_eq!(&header[124..136], b"00004000000\0");
        assert_eq!((header[156], &header[257..263]), (0, [0; 6].as_slice()));
        let member = Member { name: "Ref:12/00000007".to_owned(), size: 1 << 20, extended: false };
        assert_eq!(parse(&header), Ok(Some(member)));
        assert_eq!(parse(&[0; UNIT]), Ok(None));
    }

    #[test]
    fn one_flipped_bit_is_noticed() {
        let good = header("ova.xml", 77);
        for at in (0..UNIT).filter(|at| !(154..156).contains(at)) {
            let mut bad = good;
            bad[at] ^= 1;
            assert!(parse(&bad).is_err(), "byte {at}");
        }
    }
}
