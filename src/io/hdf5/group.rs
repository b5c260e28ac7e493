//! What a group holds, by name: links as messages or in a fractal heap, or the older tables of symbols under a B-tree.

use super::{
    bytes::{Cursor, Image, PLAINER, damaged, refuse},
    dense,
    object::{Object, kind},
};
use crate::io::pickle::Refusal;

/// Where a name leads.
pub(super) enum Target {
    /// The address of an object's header.
    Object(u64),
    /// Another name, or another file.
    Elsewhere,
}

pub(super) struct Link {
    pub name: String,
    pub target: Target,
}

/// Deeper trees would hold more than any file.
const MAX_LEVELS: u8 = 32;

/// The links of a group; `None` for an object that is no group.
pub(super) fn links(file: Image, object: &Object) -> Result<Option<Vec<Link>>, Refusal> {
    if let Some(mut table) = object.find(kind::SYMBOL_TABLE)? {
        let [tree, heap] = [table.address()?, table.address()?];
        let names = Names::read(file, heap.ok_or_else(|| damaged("a group without names"))?)?;
        let mut links = Vec::new();
        let mut budget = file.data.len() / 24;
        if let Some(tree) = tree {
            symbols(file, tree, &names, None, &mut budget, &mut links)?;
        }
        return Ok(Some(links));
    }
    let mut links = Vec::new();
    let mut is_group = false;
    for message in &object.messages {
        match message.kind {
            kind::LINK => links.push(link(&mut message.body()?)?),
            kind::LINK_INFO => {
                let mut info = message.body()?;
                info.skip(1)?;
                if info.u8()? & 1 != 0 {
                    info.skip(8)?;
                }
                let [heap, tree] = [info.address()?, info.address()?];
                if let (Some(heap), Some(tree)) = (heap, tree) {
                    // A name's record: its hash, then where its link lies.
                    for mut body in dense::objects(file, heap, tree, 4)? {
                        links.push(link(&mut body)?);
                    }
                }
            }
            _ => continue,
        }
        is_group = true;
    }
    Ok(is_group.then_some(links))
}

fn link(body: &mut Cursor) -> Result<Link, Refusal> {
    if body.u8()? != 1 {
        return Err(refuse("has links of a newer kind", PLAINER));
    }
    let flags = body.u8()?;
    let kind = if flags & 0x08 != 0 { body.u8()? } else { 0 };
    body.skip(if flags & 0x04 != 0 { 8 } else { 0 })?;
    body.skip(if flags & 0x10 != 0 { 1 } else { 0 })?;
    let length = body.uint(1 << (flags & 3))?;
    let length = usize::try_from(length).map_err(|_| damaged("a name beyond its end"))?;
    let name = String::from_utf8_lossy(body.take(length)?).into_owned();
    let target = match kind {
        0 => Target::Object(body.address()?.ok_or_else(|| damaged("a link to nothing"))?),
        _ => Target::Elsewhere,
    };
    Ok(Link { name, target })
}

/// The heap with a group's names, each ending in a zero byte.
struct Names<'a>(&'a [u8]);

impl<'a> Names<'a> {
    fn read(file: Image<'a>, address: u64) -> Result<Names<'a>, Refusal> {
        let mut heap = file.at(address)?;
        heap.signature(b"HEAP")?;
        heap.skip(4)?;
        let size = heap.length()?;
        heap.length()?; // the free list
        let data = heap.address()?.ok_or_else(|| damaged("a group without names"))?;
        Ok(Names(file.slice(data, size)?))
    }

    fn at(&self, offset: u64) -> Result<String, Refusal> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let end = rest.iter().position(|&b| b == 0).ok_or_else(|| damaged("a name without an end"))?;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    }
}

/// Walks a B-tree of tables of symbols. `budget` bounds the nodes, so that no node can be met again and again.
fn symbols(
    file: Image,
    address: u64,
    names: &Names,
    above: Option<u8>,
    budget: &mut usize,
    links: &mut Vec<Link>,
) -> Result<(), Refusal> {
    *budget = budget.checked_sub(1).ok_or_else(|| damaged("a group that runs in circles"))?;
    let mut node = file.at(address)?;
    node.signature(b"TREE")?;
    let [of, level] = [node.u8()?, node.u8()?];
    if of != 0 || level > MAX_LEVELS || above.is_some_and(|above| level + 1 != above) {
        return Err(damaged("a tree of names with odd nodes"));
    }
    let children = node.u16()?;
    node.skip(2 * file.address_bytes)?;
    for _ in 0..children {
        node.length()?;
        let child = node.address()?.ok_or_else(|| damaged("a tree of names with odd nodes"))?;
        if level > 0 {
            symbols(file, child, names, Some(level), budget, links)?;
            continue;
        }
        *budget = budget.checked_sub(1).ok_or_else(|| damaged("a group that runs in circles"))?;
        let mut table = file.at(child)?;
        table.signature(b"SNOD")?;
        table.skip(2)?;
        for _ in 0..table.u16()? {
            let name = table.uint(file.address_bytes)?;
            let object = table.address()?;
            let cached = table.u32()?;
            table.skip(20)?;
            let target = match (cached, object) {
                (0 | 1, Some(address)) => Target::Object(address),
                _ => Target::Elsewhere,
            };
            if links.len() > file.data.len() / 16 {
                return Err(damaged("a group that runs in circles"));
            }
            links.push(Link { name: names.at(name)?, target });
        }
    }
    Ok(())
}
