//! The PTX inside what programs carry: a text, or a container of images for several GPUs ("fat binary"), packed or not.
//!
//! A container is a header of 16 bytes (magic, version, its own size, the size of what follows) and a list of images.
//! Each starts with a header that says what it is, how long it and its content are, for which GPU, and how it is
//! packed.

use std::io::Read as _;

use crate::device::Capability;

const CONTAINER: u32 = 0xba55_ed50;
const PTX: u16 = 1;
const PACKED_LZ4: u64 = 1 << 13;
const PACKED_ZSTD: u64 = 1 << 15;
/// No PTX is longer; what says so is damaged.
const MOST_BYTES: u64 = 1 << 30;

/// Bytes of the container at the start of `bytes`, headers and all.
pub(crate) fn container_bytes(head: &[u8; 16]) -> Option<usize> {
    let magic = u32::from_le_bytes(head[..4].try_into().ok()?);
    let header = u16::from_le_bytes(head[6..8].try_into().ok()?);
    let content = u64::from_le_bytes(head[8..].try_into().ok()?);
    (magic == CONTAINER && content < MOST_BYTES).then_some(usize::from(header) + content as usize)
}

struct Image<'b> {
    kind: u16,
    architecture: u32,
    flags: u64,
    packed: &'b [u8],
    unpacked_bytes: u64,
}

fn images(container: &[u8]) -> Result<Vec<Image<'_>>, String> {
    let damaged = || "a damaged fat binary".to_owned();
    let u16_at = |at: usize| Some(u16::from_le_bytes(container.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(container.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(container.get(at..at + 8)?.try_into().ok()?));
    let mut at = usize::from(u16_at(6).ok_or_else(damaged)?);
    let mut all = Vec::new();
    while at < container.len() {
        let image = (|| {
            let (header, room) = (u32_at(at + 4)? as usize, u64_at(at + 8)?);
            let (held, flags) = (u32_at(at + 16)?, u64_at(at + 40)?);
            let packed = flags & (PACKED_LZ4 | PACKED_ZSTD) != 0;
            let content = container.get(at + header..)?.get(..usize::try_from(room).ok()?)?;
            let content = if packed { content.get(..held as usize)? } else { content };
            let unpacked_bytes = if packed { u64_at(at + 56)? } else { room };
            let image =
                Image { kind: u16_at(at)?, architecture: u32_at(at + 28)?, flags, packed: content, unpacked_bytes };
            Some((image, header + room as usize))
        })();
        let (image, bytes) = image.filter(|(_, bytes)| *bytes > 0).ok_or_else(damaged)?;
        all.push(image);
        at += bytes;
    }
    Ok(all)
}

impl Image<'_> {
    fn text(&self) -> Result<String, String> {
        if self.unpacked_bytes > MOST_BYTES {
            return Err("a damaged fat binary".into());
        }
        let mut bytes = if self.flags & PACKED_ZSTD != 0 {
            let mut unpacked = Vec::with_capacity(self.unpacked_bytes as usize);
            let unpack = ruzstd::decoding::StreamingDecoder::new(self.packed).map_err(|e| e.to_string());
            let read = unpack.and_then(|d| d.take(MOST_BYTES).read_to_end(&mut unpacked).map_err(|e| e.to_string()));
            read.map_err(|e| format!("PTX that cannot be unpacked ({e}); compile with nvcc --no-compress"))?;
            unpacked
        } else if self.flags & PACKED_LZ4 != 0 {
            unpack_lz4(self.packed, self.unpacked_bytes as usize)
                .ok_or("PTX that cannot be unpacked; compile with nvcc --no-compress")?
        } else {
            self.packed.to_vec()
        };
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
        String::from_utf8(bytes).map_err(|_| "PTX that is no text".into())
    }
}

/// The PTX of a container that fits the GPU best: for its own architecture, else for the newest before it.
pub(crate) fn best_ptx(container: &[u8], capability: Capability) -> Result<String, String> {
    let images = images(container)?;
    let mut fitting: Vec<&Image<'_>> = images.iter().filter(|i| i.kind == PTX).collect();
    let held: Vec<String> = fitting.iter().map(|i| format!("compute_{}", i.architecture)).collect();
    fitting.retain(|i| i.architecture <= capability.number());
    fitting.sort_by_key(|i| std::cmp::Reverse(i.architecture));
    // Of one architecture there may be a text that runs there alone (`sm_90a`) beside one for all that follow.
    for image in fitting {
        let text = image.text()?;
        let alone = text.lines().find_map(|line| line.strip_prefix(".target ")).is_some_and(|target| {
            let name = target.split(',').next().unwrap_or_default().trim();
            name.ends_with('a')
        });
        if !alone || image.architecture == capability.number() {
            return Ok(text);
        }
    }
    Err(match held.is_empty() {
        true => {
            "the program carries machine code alone, no PTX; compile it with nvcc -arch=sm_80 (which keeps PTX) or \
                 -gencode arch=compute_80,code=compute_80"
                .into()
        }
        false => format!(
            "the program carries PTX for {}, none for a GPU of {}; choose another with --arch",
            held.join(" and "),
            capability.number()
        ),
    })
}

/// A block of LZ4: literals and copies of what came before, by turns.
fn unpack_lz4(packed: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes);
    let mut rest = packed.iter().copied();
    let long = |first: u8, rest: &mut dyn Iterator<Item = u8>| {
        let mut length = usize::from(first);
        if first == 15 {
            loop {
                let more = rest.next()?;
                length += usize::from(more);
                if more != 255 {
                    break;
                }
            }
        }
        Some(length)
    };
    while out.len() < bytes {
        let token = rest.next()?;
        let literals = long(token >> 4, &mut rest)?;
        for _ in 0..literals {
            out.push(rest.next()?);
        }
        if out.len() >= bytes {
            break;
        }
        let back = usize::from(u16::from_le_bytes([rest.next()?, rest.next()?]));
        let length = long(token & 15, &mut rest)? + 4;
        let start = out.len().checked_sub(back).filter(|_| back > 0)?;
        for k in 0..length {
            out.push(out[start + k]);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

    fn container(images: &[(u16, u32, u64, &[u8], usize)]) -> Vec<u8> {
        let mut content = Vec::new();
        for (kind, architecture, flags, bytes, unpacked) in images {
            let room = bytes.len().next_multiple_of(8);
            let mut header = vec![0; 64];
            header[..2].copy_from_slice(&kind.to_le_bytes());
            header[4..8].copy_from_slice(&64u32.to_le_bytes());
            header[8..16].copy_from_slice(&(room as u64).to_le_bytes());
            header[16..20].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            header[28..32].copy_from_slice(&architecture.to_le_bytes());
            header[40..48].copy_from_slice(&flags.to_le_bytes());
            header[56..64].copy_from_slice(&(*unpacked as u64).to_le_bytes());
            content.extend(header);
            content.extend_from_slice(bytes);
            content.resize(content.len() + room - bytes.len(), 0);
        }
        let mut all = CONTAINER.to_le_bytes().to_vec();
        all.extend([1, 0, 16, 0]);
        all.extend((content.len() as u64).to_le_bytes());
        all.extend(content);
        all
    }

    #[test]
    fn the_newest_text_that_the_gpu_runs_is_chosen() {
        let old = TEXT.as_bytes();
        let hopper = TEXT.replace("sm_80", "sm_90a");
        let both =
            container(&[(2, 90, 0, b"\x7fELF", 4), (1, 80, 0, old, old.len()), (1, 90, 0, hopper.as_bytes(), 0)]);
        let at = |number: &str| best_ptx(&both, Capability::parse(number).expect("a capability"));
        assert_eq!(at("80").as_deref(), Ok(TEXT));
        assert_eq!(at("90").as_deref(), Ok(&*hopper));
        assert_eq!(at("100").as_deref(), Ok(TEXT), "sm_90a runs on 9.0 alone");
        assert!(at("75").is_err_and(|e| e.contains("compute_80")));
        let code = container(&[(2, 90, 0, b"\x7fELF", 4)]);
        assert!(best_ptx(&code, Capability { major: 9, minor: 0 }).is_err_and(|e| e.contains("machine code alone")));
        assert_eq!(container_bytes(both[..16].try_into().expect("16 bytes")), Some(both.len()));
    }

    #[test]
    fn lz4_is_unpacked_and_damage_refused() {
        // Four literals, then twelve bytes from four back, then one literal.
        let packed = [0x48, b'a', b'b', b'c', b'd', 4, 0, 0x10, b'!'];
        assert_eq!(unpack_lz4(&packed, 17).as_deref(), Some(&b"abcdabcdabcdabcd!"[..]));
        assert_eq!(unpack_lz4(&packed[..6], 17), None);
        assert_eq!(unpack_lz4(&[0x48, b'a', b'b', b'c', b'd', 9, 0], 17), None);
        let damaged = container(&[(1, 80, PACKED_ZSTD, b"not zstd", 50)]);
        let said = best_ptx(&damaged, Capability { major: 8, minor: 0 });
        assert!(said.is_err_and(|e| e.contains("--no-compress")));
        assert!(best_ptx(&container(&[])[..14], Capability { major: 8, minor: 0 }).is_err());
    }
}
