//! safetensors files: named arrays plus string metadata, read through a memory map, written whole or not at all.
//!
//! Bounds: a header of at most [`MAX_HEADER_BYTES`], because reading it takes some ten times its size.
//! The header is checked by the `safetensors` crate (its size, every offset, the total length), so a truncated or forged
//! file is refused before any of its data is touched. The writer is our own because the crate's leaves the metadata in
//! hash order: here keys are sorted, so equal contents give equal bytes. Larger element types come first, which keeps
//! every array aligned to its element inside the file.
//!
//! What is written here carries a checksum of every byte of the file, in the metadata under [`CHECKSUM`]; [`SafetensorsFile::open`]
//! checks it where there is one, and takes files of other programs, which have none.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};

use crate::{
    error::{Error, Result},
    io::{
        array::{ArrayView, ElementType, NamedArray},
        atomic,
        checksum::{Digest, Hasher},
    },
};

/// Metadata key of a file's checksum. It is taken over the whole file with zeros in its own place.
pub const CHECKSUM: &str = "isg.checksum";

/// A hundred bytes an array: the largest published models stay below 10 MiB.
const MAX_HEADER_BYTES: u64 = 32 << 20;

/// Maps a file for reading.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = super::open_file(path)?;
    // SAFETY: the map is read-only; that nobody truncates the file while it is mapped is upheld by the way this project
    // writes (a new file is renamed over the old one, whose pages stay valid) and asked of whoever else edits weights.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))
}

/// Length of a file's header, and what it says.
fn header_of(path: &Path, map: &[u8]) -> Result<(usize, Metadata)> {
    let claimed = map.first_chunk::<8>().map_or(0, |raw| u64::from_le_bytes(*raw));
    if claimed > MAX_HEADER_BYTES && claimed <= map.len() as u64 {
        let problem =
            format!("has a header of {} MiB; more than {} are not read", claimed >> 20, MAX_HEADER_BYTES >> 20);
        return Err(Error::input(path, problem, "save the weights alone"));
    }
    SafeTensors::read_metadata(map)
        .map_err(|e| Error::input(path, format!("is not a whole safetensors file ({e})"), "write or download it again"))
}

/// What a file says in its header, whose checksum is not looked at: the rest of the file is not read.
///
/// # Errors
/// `Io` where the file cannot be read; `Input` where it is no whole safetensors file.
pub fn unchecked_metadata(path: impl AsRef<Path>) -> Result<BTreeMap<String, String>> {
    let path = path.as_ref();
    let (_, header) = header_of(path, &map(path)?)?;
    Ok(header.metadata().clone().unwrap_or_default().into_iter().collect())
}

/// An open file; arrays are read from the map when asked for.
pub struct SafetensorsFile {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    header: Metadata,
    names: Vec<String>,
    checksum: Option<Digest>,
}

impl SafetensorsFile {
    /// # Errors
    /// `Io` where the file cannot be read; `Input` where it is no whole safetensors file, or carries a checksum that is not
    /// its own.
    pub fn open(path: impl AsRef<Path>) -> Result<SafetensorsFile> {
        let path = path.as_ref();
        let map = map(path)?;
        let (header_bytes, header) = header_of(path, &map)?;
        let mut names: Vec<String> = header.tensors().into_keys().collect();
        names.sort();
        let data_start = header_bytes + 8;
        let held = header.metadata().as_ref().and_then(|metadata| metadata.get(CHECKSUM));
        let checksum = held.map(|_| verified(path, &map, data_start)).transpose()?;
        Ok(SafetensorsFile { path: path.to_path_buf(), map, data_start, header, names, checksum })
    }

    /// As [`SafetensorsFile::open`], but refuses a file without a checksum: what this program wrote has one.
    pub fn open_own(path: impl AsRef<Path>) -> Result<SafetensorsFile> {
        let file = SafetensorsFile::open(path)?;
        match file.checksum {
            Some(_) => Ok(file),
            None => Err(Error::input(&file.path, "carries no checksum of this program", RUN_AGAIN)),
        }
    }

    /// The checksum that was found and is right. Two files of one checksum hold the same.
    pub fn checksum(&self) -> Option<Digest> {
        self.checksum
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All array names, sorted.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The `__metadata__` strings, without the checksum.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let strings = self.header.metadata().iter().flatten().filter(|(key, _)| *key != CHECKSUM);
        strings.map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    pub fn metadata_value(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref().and_then(|m| m.get(key)).map(String::as_str)
    }

    /// Errors where the file has no such array, or stores it in a type nothing here computes with (8-bit floats).
    pub fn get(&self, name: &str) -> Result<ArrayView<'_>> {
        let info = self
            .header
            .info(name)
            .ok_or_else(|| Error::input(&self.path, format!("has no array {name:?}"), self.names_remedy()))?;
        let element = element_type(info.dtype).ok_or_else(|| {
            Error::input(
                &self.path,
                format!("{name}: element type {:?} is not supported", info.dtype),
                "store it as f32",
            )
        })?;
        let (start, end) = info.data_offsets;
        let bytes = self.map.get(self.data_start + start..self.data_start + end).ok_or_else(|| {
            Error::input(&self.path, format!("{name} lies beyond the end of the file"), "write or download it again")
        })?;
        let name = self.names.binary_search_by(|n| n.as_str().cmp(name)).map_or("", |i| &self.names[i]);
        Ok(ArrayView { name, shape: &info.shape, element, bytes })
    }

    pub fn contains(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// Every array, copied, in name order.
    pub fn read_all(&self) -> Result<Vec<NamedArray>> {
        self.names.iter().map(|n| Ok(self.get(n)?.to_owned())).collect()
    }

    fn names_remedy(&self) -> String {
        let shown: Vec<&str> = self.names.iter().take(8).map(String::as_str).collect();
        let more = if self.names.len() > shown.len() { ", ..." } else { "" };
        format!("it holds {} arrays: {}{more}", self.names.len(), shown.join(", "))
    }
}

const RUN_AGAIN: &str = "run the command that wrote it again";

/// Where the checksum's digits stand in a file that begins with these bytes.
fn checksum_place(header: &[u8]) -> Option<std::ops::Range<usize>> {
    // Quotes inside JSON strings are escaped, so that this can only be the key itself.
    let key = format!("\"{CHECKSUM}\":\"");
    let start = header.windows(key.len()).position(|w| w == key.as_bytes())? + key.len();
    let end = start + Digest::CHARS;
    (header.get(end) == Some(&b'"')).then_some(start..end)
}

/// The checksum of a file that claims to have one, if it is right.
fn verified(path: &Path, bytes: &[u8], data_start: usize) -> Result<Digest> {
    let damaged = || Error::input(path, "is damaged or was edited: its checksum is another", RUN_AGAIN);
    let place = checksum_place(&bytes[..data_start]).ok_or_else(damaged)?;
    let held: Digest =
        std::str::from_utf8(&bytes[place.clone()]).ok().and_then(|t| t.parse().ok()).ok_or_else(damaged)?;
    let mut hasher = Hasher::new();
    hasher.update(&bytes[..place.start]);
    hasher.update(NO_DIGITS.as_bytes());
    hasher.update(&bytes[place.end..]);
    if hasher.digest() == held { Ok(held) } else { Err(damaged()) }
}

/// What stands in the checksum's place while it is taken.
const NO_DIGITS: &str = "00000000000000000000000000000000";
const _: () = assert!(NO_DIGITS.len() == Digest::CHARS);

fn element_type(dtype: Dtype) -> Option<ElementType> {
    Some(match dtype {
        Dtype::BOOL => ElementType::Bool,
        Dtype::U8 => ElementType::U8,
        Dtype::I8 => ElementType::I8,
        Dtype::U16 => ElementType::U16,
        Dtype::I16 => ElementType::I16,
        Dtype::U32 => ElementType::U32,
        Dtype::I32 => ElementType::I32,
        Dtype::U64 => ElementType::U64,
        Dtype::I64 => ElementType::I64,
        Dtype::F16 => ElementType::F16,
        Dtype::BF16 => ElementType::Bf16,
        Dtype::F32 => ElementType::F32,
        Dtype::F64 => ElementType::F64,
        _ => return None,
    })
}

/// Writes `arrays`, `metadata` and their checksum atomically; the bytes depend on nothing but the contents.
/// Returns the checksum.
pub fn write(path: impl AsRef<Path>, arrays: &[ArrayView], metadata: &BTreeMap<String, String>) -> Result<Digest> {
    let path = path.as_ref();
    let mut order: Vec<&ArrayView> = arrays.iter().collect();
    order.sort_by(|a, b| b.element.bytes().cmp(&a.element.bytes()).then_with(|| a.name.cmp(b.name)));

    let mut metadata = metadata.clone();
    metadata.insert(CHECKSUM.into(), NO_DIGITS.into());
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), serde_json::json!(metadata));
    let mut offset = 0;
    for array in &order {
        let wanted = array.shape.iter().try_fold(array.element.bytes(), |n, &d| n.checked_mul(d));
        if wanted != Some(array.bytes.len()) {
            let (shape, element) = (array.shape, array.element);
            let message = format!("{}: {shape:?} {element} is not {} bytes", array.name, array.bytes.len());
            return Err(Error::shape("safetensors", message));
        }
        let end = offset + array.bytes.len();
        let entry =
            serde_json::json!({ "dtype": array.element.name(), "shape": array.shape, "data_offsets": [offset, end] });
        if array.name == "__metadata__" || header.insert(array.name.to_string(), entry).is_some() {
            return Err(Error::internal(format_args!("{}: two arrays are named {:?}", path.display(), array.name)));
        }
        offset = end;
    }
    let mut text = serde_json::Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let length = (text.len() as u64).to_le_bytes();
    let mut hasher = Hasher::new();
    hasher.update(&length);
    hasher.update(&text);
    order.iter().for_each(|array| hasher.update(array.bytes));
    let place = checksum_place(&text)
        .ok_or_else(|| Error::internal(format_args!("{}: no place for a checksum", path.display())))?;
    let checksum = hasher.digest();
    text[place].copy_from_slice(checksum.to_string().as_bytes());

    atomic::write(path, |out| {
        let io = |e| Error::io(path, e);
        out.write_all(&length).map_err(io)?;
        out.write_all(&text).map_err(io)?;
        order.iter().try_for_each(|array| out.write_all(array.bytes).map_err(io))
    })?;
    Ok(checksum)
}
