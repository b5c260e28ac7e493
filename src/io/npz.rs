//! NumPy's arrays (`.npy`) and archives of them (`.npz`, a zip file): versions 1 to 3 of the format, C order, little-endian.
//!
//! Bounds: an array of at most [`MAX_ARRAY_BYTES`], whatever its header claims; bytes are read only as far as the file has them.

use std::{
    io::{Cursor, Read, Write},
    path::Path,
};

use zip::{CompressionMethod, ZipArchive, ZipWriter, result::ZipError, write::SimpleFileOptions};

use super::{
    array::{ElementType, NamedArray},
    atomic, safetensors,
};
use crate::error::{Error, Result};

const MAX_ARRAY_BYTES: u64 = 16 << 30;
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Every array of a file by its name, without `.npy`.
///
/// # Errors
/// `Io` where the file cannot be read; `Input` where it is no archive of plain arrays of numbers.
pub fn read(path: &Path) -> Result<Vec<NamedArray>> {
    let unusable = |problem: String| Error::input(path, problem, "write it again with numpy.savez");
    let map = safetensors::map(path)?;
    let mut archive =
        ZipArchive::new(Cursor::new(&map[..])).map_err(|e| unusable(format!("is no .npz archive ({e})")))?;
    let mut arrays = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|e| unusable(format!("is damaged ({e})")))?;
        let name = entry.name().map_err(|e| unusable(format!("is damaged ({e})")))?;
        let Some(name) = name.strip_suffix(".npy").map(str::to_string) else { continue };
        let array = read_array(&name, &mut entry).map_err(|problem| unusable(format!("{name}: {problem}")))?;
        arrays.push(array);
    }
    Ok(arrays)
}

/// Writes arrays under their names, whole or not at all; equal arrays give equal bytes.
///
/// # Errors
/// `Io` where the file cannot be written; `Shape` for bf16, which NumPy has not.
pub fn write(path: &Path, arrays: &[NamedArray]) -> Result<()> {
    let broken = |e: ZipError| Error::internal(format_args!("{}: {e}", path.display()));
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for array in arrays {
        let descr = descr(array.element).ok_or_else(|| Error::shape("npz", format!("{}: bf16", array.name)))?;
        let extents: String = array.shape.iter().map(|extent| format!("{extent}, ")).collect();
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
        // Numbers begin at a multiple of 64 bytes, behind 10 of their own and a line's end.
        let length = (header.len() + 11).next_multiple_of(64) - 11;
        header = format!("{header:length$}\n");
        archive
            .start_file(format!("{}.npy", array.name), stored.large_file(array.bytes.len() >> 32 > 0))
            .map_err(broken)?;
        let length = (header.len() as u16).to_le_bytes();
        for part in [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &array.bytes] {
            archive.write_all(part).map_err(|e| Error::io(path, e))?;
        }
    }
    let bytes = archive.finish().map_err(broken)?.into_inner();
    atomic::write_bytes(path, &bytes)
}

/// The array of a `.npy` file.
///
/// # Errors
/// As [`read`].
pub fn read_npy(path: &Path) -> Result<NamedArray> {
    let map = safetensors::map(path)?;
    let unusable = |problem: String| Error::input(path, problem, "write it again with numpy.save");
    read_array("array", &mut &map[..]).map_err(unusable)
}

fn read_array(name: &str, from: &mut impl Read) -> Result<NamedArray, String> {
    let short = |e: std::io::Error| format!("ends early ({e})");
    let mut start = [0; 8];
    from.read_exact(&mut start).map_err(short)?;
    if !start.starts_with(b"\x93NUMPY") || !(1..=3).contains(&start[6]) {
        return Err("is no array of NumPy".into());
    }
    let mut length = [0; 4];
    let length_bytes = if start[6] == 1 { 2 } else { 4 };
    from.read_exact(&mut length[..length_bytes]).map_err(short)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER_BYTES {
        return Err(format!("has a header of {length} bytes"));
    }
    let mut header = vec![0; length];
    from.read_exact(&mut header).map_err(short)?;
    let header = String::from_utf8_lossy(&header);
    let element = element_type(field(&header, "descr").ok_or("does not say its type")?.trim_matches(['\'', '"']))?;
    if field(&header, "fortran_order") != Some("False") {
        return Err("is in Fortran order".into());
    }
    let shape = field(&header, "shape").and_then(|text| text.strip_prefix('(')).ok_or("does not say its shape")?;
    let extents = shape.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    let shape: Vec<usize> =
        extents.map(|e| e.parse().map_err(|_| format!("has extent {e}"))).collect::<Result<_, _>>()?;
    let bytes = shape.iter().try_fold(element.bytes() as u64, |n, &extent| n.checked_mul(extent as u64));
    let bytes = bytes.filter(|bytes| *bytes <= MAX_ARRAY_BYTES).ok_or_else(|| format!("is too large, {shape:?}"))?;
    let mut data = Vec::new();
    from.take(bytes).read_to_end(&mut data).map_err(short)?;
    NamedArray::new(name, &shape, element, data).map_err(|_| "ends early".to_string())
}

/// The value of a key in the header's dictionary, a tuple up to its closing bracket.
fn field<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(&format!("'{key}':"))?;
    let rest = rest.trim_start();
    let end = if rest.starts_with('(') { rest.find(')')? } else { rest.find([',', '}'])? };
    Some(rest[..end].trim())
}

/// NumPy's name of a type; `None` for bf16.
fn descr(element: ElementType) -> Option<&'static str> {
    Some(match element {
        ElementType::Bool => "|b1",
        ElementType::U8 => "|u1",
        ElementType::I8 => "|i1",
        ElementType::U16 => "<u2",
        ElementType::I16 => "<i2",
        ElementType::U32 => "<u4",
        ElementType::I32 => "<i4",
        ElementType::U64 => "<u8",
        ElementType::I64 => "<i8",
        ElementType::F16 => "<f2",
        ElementType::F32 => "<f4",
        ElementType::F64 => "<f8",
        ElementType::Bf16 => return None,
    })
}

fn element_type(text: &str) -> Result<ElementType, String> {
    use ElementType::{Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
    let all = [Bool, U8, I8, U16, I16, U32, I32, U64, I64, F16, F32, F64];
    let found = all.into_iter().find(|element| descr(*element) == Some(text));
    found.ok_or_else(|| format!("has elements {text}; numbers of this machine's byte order are wanted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn arrays_are_read_and_odd_ones_refused_in_words() {
        let read = |header: &str, data: &[u8]| read_array("a", &mut &npy(header, data)[..]);
        let header = "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 1), }          \n";
        let array = read(header, &[1, 0, 255, 255]).expect("a plain array");
        assert_eq!((array.shape.clone(), array.view().to_i64()), (vec![2, 1], Some(vec![1, -1])));
        assert_eq!(read(header, &[1, 0, 2]).unwrap_err(), "ends early");
        for (header, said) in [
            ("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", "elements |O"),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", "elements >f4"),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }", "Fortran"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999, 9999999), }", "too large"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", "extent -1"),
        ] {
            let error = read(header, &[0; 16]).expect_err(header);
            assert!(error.contains(said), "{error}");
        }
    }
}
