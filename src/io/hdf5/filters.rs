//! What a chunk went through before it was stored, undone from the last to the first: deflate, shuffle, Fletcher's checksum, and
//! h5py's own LZF.

use std::io::Read;

use super::bytes::{Cursor, PLAINER, damaged, refuse};
use crate::io::pickle::Refusal;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Filter {
    Deflate,
    /// Bytes of elements of so many, by significance.
    Shuffle(usize),
    Fletcher32,
    Lzf,
}

const MAX_FILTERS: usize = 32;

pub(super) fn read(cursor: &mut Cursor) -> Result<Vec<Filter>, Refusal> {
    let [version, count] = [cursor.u8()?, cursor.u8()?];
    match version {
        1 => cursor.skip(6)?,
        2 => {}
        _ => return Err(refuse("has filters of a newer kind", PLAINER)),
    }
    if usize::from(count) > MAX_FILTERS {
        return Err(damaged("more filters than can be"));
    }
    let mut filters = Vec::new();
    for _ in 0..count {
        let id = cursor.u16()?;
        let name_bytes = if version == 1 || id >= 256 { cursor.u16()? } else { 0 };
        cursor.skip(2)?; // whether it may be left out
        let values = usize::from(cursor.u16()?);
        let padded = if version == 1 { usize::from(name_bytes).next_multiple_of(8) } else { name_bytes.into() };
        let name = cursor.take(padded)?;
        let first = if values > 0 { Some(cursor.u32()?) } else { None };
        cursor.skip(4 * values.saturating_sub(1))?;
        if version == 1 && values % 2 == 1 {
            cursor.skip(4)?;
        }
        filters.push(match id {
            1 => Filter::Deflate,
            2 => Filter::Shuffle(first.filter(|&n| n > 0).ok_or_else(|| damaged("a shuffle of nothing"))? as usize),
            3 => Filter::Fletcher32,
            32000 => Filter::Lzf,
            _ => {
                let called = match id {
                    4 => "szip".into(),
                    5 => "nbit".into(),
                    6 => "scale-offset".into(),
                    _ => String::from_utf8_lossy(name).trim_end_matches('\0').to_string(),
                };
                let problem = format!("is compressed by a filter that is not read ({called}, number {id})");
                return Err(refuse(problem, "write it again with compression=\"gzip\" or none"));
            }
        });
    }
    Ok(filters)
}

/// A chunk as it was before it was stored. `mask` has a bit for every filter that was left out; `most_bytes` is what a chunk takes.
pub(super) fn undo(filters: &[Filter], mask: u32, stored: &[u8], most_bytes: usize) -> Result<Vec<u8>, Refusal> {
    let mut bytes = stored.to_vec();
    for (at, filter) in filters.iter().enumerate().rev() {
        if mask >> at & 1 == 1 {
            continue;
        }
        bytes = match *filter {
            // A checksum may have come before, and be packed too.
            Filter::Deflate => inflate(&bytes, most_bytes + 4 * filters.len())?,
            Filter::Lzf => unpack_lzf(&bytes, most_bytes + 4 * filters.len())?,
            Filter::Shuffle(element) => unshuffle(&bytes, element),
            Filter::Fletcher32 => {
                let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged("a chunk without a checksum"))?;
                let (sum, found) = (u32::from_le_bytes(*sum), fletcher32(body));
                // Files of HDF5 before 1.6.3 have the bytes of each half exchanged.
                let exchanged = (found & 0x00ff_00ff) << 8 | (found >> 8) & 0x00ff_00ff;
                if sum != found && sum != exchanged {
                    return Err(damaged("a chunk whose checksum is not its own"));
                }
                bytes.truncate(bytes.len() - 4);
                bytes
            }
        };
    }
    Ok(bytes)
}

fn inflate(bytes: &[u8], most_bytes: usize) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    let mut decoder = flate2::read::ZlibDecoder::new(bytes).take(most_bytes as u64);
    decoder.read_to_end(&mut out).map_err(|_| damaged("a chunk that does not unpack"))?;
    Ok(out)
}

/// LibLZF: runs of literal bytes, and copies of up to 264 bytes from up to 8 KiB before.
fn unpack_lzf(bytes: &[u8], most_bytes: usize) -> Result<Vec<u8>, Refusal> {
    let broken = || damaged("a chunk that does not unpack");
    let mut out: Vec<u8> = Vec::new();
    let mut from = bytes.iter().copied();
    while let Some(control) = from.next() {
        let control = usize::from(control);
        if control < 32 {
            let start = out.len();
            out.extend(from.by_ref().take(control + 1));
            if out.len() != start + control + 1 {
                return Err(broken());
            }
        } else {
            let mut length = control >> 5;
            if length == 7 {
                length += usize::from(from.next().ok_or_else(broken)?);
            }
            let back = (control & 31) << 8 | usize::from(from.next().ok_or_else(broken)?);
            let start = out.len().checked_sub(back + 1).ok_or_else(broken)?;
            // A copy may run into what it makes.
            for at in start..start + length + 2 {
                out.push(out[at]);
            }
        }
        if out.len() > most_bytes {
            return Err(broken());
        }
    }
    Ok(out)
}

fn unshuffle(bytes: &[u8], element: usize) -> Vec<u8> {
    let count = bytes.len() / element;
    let mut out = bytes.to_vec();
    if count > 1 {
        for (significance, plane) in bytes[..count * element].chunks_exact(count).enumerate() {
            for (byte, slot) in plane.iter().zip(out[significance..].iter_mut().step_by(element)) {
                *slot = *byte;
            }
        }
    }
    out
}

/// Fletcher's sums over big-endian words of 16 bits, a last odd byte being the high one.
fn fletcher32(bytes: &[u8]) -> u32 {
    let [mut first, mut second] = [0u32; 2];
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    // 360 words are the most whose sums fit.
    for run in bytes.chunks(720) {
        for pair in run.chunks(2) {
            first += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
            second += first;
        }
        (first, second) = (fold(first), fold(second));
    }
    fold(second) << 16 | fold(first)
}
