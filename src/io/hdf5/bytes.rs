//! The bytes of a file, read at addresses and never beyond the end.

use crate::io::pickle::Refusal;

pub(super) const AGAIN: &str = "write or download it again";
/// What to do about a file that is whole and of a kind that is not read.
pub(super) const PLAINER: &str = "write its arrays into a new file with h5py's defaults";

pub(super) fn refuse(problem: impl Into<String>, remedy: &'static str) -> Refusal {
    Refusal { problem: problem.into(), remedy }
}

pub(super) fn damaged(what: &str) -> Refusal {
    refuse(format!("is damaged ({what})"), AGAIN)
}

/// A file from its superblock on, and how many bytes its addresses and lengths take.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    pub data: &'a [u8],
    pub address_bytes: usize,
    pub length_bytes: usize,
}

impl<'a> Image<'a> {
    /// Everything from an address to the end of the file.
    pub fn at(self, address: u64) -> Result<Cursor<'a>, Refusal> {
        let start = usize::try_from(address).ok();
        let rest =
            start.and_then(|start| self.data.get(start..)).ok_or_else(|| damaged("an address beyond its end"))?;
        Ok(Cursor { file: self, rest })
    }

    pub fn slice(self, address: u64, count: u64) -> Result<&'a [u8], Refusal> {
        let count = usize::try_from(count).map_err(|_| damaged("a length beyond its end"))?;
        self.at(address)?.take(count)
    }

    /// `count` bytes at an address, the last four a checksum of those before, which is left out of what is given back.
    pub fn checked(self, address: u64, count: usize) -> Result<Cursor<'a>, Refusal> {
        let mut block = self.at(address)?;
        let body = block.take(count.checked_sub(4).ok_or_else(|| damaged("a block without room"))?)?;
        match block.u32()? == lookup3(body) {
            true => Ok(Cursor { file: self, rest: body }),
            false => Err(damaged("a checksum of its structure that is not its own")),
        }
    }
}

/// Bytes that are read one after the other.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub file: Image<'a>,
    pub rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| damaged("it ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn part(&mut self, count: usize) -> Result<Cursor<'a>, Refusal> {
        Ok(Cursor { file: self.file, rest: self.take(count)? })
    }

    pub fn skip(&mut self, count: usize) -> Result<(), Refusal> {
        self.take(count).map(|_| ())
    }

    pub fn signature(&mut self, wanted: &[u8; 4]) -> Result<(), Refusal> {
        match self.take(4)? == wanted {
            true => Ok(()),
            false => Err(damaged(&format!("no {} where one should be", String::from_utf8_lossy(wanted)))),
        }
    }

    /// A little-endian number of up to 8 bytes.
    pub fn uint(&mut self, bytes: usize) -> Result<u64, Refusal> {
        let mut wide = [0; 8];
        let taken = self.take(bytes)?;
        wide.get_mut(..bytes).ok_or_else(|| damaged("a number of more than 8 bytes"))?.copy_from_slice(taken);
        Ok(u64::from_le_bytes(wide))
    }

    pub fn u8(&mut self) -> Result<u8, Refusal> {
        Ok(self.take(1)?[0])
    }

    pub fn u16(&mut self) -> Result<u16, Refusal> {
        self.uint(2).map(|v| v as u16)
    }

    pub fn u32(&mut self) -> Result<u32, Refusal> {
        self.uint(4).map(|v| v as u32)
    }

    pub fn length(&mut self) -> Result<u64, Refusal> {
        self.uint(self.file.length_bytes)
    }

    /// An address, or `None` for the one of all ones: nothing is stored.
    pub fn address(&mut self) -> Result<Option<u64>, Refusal> {
        let bytes = self.file.address_bytes;
        let value = self.uint(bytes)?;
        Ok((value != u64::MAX >> (64 - 8 * bytes)).then_some(value))
    }
}

/// Bob Jenkins's lookup3 with initial value 0: the checksum of the format's newer structures.
pub(super) fn lookup3(bytes: &[u8]) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(bytes.len() as u32);
    let [mut a, mut b, mut c] = [start; 3];
    let word = |at: &[u8]| at.iter().rev().fold(0u32, |word, &byte| word << 8 | u32::from(byte));
    let mut rest = bytes;
    while rest.len() > 12 {
        a = a.wrapping_add(word(&rest[..4]));
        b = b.wrapping_add(word(&rest[4..8]));
        c = c.wrapping_add(word(&rest[8..12]));
        rest = &rest[12..];
        for (turn, shift) in [4, 6, 8, 16, 19, 4].into_iter().enumerate() {
            let [x, y, z] = match turn % 3 {
                0 => [&mut a, &mut c, &mut b],
                1 => [&mut b, &mut a, &mut c],
                _ => [&mut c, &mut b, &mut a],
            };
            *x = x.wrapping_sub(*y) ^ y.rotate_left(shift);
            *y = y.wrapping_add(*z);
        }
    }
    if rest.is_empty() {
        return c;
    }
    let mut last = [0; 12];
    last[..rest.len()].copy_from_slice(rest);
    a = a.wrapping_add(word(&last[..4]));
    b = b.wrapping_add(word(&last[4..8]));
    c = c.wrapping_add(word(&last[8..]));
    for (turn, shift) in [14, 11, 25, 16, 4, 14, 24].into_iter().enumerate() {
        let (x, y) = match turn % 3 {
            0 => (&mut c, b),
            1 => (&mut a, c),
            _ => (&mut b, a),
        };
        *x = (*x ^ y).wrapping_sub(y.rotate_left(shift));
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the author's own test driver.
    #[test]
    fn lookup3_is_jenkins_own() {
        assert_eq!(lookup3(b""), 0xdead_beef);
        assert_eq!(lookup3(b"Four score and seven years ago"), 0x1777_0551);
    }
}
