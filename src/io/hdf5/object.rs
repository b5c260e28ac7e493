//! Object headers, versions 1 and 2: the list of messages that say what a group or a dataset is.

use std::collections::HashSet;

use super::bytes::{Cursor, Image, PLAINER, damaged, refuse};
use crate::io::pickle::Refusal;

/// Kinds of messages that are read.
pub(super) mod kind {
    pub const DATASPACE: u16 = 0x01;
    pub const LINK_INFO: u16 = 0x02;
    pub const DATATYPE: u16 = 0x03;
    pub const FILL_VALUE_OLD: u16 = 0x04;
    pub const FILL_VALUE: u16 = 0x05;
    pub const LINK: u16 = 0x06;
    pub const EXTERNAL_FILES: u16 = 0x07;
    pub const LAYOUT: u16 = 0x08;
    pub const FILTERS: u16 = 0x0b;
    pub const ATTRIBUTE: u16 = 0x0c;
    pub const CONTINUATION: u16 = 0x10;
    pub const SYMBOL_TABLE: u16 = 0x11;
    pub const ATTRIBUTE_INFO: u16 = 0x15;
}

/// Bit of a message's flags: its body lies elsewhere.
const SHARED: u8 = 2;
/// Blocks of one header: h5py makes two or three.
const MAX_BLOCKS: usize = 1024;

#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    pub kind: u16,
    flags: u8,
    body: Cursor<'a>,
}

pub(super) struct Object<'a> {
    pub messages: Vec<Message<'a>>,
}

impl<'a> Object<'a> {
    pub fn read(file: Image<'a>, address: u64) -> Result<Object<'a>, Refusal> {
        let mut start = file.at(address)?;
        let mut messages = Vec::new();
        // Blocks to read: `None` for version 1, else what the flags say of creation orders.
        let (mut blocks, ordered) = if start.rest.starts_with(b"OHDR") {
            start.skip(4)?;
            if start.u8()? != 2 {
                return Err(refuse("has objects of a newer kind", PLAINER));
            }
            let flags = start.u8()?;
            start.skip(if flags & 0x20 != 0 { 16 } else { 0 } + if flags & 0x10 != 0 { 4 } else { 0 })?;
            let size = start.uint(1 << (flags & 3))?;
            let size = usize::try_from(size).map_err(|_| damaged("an object's header beyond its end"))?;
            let prefix = file.at(address)?.rest.len() - start.rest.len();
            let whole = prefix.checked_add(size).and_then(|n| n.checked_add(4));
            let whole = whole.ok_or_else(|| damaged("an object's header beyond its end"))?;
            let mut block = file.checked(address, whole)?;
            block.skip(prefix)?;
            (vec![block], Some(flags & 0x04 != 0))
        } else {
            if start.u8()? != 1 {
                return Err(damaged("no object where one should be"));
            }
            start.skip(7)?;
            let size = start.u32()? as usize;
            start.skip(4)?;
            (vec![start.part(size)?], None)
        };
        let mut seen = HashSet::new();
        let mut at = 0;
        while at < blocks.len() {
            let block = blocks[at];
            at += 1;
            for message in messages_of(block, ordered)? {
                if message.kind != kind::CONTINUATION {
                    messages.push(message);
                    continue;
                }
                let mut body = message.body;
                let address = body.address()?.ok_or_else(|| damaged("a continuation without an address"))?;
                let length = body.length()?;
                if blocks.len() >= MAX_BLOCKS || !seen.insert(address) {
                    return Err(damaged("an object's header that runs in circles"));
                }
                blocks.push(match ordered {
                    None => Cursor { file, rest: file.slice(address, length)? },
                    Some(_) => {
                        let length =
                            usize::try_from(length).map_err(|_| damaged("an object's header beyond its end"))?;
                        let mut block = file.checked(address, length)?;
                        block.signature(b"OCHK")?;
                        block
                    }
                });
            }
        }
        Ok(Object { messages })
    }

    /// The body of the first message of a kind.
    pub fn find(&self, kind: u16) -> Result<Option<Cursor<'a>>, Refusal> {
        self.messages.iter().find(|message| message.kind == kind).map(Message::body).transpose()
    }
}

impl<'a> Message<'a> {
    pub fn body(&self) -> Result<Cursor<'a>, Refusal> {
        if self.flags & SHARED == 0 {
            return Ok(self.body);
        }
        shared(self.body, self.kind)
    }
}

/// The body that a reference to another object's message leads to: a named datatype, mostly.
pub(super) fn shared<'a>(mut reference: Cursor<'a>, kind: u16) -> Result<Cursor<'a>, Refusal> {
    let [version, place] = [reference.u8()?, reference.u8()?];
    match (version, place) {
        (1, _) => reference.skip(6)?,
        (2, _) | (3, 2) => {}
        _ => return Err(refuse("shares its descriptions in a way that is not read", PLAINER)),
    }
    let address = reference.address()?.ok_or_else(|| damaged("a shared description that is nowhere"))?;
    let object = Object::read(reference.file, address)?;
    let found = object.messages.iter().find(|message| message.kind == kind && message.flags & SHARED == 0);
    found.map(|message| message.body).ok_or_else(|| damaged("a shared description that is nowhere"))
}

/// `ordered`: `None` in version 1; in version 2 whether messages carry the order of their creation.
fn messages_of<'a>(mut block: Cursor<'a>, ordered: Option<bool>) -> Result<Vec<Message<'a>>, Refusal> {
    let head = match ordered {
        None => 8,
        Some(false) => 4,
        Some(true) => 6,
    };
    let mut messages = Vec::new();
    // What is shorter than a message's head is a gap.
    while block.rest.len() >= head {
        let (kind, size, flags);
        if ordered.is_none() {
            (kind, size, flags) = (block.u16()?, block.u16()?, block.u8()?);
            block.skip(3)?;
        } else {
            (kind, size, flags) = (block.u8()?.into(), block.u16()?, block.u8()?);
            block.skip(head - 4)?;
        }
        messages.push(Message { kind, flags, body: block.part(size.into())? });
    }
    Ok(messages)
}
