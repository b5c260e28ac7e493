//! The plainest files that h5py and HDF5 1.8 and later read: one group, contiguous arrays, attributes of numbers and text.
//!
//! A superblock of version 2, then every header, then heaps with the texts (of variable length, as h5py makes them), then the numbers.
//! Nothing in a file depends on when it was written, so equal contents give equal bytes.

use std::path::Path;

use super::{
    attribute::{Attribute, Value},
    bytes::lookup3,
    object::kind,
};
use crate::{
    error::{Error, Result},
    io::{
        array::{ArrayView, ElementType},
        atomic,
    },
};

/// A heap takes at least so much.
const HEAP_BYTES: usize = 4096;
const SUPERBLOCK_BYTES: usize = 48;
const NOWHERE: [u8; 8] = [0xff; 8];
const GROUP_INFO: u16 = 0x0a;

/// One array to be written, with its attributes.
pub struct Written<'a> {
    pub array: ArrayView<'a>,
    pub attributes: &'a [Attribute],
}

/// Writes arrays under their names, `attributes` at the root, whole or not at all.
///
/// # Errors
/// `Io` where the file cannot be written; `Shape` for what the format has no room for: names and attributes beyond 64 KB, bf16.
pub fn write(path: impl AsRef<Path>, arrays: &[Written], attributes: &[Attribute]) -> Result<()> {
    let path = path.as_ref();
    let Parts { head, heap } = file(arrays, attributes)?;
    atomic::write(path, |to| {
        let mut put = |part: &[u8]| to.write_all(part).map_err(|e| Error::io(path, e));
        put(&head)?;
        put(&heap)?;
        for Written { array, .. } in arrays {
            put(array.bytes)?;
            put(&[0; 8][..array.bytes.len().next_multiple_of(8) - array.bytes.len()])?;
        }
        Ok(())
    })
}

/// Everything before the numbers.
struct Parts {
    head: Vec<u8>,
    heap: Vec<u8>,
}

fn file(arrays: &[Written], attributes: &[Attribute]) -> Result<Parts> {
    // Addresses do not change how long a header is: a first pass with none gives the places of all.
    let mut texts = Texts { address: 0, bytes: Vec::new(), count: 0 };
    let draft: Vec<Vec<u8>> =
        arrays.iter().map(|written| array_header(written, 0, &mut texts)).collect::<Result<_>>()?;
    let links = |addresses: &[usize]| -> Vec<(String, usize)> {
        arrays.iter().zip(addresses).map(|(written, &at)| (written.array.name.to_string(), at)).collect()
    };
    let root = group_header(&links(&vec![0; arrays.len()]), attributes, &mut texts)?.len();
    let mut at = SUPERBLOCK_BYTES + root;
    let mut headers_at = Vec::new();
    for header in &draft {
        headers_at.push(at);
        at += header.len();
    }
    let heap_at = at.next_multiple_of(8);
    let heap = texts.heap();
    let mut texts = Texts { address: heap_at as u64, bytes: Vec::new(), count: 0 };
    let mut data_at = heap_at + heap.len();
    let mut headers = Vec::new();
    for written in arrays {
        headers.extend(array_header(written, data_at as u64, &mut texts)?);
        data_at += written.array.bytes.len().next_multiple_of(8);
    }
    let root = group_header(&links(&headers_at), attributes, &mut texts)?;

    let mut head = b"\x89HDF\r\n\x1a\n\x02\x08\x08\x00".to_vec();
    head.extend([0; 8]);
    head.extend(NOWHERE); // no extension
    head.extend((data_at as u64).to_le_bytes());
    head.extend((SUPERBLOCK_BYTES as u64).to_le_bytes());
    head.extend(lookup3(&head).to_le_bytes());
    head.extend(root);
    head.extend(headers);
    head.resize(heap_at, 0);
    Ok(Parts { head, heap: texts.heap() })
}

/// The global heap that attributes' texts go to.
struct Texts {
    address: u64,
    bytes: Vec<u8>,
    count: u16,
}

impl Texts {
    /// Stores a text; what an attribute holds in its place.
    fn push(&mut self, text: &str) -> Result<Vec<u8>> {
        let length = text.len() as u32;
        if text.is_empty() {
            return Ok([&length.to_le_bytes()[..], &[0; 12]].concat());
        }
        let full = || Error::shape("HDF5", "more than 65,000 texts");
        self.count = self.count.checked_add(1).ok_or_else(full)?;
        self.bytes.extend(self.count.to_le_bytes());
        self.bytes.extend([1, 0, 0, 0, 0, 0]);
        self.bytes.extend((text.len() as u64).to_le_bytes());
        self.bytes.extend(text.as_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let parts: [&[u8]; 3] =
            [&length.to_le_bytes(), &self.address.to_le_bytes(), &u32::from(self.count).to_le_bytes()];
        Ok(parts.concat())
    }

    /// The heap with what was stored, the rest of it one free object; nothing where nothing was.
    fn heap(&self) -> Vec<u8> {
        if self.count == 0 {
            return Vec::new();
        }
        let whole = (16 + self.bytes.len() + 16).max(HEAP_BYTES);
        let mut heap = b"GCOL\x01\0\0\0".to_vec();
        heap.extend((whole as u64).to_le_bytes());
        heap.extend(&self.bytes);
        let free = (whole - heap.len()) as u64;
        heap.extend([0; 8]);
        heap.extend(free.to_le_bytes());
        heap.resize(whole, 0);
        heap
    }
}

/// An object's header, version 2, of messages as (kind, body).
fn header(messages: &[(u16, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    for (kind, bytes) in messages {
        let too_long = |_| Error::shape("HDF5", format!("{} bytes where 65,535 fit", bytes.len()));
        let size = u16::try_from(bytes.len()).map_err(too_long)?;
        body.push(*kind as u8);
        body.extend(size.to_le_bytes());
        body.push(0);
        body.extend(bytes);
    }
    // Sizes of 4 bytes, no times.
    let mut header = b"OHDR\x02\x02".to_vec();
    header.extend((body.len() as u32).to_le_bytes());
    header.extend(body);
    header.extend(lookup3(&header).to_le_bytes());
    Ok(header)
}

fn group_header(links: &[(String, usize)], attributes: &[Attribute], texts: &mut Texts) -> Result<Vec<u8>> {
    let link_info = [&[0, 0][..], &NOWHERE, &NOWHERE].concat();
    let mut messages = vec![(kind::LINK_INFO, link_info), (GROUP_INFO, vec![0, 0])];
    for (name, address) in links {
        let length = (name.len() as u16).to_le_bytes();
        // Lengths of 2 bytes, names in UTF-8.
        let link = [&[1, 0x11, 1][..], &length, name.as_bytes(), &(*address as u64).to_le_bytes()].concat();
        messages.push((kind::LINK, link));
    }
    for attribute in attributes {
        messages.push((kind::ATTRIBUTE, attribute_message(attribute, texts)?));
    }
    header(&messages)
}

fn array_header(written: &Written, data_at: u64, texts: &mut Texts) -> Result<Vec<u8>> {
    let array = &written.array;
    let bytes = array.bytes.len() as u64;
    let place = if bytes == 0 { NOWHERE } else { data_at.to_le_bytes() };
    // A fill value of nothing but zeros; contiguous.
    let mut messages = vec![
        (kind::DATASPACE, dataspace(array.shape)),
        (kind::DATATYPE, datatype(array.element)?),
        (kind::FILL_VALUE, vec![3, 0x0a]),
        (kind::LAYOUT, [&[3, 1][..], &place, &bytes.to_le_bytes()].concat()),
    ];
    for attribute in written.attributes {
        messages.push((kind::ATTRIBUTE, attribute_message(attribute, texts)?));
    }
    header(&messages)
}

fn attribute_message(attribute: &Attribute, texts: &mut Texts) -> Result<Vec<u8>> {
    const UTF8: u8 = 1;
    let (datatype, dataspace, data) = match &attribute.value {
        Value::Numbers(array) => (datatype(array.element)?, dataspace(&array.shape), array.bytes.clone()),
        Value::Text(values) => {
            let shape = if values.len() == 1 { vec![] } else { vec![values.len()] };
            let data = values.iter().map(|text| texts.push(text)).collect::<Result<Vec<_>>>()?.concat();
            // A list of bytes that is text, in UTF-8, ending in a zero.
            let list = [&[0x19, 0x01, UTF8, 0][..], &16u32.to_le_bytes(), &datatype(ElementType::U8)?].concat();
            (list, dataspace(&shape), data)
        }
    };
    let name = [attribute.name.as_bytes(), &[0]].concat();
    let mut message = vec![3, 0];
    for part in [&name, &datatype, &dataspace] {
        message.extend((part.len() as u16).to_le_bytes());
    }
    message.push(UTF8);
    for part in [name, datatype, dataspace, data] {
        message.extend(part);
    }
    Ok(message)
}

fn dataspace(shape: &[usize]) -> Vec<u8> {
    let simple = u8::from(!shape.is_empty());
    let extents = shape.iter().flat_map(|&extent| (extent as u64).to_le_bytes());
    [2, shape.len() as u8, 0, simple].into_iter().chain(extents).collect()
}

fn datatype(element: ElementType) -> Result<Vec<u8>> {
    let bytes = element.bytes() as u8;
    let bits = 8 * u16::from(bytes);
    // Exponent and mantissa of a float: where they lie, how long they are; and the exponent's bias.
    let float = |fields: [u8; 4], bias: u32| {
        let sign = (bits - 1) as u8;
        let start = [0x11, 0x20, sign, 0, bytes, 0, 0, 0, 0, 0];
        [&start[..], &bits.to_le_bytes(), &fields, &bias.to_le_bytes()].concat()
    };
    Ok(match element {
        ElementType::F16 => float([10, 5, 0, 10], 15),
        ElementType::F32 => float([23, 8, 0, 23], 127),
        ElementType::F64 => float([52, 11, 0, 52], 1023),
        ElementType::Bf16 => return Err(Error::shape("HDF5", "bf16 is no type that other programs read: widen it")),
        _ => {
            let signed = matches!(element, ElementType::I8 | ElementType::I16 | ElementType::I32 | ElementType::I64);
            [&[0x10, 8 * u8::from(signed), 0, 0, bytes, 0, 0, 0, 0, 0][..], &bits.to_le_bytes()].concat()
        }
    })
}
