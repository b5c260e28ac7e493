//! The TIFF container: classic and BigTIFF, either byte order, chained directories and SubIFDs, any tag.
//!
//! Source: TIFF 6.0, the BigTIFF proposal, TIFF Technical Note 1 (SubIFDs).
//! Why not the `tiff` crate here: it refuses a whole file when one directory holds something it does not know
//! (a compression number, a photometric value, a string that is not UTF-8), and stores every tile offset as a 32-byte
//! enum. Slides are full of such directories, so this layer reads tags only and leaves their meaning to [`super::page`].
//! Damage behind the first directory (a chain or a SubIFD that loops, leaves the file or makes no sense) does not refuse
//! the file: what was read before it stands, and [`Container::faults`] says what was not.
//! Limits: at most [`MAX_DIRECTORIES`] directories, [`MAX_TAGS`] tags in one and [`MAX_ALL_TAGS`] in all, because
//! directories that overlap would multiply a small file; a value must lie inside the file, so what is allocated is bounded
//! by the file's length, and text by [`MAX_TEXT_BYTES`]: a file may be sparse and claim any length.

use std::collections::HashSet;

use super::file::PositionedFile;
use crate::error::{Error, Result};

/// More directories than any slide has (OME-TIFF time series come nearest); bounds the work on a hostile chain.
pub const MAX_DIRECTORIES: usize = 16_384;
/// Hamamatsu writes some 50 tags into a directory, Bio-Formats 20.
pub const MAX_TAGS: u64 = 4096;
/// 24 bytes each.
pub const MAX_ALL_TAGS: usize = 1 << 20;
/// OME-XML of a screen with a hundred thousand planes stays below.
pub const MAX_TEXT_BYTES: u64 = 32 << 20;

/// Tag numbers used by this module tree.
pub mod tag {
    pub const NEW_SUBFILE_TYPE: u16 = 254;
    pub const OLD_SUBFILE_TYPE: u16 = 255;
    pub const IMAGE_WIDTH: u16 = 256;
    pub const IMAGE_LENGTH: u16 = 257;
    pub const BITS_PER_SAMPLE: u16 = 258;
    pub const COMPRESSION: u16 = 259;
    pub const PHOTOMETRIC: u16 = 262;
    pub const FILL_ORDER: u16 = 266;
    pub const IMAGE_DESCRIPTION: u16 = 270;
    pub const MAKE: u16 = 271;
    pub const MODEL: u16 = 272;
    pub const STRIP_OFFSETS: u16 = 273;
    pub const SAMPLES_PER_PIXEL: u16 = 277;
    pub const ROWS_PER_STRIP: u16 = 278;
    pub const STRIP_BYTE_COUNTS: u16 = 279;
    pub const X_RESOLUTION: u16 = 282;
    pub const Y_RESOLUTION: u16 = 283;
    pub const PLANAR_CONFIGURATION: u16 = 284;
    pub const RESOLUTION_UNIT: u16 = 296;
    pub const SOFTWARE: u16 = 305;
    pub const DATE_TIME: u16 = 306;
    pub const ARTIST: u16 = 315;
    pub const PREDICTOR: u16 = 317;
    pub const COLOR_MAP: u16 = 320;
    pub const TILE_WIDTH: u16 = 322;
    pub const TILE_LENGTH: u16 = 323;
    pub const TILE_OFFSETS: u16 = 324;
    pub const TILE_BYTE_COUNTS: u16 = 325;
    pub const SUB_IFDS: u16 = 330;
    pub const INK_SET: u16 = 332;
    pub const EXTRA_SAMPLES: u16 = 338;
    pub const SAMPLE_FORMAT: u16 = 339;
    pub const JPEG_TABLES: u16 = 347;
    pub const YCBCR_COEFFICIENTS: u16 = 529;
    pub const YCBCR_SUBSAMPLING: u16 = 530;
    pub const XMP: u16 = 700;
    pub const ICC_PROFILE: u16 = 34675;
    /// Hamamatsu's mark of an NDPI file.
    pub const NDPI_FORMAT: u16 = 65420;
}

/// One tag of one directory; its value is read when asked for.
#[derive(Clone, Copy, Debug)]
struct Entry {
    tag: u16,
    field_type: u16,
    count: u64,
    /// The value itself when it fits, else where it lies.
    field: [u8; 8],
}

/// One image file directory with the directories it names in SubIFDs.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// Byte offset in the file: the directory's identity.
    pub offset: u64,
    entries: Vec<Entry>,
    pub children: Vec<Directory>,
}

impl Directory {
    pub fn has(&self, tag: u16) -> bool {
        self.entries.iter().any(|e| e.tag == tag)
    }
}

/// All directories of one file.
#[derive(Debug)]
pub struct Container {
    pub file: PositionedFile,
    pub big_endian: bool,
    pub big_tiff: bool,
    /// The chain, in file order. Never empty.
    pub directories: Vec<Directory>,
    /// Directories that could not be read, one clause each.
    pub faults: Vec<String>,
    /// The chain broke off: directories behind its last one may be missing.
    pub chain_is_broken: bool,
}

/// What reading directories has seen so far.
#[derive(Default)]
struct Walk {
    offsets: HashSet<u64>,
    tags: usize,
}

fn field_bytes(field_type: u16) -> Option<u64> {
    Some(match field_type {
        1 | 2 | 6 | 7 => 1,
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16 | 17 | 18 => 8,
        _ => return None,
    })
}

impl Container {
    /// True if the first bytes are those of a TIFF or BigTIFF file.
    pub fn recognises(head: &[u8]) -> bool {
        matches!(head, [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..])
    }

    pub fn open(file: PositionedFile) -> Result<Container> {
        let head = file.read(0, file.len_bytes().min(16))?;
        let broken = |problem: &str| Error::input(file.path(), problem, "it is not a readable TIFF, copy it again");
        if !Container::recognises(&head) {
            return Err(broken("has no TIFF signature"));
        }
        let big_endian = head[0] == b'M';
        let big_tiff = head[2].max(head[3]) == 43;
        if head.len() < if big_tiff { 16 } else { 8 } {
            return Err(broken("ends inside the TIFF header"));
        }
        let number = Numbers { big_endian };
        let first = if big_tiff {
            if number.u16(&head[4..6]) != 8 || number.u16(&head[6..8]) != 0 {
                return Err(broken("has a BigTIFF header with offsets that are not 8 bytes"));
            }
            number.u64(&head[8..16])
        } else {
            u64::from(number.u32(&head[4..8]))
        };
        let (directories, faults, chain_is_broken) = (Vec::new(), Vec::new(), false);
        let mut container = Container { file, big_endian, big_tiff, directories, faults, chain_is_broken };
        let mut walk = Walk::default();
        let mut at = first;
        while at != 0 {
            let (mut directory, next) = match container.read_directory(at, &mut walk) {
                Ok(read) => read,
                Err(error) if container.directories.is_empty() => return Err(error),
                Err(error) => {
                    container.faults.push(clause(error)?);
                    container.chain_is_broken = true;
                    break;
                }
            };
            let number = container.directories.len() + 1;
            if let Err(error) = container.read_children(&mut directory, &mut walk) {
                let fault = format!("a SubIFD of directory {number}: {}", clause(error)?);
                container.faults.push(fault);
            }
            container.directories.push(directory);
            at = next;
        }
        if container.directories.is_empty() {
            return Err(Error::input(
                container.file.path(),
                "holds no image directory",
                "the file is empty or was not closed by the program that wrote it, export it again",
            ));
        }
        Ok(container)
    }

    /// Reads what SubIFDs names. On an error the children read before it stay.
    fn read_children(&self, directory: &mut Directory, walk: &mut Walk) -> Result<()> {
        let most = MAX_DIRECTORIES as u64 + 1;
        let Ok(Some(offsets)) = self.first_uints(directory, tag::SUB_IFDS, most) else { return Ok(()) };
        // A single SubIFD may be the head of a chain; several are a list, which some writers also chain.
        let chained = offsets.len() == 1;
        for mut at in offsets {
            while at != 0 {
                let (child, next) = self.read_directory(at, walk)?;
                directory.children.push(child);
                at = if chained { next } else { 0 };
            }
        }
        Ok(())
    }

    fn read_directory(&self, at: u64, walk: &mut Walk) -> Result<(Directory, u64)> {
        let path = self.file.path();
        if at >= self.file.len_bytes() {
            return Err(Error::input(
                path,
                format!(
                    "an image directory at byte {at} lies past the end of the file ({} bytes)",
                    self.file.len_bytes()
                ),
                "the file is truncated, copy it again",
            ));
        }
        if !walk.offsets.insert(at) {
            return Err(Error::input(
                path,
                format!("the image directory at byte {at} is reached twice, the directories form a loop"),
                "the file is damaged, export it again",
            ));
        }
        if walk.offsets.len() > MAX_DIRECTORIES {
            return Err(Error::input(
                path,
                format!("has more than {MAX_DIRECTORIES} image directories"),
                "split the file into one file per slide",
            ));
        }
        let number = self.numbers();
        let (count_bytes, entry_bytes, next_bytes) = if self.big_tiff { (8, 20, 8) } else { (2, 12, 4) };
        let head = self.file.read(at, count_bytes)?;
        let count = if self.big_tiff { number.u64(&head) } else { u64::from(number.u16(&head)) };
        if count > MAX_TAGS {
            return Err(Error::input(
                path,
                format!("the image directory at byte {at} claims {count} tags"),
                "the file is damaged, copy it again",
            ));
        }
        walk.tags += count as usize;
        if walk.tags > MAX_ALL_TAGS {
            return Err(Error::input(
                path,
                format!("has more than {MAX_ALL_TAGS} tags in its image directories"),
                "the file is damaged, copy it again",
            ));
        }
        let body = self.file.read(at + count_bytes, count * entry_bytes)?;
        let entries = body
            .chunks_exact(entry_bytes as usize)
            .map(|raw| {
                let (count, value) = if self.big_tiff {
                    (number.u64(&raw[4..12]), &raw[12..20])
                } else {
                    (u64::from(number.u32(&raw[4..8])), &raw[8..12])
                };
                let mut field = [0; 8];
                field[..value.len()].copy_from_slice(value);
                Entry { tag: number.u16(&raw[..2]), field_type: number.u16(&raw[2..4]), count, field }
            })
            .collect();
        // Some writers end the file right behind the last directory: no pointer means no successor.
        let next_at = at + count_bytes + count * entry_bytes;
        let next = match self.file.read(next_at, next_bytes) {
            Ok(raw) if self.big_tiff => number.u64(&raw),
            Ok(raw) => u64::from(number.u32(&raw)),
            Err(_) => 0,
        };
        Ok((Directory { offset: at, entries, children: Vec::new() }, next))
    }

    fn numbers(&self) -> Numbers {
        Numbers { big_endian: self.big_endian }
    }

    /// The raw bytes of a tag's first `most` values in file order with its field type, or `None` if the directory lacks
    /// the tag.
    fn raw(&self, directory: &Directory, tag: u16, most: u64) -> Result<Option<(u16, Vec<u8>)>> {
        let Some(entry) = directory.entries.iter().find(|e| e.tag == tag) else { return Ok(None) };
        let unit = field_bytes(entry.field_type).ok_or_else(|| self.bad_tag(tag, "has an unknown field type"))?;
        let size = entry.count.checked_mul(unit).ok_or_else(|| self.bad_tag(tag, "claims an impossible size"))?;
        let inline = if self.big_tiff { 8 } else { 4 };
        let wanted = entry.count.min(most) * unit;
        if size <= inline {
            return Ok(Some((entry.field_type, entry.field[..wanted as usize].to_vec())));
        }
        let number = self.numbers();
        let at = if self.big_tiff { number.u64(&entry.field) } else { u64::from(number.u32(&entry.field[..4])) };
        if at.checked_add(size).is_none_or(|end| end > self.file.len_bytes()) {
            return Err(self.bad_tag(tag, &format!("lies past the end of the file ({size} bytes at {at})")));
        }
        Ok(Some((entry.field_type, self.file.read(at, wanted)?)))
    }

    /// How many values a tag claims to have; 0 if the directory lacks it.
    pub fn count(&self, directory: &Directory, tag: u16) -> u64 {
        directory.entries.iter().find(|e| e.tag == tag).map_or(0, |e| e.count)
    }

    fn bad_tag(&self, tag: u16, problem: &str) -> Error {
        Error::input(
            self.file.path(),
            format!("TIFF tag {tag} {problem}"),
            "the file is truncated or damaged, copy it again",
        )
    }

    /// The first values of an unsigned integer tag, at most `most`, however many it claims.
    pub fn first_uints(&self, directory: &Directory, tag: u16, most: u64) -> Result<Option<Vec<u64>>> {
        let Some((field_type, raw)) = self.raw(directory, tag, most)? else { return Ok(None) };
        let number = self.numbers();
        Ok(Some(match field_type {
            1 | 7 => raw.iter().map(|&b| u64::from(b)).collect(),
            3 => raw.chunks_exact(2).map(|b| u64::from(number.u16(b))).collect(),
            4 | 13 => raw.chunks_exact(4).map(|b| u64::from(number.u32(b))).collect(),
            16 | 18 => raw.chunks_exact(8).map(|b| number.u64(b)).collect(),
            _ => return Err(self.bad_tag(tag, "is not an unsigned integer")),
        }))
    }

    /// The first value of an unsigned integer tag.
    pub fn uint(&self, directory: &Directory, tag: u16) -> Result<Option<u64>> {
        match self.first_uints(directory, tag, 1)? {
            Some(values) => values.first().copied().map(Some).ok_or_else(|| self.bad_tag(tag, "has no value")),
            None => Ok(None),
        }
    }

    /// The first value of a rational or floating-point tag; a zero denominator is no value.
    pub fn real(&self, directory: &Directory, tag: u16) -> Result<Option<f64>> {
        let Some((field_type, raw)) = self.raw(directory, tag, 1)? else { return Ok(None) };
        let number = self.numbers();
        let value = match (field_type, raw.len()) {
            (5, 8..) => f64::from(number.u32(&raw[..4])) / f64::from(number.u32(&raw[4..8])),
            (10, 8..) => f64::from(number.u32(&raw[..4]) as i32) / f64::from(number.u32(&raw[4..8]) as i32),
            (11, 4..) => f64::from(f32::from_bits(number.u32(&raw[..4]))),
            (12, 8..) => f64::from_bits(number.u64(&raw[..8])),
            (3, 2..) => f64::from(number.u16(&raw[..2])),
            (4, 4..) => f64::from(number.u32(&raw[..4])),
            _ => return Ok(None),
        };
        Ok(value.is_finite().then_some(value))
    }

    /// A text tag up to its first zero byte. Bytes that are not UTF-8 are read as Latin-1, which older scanners write.
    pub fn text(&self, directory: &Directory, tag: u16) -> Result<Option<String>> {
        let Some(mut raw) = self.bytes(directory, tag)? else { return Ok(None) };
        if let Some(end) = raw.iter().position(|&b| b == 0) {
            raw.truncate(end);
        }
        Ok(Some(match String::from_utf8(raw) {
            Ok(text) => text,
            Err(not_utf8) => not_utf8.as_bytes().iter().map(|&b| char::from(b)).collect(),
        }))
    }

    /// The bytes of an opaque tag (JPEGTables, XMP), at most [`MAX_TEXT_BYTES`].
    pub fn bytes(&self, directory: &Directory, tag: u16) -> Result<Option<Vec<u8>>> {
        if self.count(directory, tag) > MAX_TEXT_BYTES {
            return Err(self.bad_tag(tag, &format!("claims more than {} MiB", MAX_TEXT_BYTES >> 20)));
        }
        Ok(self.raw(directory, tag, u64::MAX)?.map(|(_, raw)| raw))
    }
}

/// What is wrong with the file, without its name and the remedy; any other error stays one.
pub fn clause(error: Error) -> Result<String> {
    match error {
        Error::Input { problem, .. } => Ok(problem),
        other => Err(other),
    }
}

/// Integers in the file's byte order. Callers pass slices of at least the integer's size.
#[derive(Clone, Copy)]
struct Numbers {
    big_endian: bool,
}

impl Numbers {
    fn wide(self, bytes: &[u8]) -> u64 {
        let join = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
        if self.big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
    }

    fn u16(self, bytes: &[u8]) -> u16 {
        self.wide(bytes) as u16
    }

    fn u32(self, bytes: &[u8]) -> u32 {
        self.wide(bytes) as u32
    }

    fn u64(self, bytes: &[u8]) -> u64 {
        self.wide(bytes)
    }
}
