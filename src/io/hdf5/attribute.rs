//! Attributes: small values beside a group or a dataset, numbers or text. Text of variable length lies in global heaps.

use super::{
    bytes::{Cursor, Image, PLAINER, damaged, refuse},
    datatype::{Dataspace, Datatype},
    dense,
    object::{Object, kind, shared},
};
use crate::io::{array::NamedArray, pickle::Refusal};

/// The most bytes that one attribute's text may take, and all attributes of an object.
const MAX_TEXT_BYTES: usize = 16 << 20;

#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Numbers(NamedArray),
    Text(Vec<String>),
}

#[derive(Clone, PartialEq, Debug)]
pub struct Attribute {
    pub name: String,
    pub value: Value,
}

impl Attribute {
    /// The number, where it is exactly one.
    pub fn number(&self) -> Option<f64> {
        match &self.value {
            Value::Numbers(array) if array.view().len() == 1 => array.to_f64().first().copied(),
            _ => None,
        }
    }

    /// The text, where it is exactly one.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(texts) if texts.len() == 1 => Some(&texts[0]),
            _ => None,
        }
    }
}

/// Attributes of an object; those of kinds that are not read (references, records, nothing at all) are left out.
pub(super) fn read_all(file: Image, object: &Object) -> Result<Vec<Attribute>, Refusal> {
    let mut bodies = Vec::new();
    for message in &object.messages {
        match message.kind {
            kind::ATTRIBUTE => bodies.push(message.body()?),
            kind::ATTRIBUTE_INFO => {
                let mut info = message.body()?;
                info.skip(1)?;
                if info.u8()? & 1 != 0 {
                    info.skip(2)?;
                }
                let [heap, tree] = [info.address()?, info.address()?];
                if let (Some(heap), Some(tree)) = (heap, tree) {
                    bodies.extend(dense::objects(file, heap, tree, 0)?);
                }
            }
            _ => {}
        }
    }
    let mut budget = MAX_TEXT_BYTES;
    let mut attributes = Vec::new();
    for mut body in bodies {
        attributes.extend(read(&mut body, &mut budget)?);
    }
    Ok(attributes)
}

fn read(body: &mut Cursor, budget_bytes: &mut usize) -> Result<Option<Attribute>, Refusal> {
    let [version, flags] = [body.u8()?, body.u8()?];
    let sizes = [body.u16()?, body.u16()?, body.u16()?].map(usize::from);
    let padded = |size: usize| if version == 1 { size.next_multiple_of(8) } else { size };
    match version {
        1 | 2 => {}
        3 => body.skip(1)?,
        _ => return Err(refuse("has attributes of a newer kind", PLAINER)),
    }
    let flags = if version == 1 { 0 } else { flags };
    let name = body.take(padded(sizes[0]))?;
    let name = name.split(|&b| b == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    let mut datatype = body.part(padded(sizes[1]))?;
    let mut dataspace = body.part(padded(sizes[2]))?;
    if flags & 1 != 0 {
        datatype = shared(datatype, kind::DATATYPE)?;
    }
    if flags & 2 != 0 {
        dataspace = shared(dataspace, kind::DATASPACE)?;
    }
    let datatype = Datatype::read(&mut datatype)?;
    let dataspace = Dataspace::read(&mut dataspace)?;
    if dataspace.is_null {
        return Ok(None);
    }
    let count = usize::try_from(dataspace.count()?).map_err(|_| damaged("an impossible shape"))?;
    let width = datatype.bytes(body.file.address_bytes);
    let length = count.checked_mul(width).ok_or_else(|| damaged("an impossible shape"))?;
    // Every attribute lies in a message whole, or this fails: so the shape is one that the file has bytes for.
    let mut data = body.part(length)?;
    let value = match datatype {
        Datatype::Number { element, big_endian } => {
            let shape: Vec<usize> = dataspace.shape.iter().map(|&n| n as usize).collect();
            let mut bytes = data.rest.to_vec();
            if big_endian {
                bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
            }
            let array = NamedArray::new(name.as_str(), &shape, element, bytes);
            Value::Numbers(array.map_err(|_| damaged("an impossible shape"))?)
        }
        Datatype::Text(0) => Value::Text(Vec::new()),
        Datatype::Text(width) => {
            let text = |bytes: &[u8]| {
                let bytes = bytes.split(|&b| b == 0).next().unwrap_or_default();
                String::from_utf8_lossy(bytes).trim_end().to_string()
            };
            Value::Text(data.rest.chunks_exact(width).map(text).collect())
        }
        Datatype::VariableText => {
            let mut texts = Vec::new();
            for _ in 0..count {
                let length = data.u32()? as usize;
                let heap = data.address()?.filter(|&address| address != 0);
                let index = data.u32()?;
                *budget_bytes =
                    budget_bytes.checked_sub(length).ok_or_else(|| refuse("has attributes of many MB", PLAINER))?;
                let text = match heap {
                    Some(heap) if length > 0 => heap_object(body.file, heap, index)?.get(..length),
                    _ => Some(&[][..]),
                };
                let text = text.ok_or_else(|| damaged("text beyond its heap"))?;
                texts.push(String::from_utf8_lossy(text).trim_end_matches('\0').to_string());
            }
            Value::Text(texts)
        }
        Datatype::Other(..) => return Ok(None),
    };
    Ok(Some(Attribute { name, value }))
}

/// One object of a global heap.
fn heap_object(file: Image<'_>, address: u64, index: u32) -> Result<&[u8], Refusal> {
    let mut head = file.at(address)?;
    head.signature(b"GCOL")?;
    head.skip(4)?;
    let size = head.length()?;
    let mut rest = Cursor { file, rest: file.slice(address, size)? };
    rest.skip(8 + file.length_bytes)?;
    let nowhere = || damaged("text that is nowhere");
    while rest.rest.len() >= 8 + file.length_bytes {
        let found = rest.u16()?;
        rest.skip(6)?;
        let size = usize::try_from(rest.length()?).map_err(|_| nowhere())?;
        if found == 0 {
            break;
        }
        let object = rest.take(size)?;
        if u32::from(found) == index {
            return Ok(object);
        }
        rest.skip((size.next_multiple_of(8) - size).min(rest.rest.len()))?;
    }
    Err(nowhere())
}
