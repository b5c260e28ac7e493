//! NumPy's archives of arrays (`.npz`): a zip file of `.npy` files, versions 1 to 3 of the format, C order, little-endian.
//!
//! Bounds: an array of at most [`MAX_ARRAY_BYTES`], whatever its header claims; bytes are read only as far as the file has them.

use std::{
    io::{Cursor, Read},
    path::Path,
};

use zip::ZipArchive;

use super::{
    array::{ElementType, NamedArray},
    safetensors,
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

fn element_type(descr: &str) -> Result<ElementType, String> {
    Ok(match descr {
        "|b1" => ElementType::Bool,
        "|u1" => ElementType::U8,
        "|i1" => ElementType::I8,
        "<u2" => ElementType::U16,
        "<i2" => ElementType::I16,
        "<u4" => ElementType::U32,
        "<i4" => ElementType::I32,
        "<u8" => ElementType::U64,
        "<i8" => ElementType::I64,
        "<f2" => ElementType::F16,
        "<f4" => ElementType::F32,
        "<f8" => ElementType::F64,
        other => return Err(format!("has elements {other}; numbers of this machine's byte order are wanted")),
    })
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
