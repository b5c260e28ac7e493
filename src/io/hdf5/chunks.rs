//! Where the chunks of a dataset lie: under a B-tree of version 1, or by the newer indexes: one chunk, none stored apart, a fixed
//! array, an extensible array.
//!
//! Arrays number chunks by rows over the largest extents; an extensible array counts the one axis without a limit first.

use super::bytes::{Cursor, Image, PLAINER, damaged, refuse};
use crate::io::pickle::Refusal;

/// One stored chunk.
pub(super) struct Chunk {
    /// The element that its first is, along every axis.
    pub first: Vec<u64>,
    pub address: u64,
    /// Bytes as stored.
    pub bytes: u64,
    /// A bit for every filter that was left out.
    pub mask: u32,
}

/// How chunks are found.
pub(super) enum Index {
    Tree,
    Single {
        /// Bytes as stored and filters left out, where there are filters.
        packed: Option<(u64, u32)>,
    },
    Implicit,
    FixedArray,
    ExtensibleArray,
}

/// Everything that decides where chunks lie.
pub(super) struct Chunked {
    pub shape: Vec<u64>,
    /// `None` where an axis has no limit.
    pub largest: Vec<Option<u64>>,
    /// Extents of a chunk, in elements.
    pub extents: Vec<u64>,
    /// Bytes of a chunk that went through no filter.
    pub chunk_bytes: u64,
    pub index: Index,
    pub address: u64,
}

/// Deeper trees would hold more than any file.
const MAX_LEVELS: u8 = 32;

impl Chunked {
    /// The chunks that hold anything of the array as large as it is.
    pub fn chunks(&self, file: Image) -> Result<Vec<Chunk>, Refusal> {
        let mut chunks = Vec::new();
        match &self.index {
            Index::Tree => {
                let mut budget = file.data.len() / 24;
                self.tree(file, self.address, None, &mut budget, &mut chunks)?;
            }
            Index::Single { packed } => {
                let (bytes, mask) = packed.unwrap_or((self.chunk_bytes, 0));
                chunks.push(Chunk { first: vec![0; self.shape.len()], address: self.address, bytes, mask });
            }
            Index::Implicit => {
                // Every one is there, one after the other, so there are no more than the file has room for.
                for at in 0..self.numbered()?.min(file.data.len() as u64 / self.chunk_bytes + 1) {
                    let address = at.checked_mul(self.chunk_bytes).and_then(|offset| offset.checked_add(self.address));
                    let address = address.ok_or_else(|| damaged("an address beyond its end"))?;
                    chunks.push(Chunk { first: self.first(at, None)?, address, bytes: self.chunk_bytes, mask: 0 });
                }
            }
            Index::FixedArray => {
                let entries = fixed_array(file, self.address)?;
                self.of_entries(entries, None, &mut chunks)?;
            }
            Index::ExtensibleArray => {
                let axis = self.largest.iter().position(Option::is_none);
                let entries = extensible_array(file, self.address)?;
                self.of_entries(entries, axis.or(Some(0)), &mut chunks)?;
            }
        }
        chunks.retain(|chunk| chunk.first.iter().zip(&self.shape).all(|(first, extent)| first < extent));
        chunks.sort_by(|a, b| a.first.cmp(&b.first));
        if chunks.windows(2).any(|pair| pair[0].first == pair[1].first) {
            return Err(damaged("two chunks in one place"));
        }
        Ok(chunks)
    }

    fn of_entries(&self, entries: Vec<Entry>, axis: Option<usize>, chunks: &mut Vec<Chunk>) -> Result<(), Refusal> {
        for entry in entries {
            let (bytes, mask) = entry.packed.unwrap_or((self.chunk_bytes, 0));
            chunks.push(Chunk { first: self.first(entry.at, axis)?, address: entry.address, bytes, mask });
        }
        Ok(())
    }

    /// How many chunks cover the largest extents, every axis limited.
    fn numbered(&self) -> Result<u64, Refusal> {
        let counts = (0..self.shape.len()).map(|axis| self.across(axis));
        let count = counts.into_iter().try_fold(1u64, |n, across| n.checked_mul(across));
        count.ok_or_else(|| damaged("more chunks than can be"))
    }

    /// Chunks along an axis at its largest, as large as it is where it has no limit.
    fn across(&self, axis: usize) -> u64 {
        self.largest[axis].unwrap_or(self.shape[axis]).div_ceil(self.extents[axis])
    }

    /// The first element of the chunk of this number; `first_axis` is counted before the others, which keep their order.
    fn first(&self, number: u64, first_axis: Option<usize>) -> Result<Vec<u64>, Refusal> {
        let mut first = vec![0; self.shape.len()];
        let mut rest = number;
        let others = (0..self.shape.len()).rev().filter(|&axis| Some(axis) != first_axis);
        let mut order: Vec<usize> = others.chain(first_axis).collect();
        let slowest = order.pop().ok_or_else(|| damaged("chunks of no axis"))?;
        for axis in order {
            let across = self.across(axis).max(1);
            first[axis] = rest % across;
            rest /= across;
        }
        first[slowest] = rest;
        for (first, extent) in first.iter_mut().zip(&self.extents) {
            *first = first.checked_mul(*extent).ok_or_else(|| damaged("a chunk beyond every extent"))?;
        }
        Ok(first)
    }

    fn tree(
        &self,
        file: Image,
        address: u64,
        above: Option<u8>,
        budget: &mut usize,
        chunks: &mut Vec<Chunk>,
    ) -> Result<(), Refusal> {
        *budget = budget.checked_sub(1).ok_or_else(|| damaged("chunks that run in circles"))?;
        let mut node = file.at(address)?;
        node.signature(b"TREE")?;
        let [of, level] = [node.u8()?, node.u8()?];
        if of != 1 || level > MAX_LEVELS || above.is_some_and(|above| level + 1 != above) {
            return Err(damaged("a tree of chunks with odd nodes"));
        }
        let children = node.u16()?;
        node.skip(2 * file.address_bytes)?;
        for _ in 0..children {
            let [bytes, mask] = [node.u32()?, node.u32()?];
            let first: Vec<u64> = (0..self.shape.len()).map(|_| node.uint(8)).collect::<Result<_, _>>()?;
            node.skip(8)?;
            let child = node.address()?.ok_or_else(|| damaged("a chunk that is nowhere"))?;
            if level > 0 {
                self.tree(file, child, Some(level), budget, chunks)?;
                continue;
            }
            if first.iter().zip(&self.extents).any(|(first, extent)| first % extent != 0) {
                return Err(damaged("a chunk between others"));
            }
            if chunks.len() > file.data.len() / 16 {
                return Err(damaged("chunks that run in circles"));
            }
            chunks.push(Chunk { first, address: child, bytes: bytes.into(), mask });
        }
        Ok(())
    }
}

/// A chunk by its number.
struct Entry {
    at: u64,
    address: u64,
    packed: Option<(u64, u32)>,
}

/// What the headers of both arrays begin with: whether chunks are filtered, and the bytes of an entry.
struct Entries {
    filtered: bool,
    bytes: usize,
}

impl Entries {
    fn read(head: &mut Cursor) -> Result<Entries, Refusal> {
        if head.u8()? != 0 {
            return Err(refuse("has an index of chunks of a newer kind", PLAINER));
        }
        let filtered = head.u8()? == 1;
        let bytes = usize::from(head.u8()?);
        let wide = head.file.address_bytes;
        let right = if filtered { (wide + 5..=wide + 12).contains(&bytes) } else { bytes == wide };
        if right { Ok(Entries { filtered, bytes }) } else { Err(damaged("an index of odd entries")) }
    }

    /// As many entries as `block` has bytes for, the first of number `at`; those of chunks never written are left out.
    fn push(&self, block: &mut Cursor, count: u64, at: u64, entries: &mut Vec<Entry>) -> Result<(), Refusal> {
        for number in at..at.saturating_add(count) {
            let address = block.address()?;
            let packed = match self.filtered {
                true => Some((block.uint(self.bytes - block.file.address_bytes - 4)?, block.u32()?)),
                false => None,
            };
            if let Some(address) = address {
                entries.push(Entry { at: number, address, packed });
            }
        }
        Ok(())
    }

    /// Entries in pages of so many, each with a checksum behind it; `there` says which were ever written.
    fn push_pages(
        &self,
        file: Image,
        (address, count, per_page): (u64, u64, u64),
        there: &[u8],
        at: u64,
        entries: &mut Vec<Entry>,
    ) -> Result<(), Refusal> {
        let beyond = || damaged("an index beyond its end");
        let mut address = address;
        for page in 0..count.div_ceil(per_page) {
            let first = page * per_page;
            let held = per_page.min(count - first);
            let bytes = usize::try_from(held).ok().and_then(|n| n.checked_mul(self.bytes)).ok_or_else(beyond)?;
            let bit = there.get((page / 8) as usize).ok_or_else(beyond)?;
            if bit & 0x80 >> (page % 8) != 0 {
                let mut block = file.checked(address, bytes.checked_add(4).ok_or_else(beyond)?)?;
                self.push(&mut block, held, at.saturating_add(first), entries)?;
            }
            address = address.checked_add(bytes as u64 + 4).ok_or_else(beyond)?;
        }
        Ok(())
    }
}

/// The length of a block whose parts are `parts` long, refused where the file is shorter.
fn block_bytes(file: Image, parts: &[u64]) -> Result<usize, Refusal> {
    let sum = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(*part));
    let sum = sum.filter(|&sum| sum <= file.data.len() as u64).ok_or_else(|| damaged("an index beyond its end"))?;
    Ok(sum as usize)
}

fn fixed_array(file: Image, address: u64) -> Result<Vec<Entry>, Refusal> {
    let mut head = file.checked(address, 12 + file.address_bytes + file.length_bytes)?;
    head.signature(b"FAHD")?;
    let kind = Entries::read(&mut head)?;
    let page_bits = head.u8()?;
    let count = head.length()?;
    let mut entries = Vec::new();
    let Some(block_address) = head.address()? else { return Ok(entries) };
    if page_bits >= 32 {
        return Err(damaged("an index of odd pages"));
    }
    let per_page = 1u64 << page_bits;
    let prefix = 6 + file.address_bytes as u64;
    if count <= per_page {
        let length = block_bytes(file, &[prefix, count * kind.bytes as u64, 4])?;
        let mut block = file.checked(block_address, length)?;
        block.signature(b"FADB")?;
        block.skip(2 + file.address_bytes)?;
        kind.push(&mut block, count, 0, &mut entries)?;
        return Ok(entries);
    }
    let map_bytes = count.div_ceil(per_page).div_ceil(8);
    let length = block_bytes(file, &[prefix, map_bytes, 4])?;
    let mut block = file.checked(block_address, length)?;
    block.signature(b"FADB")?;
    block.skip(2 + file.address_bytes)?;
    kind.push_pages(file, (block_address + length as u64, count, per_page), block.rest, 0, &mut entries)?;
    Ok(entries)
}

fn extensible_array(file: Image, address: u64) -> Result<Vec<Entry>, Refusal> {
    let odd = || damaged("an index of odd blocks");
    let (wide, long) = (file.address_bytes, file.length_bytes);
    let mut head = file.checked(address, 16 + 6 * long + wide)?;
    head.signature(b"EAHD")?;
    let kind = Entries::read(&mut head)?;
    let [bits, in_index, least] = [head.u8()?, head.u8()?, head.u8()?].map(u64::from);
    let [least_pointers, page_bits] = [head.u8()?, head.u8()?].map(u64::from);
    head.skip(4 * long)?;
    let used = head.length()?; // one more than the highest number set
    head.skip(long)?;
    let mut entries = Vec::new();
    let Some(index_address) = head.address()? else { return Ok(entries) };
    let plain = least.is_power_of_two() && least_pointers.is_power_of_two();
    if !plain || bits > 64 || page_bits >= 32 || bits < u64::from(least.ilog2()) {
        return Err(odd());
    }
    let supers = 1 + bits - u64::from(least.ilog2());
    let supers_in_index = 2 * u64::from(least_pointers.ilog2());
    let direct = 2 * (least_pointers - 1);
    let pointers = direct + supers.checked_sub(supers_in_index).ok_or_else(odd)?;
    let entry_bytes = kind.bytes as u64;
    let parts = [6 + wide as u64, in_index * entry_bytes, pointers * wide as u64, 4];
    let mut index = file.checked(index_address, block_bytes(file, &parts)?)?;
    index.signature(b"EAIB")?;
    index.skip(2 + wide)?;
    kind.push(&mut index, in_index, 0, &mut entries)?;

    let offset_bytes = (bits as usize).div_ceil(8);
    let per_page = 1u64 << page_bits;
    let mut at = in_index;
    // Super block u has 2^(u/2) blocks of least * 2^((u+1)/2) entries; the blocks of the first ones hang from the index.
    for level in 0..supers {
        if at >= used {
            break;
        }
        let count = 1u64.checked_shl((level / 2) as u32).ok_or_else(odd)?;
        let held = 1u64.checked_shl(level.div_ceil(2) as u32).and_then(|n| n.checked_mul(least)).ok_or_else(odd)?;
        let pages = if held > per_page { held / per_page } else { 0 };
        let map_bytes = pages.div_ceil(8);
        let mut maps: &[u8] = &[];
        let mut blocks = index;
        if level >= supers_in_index {
            let Some(address) = index.address()? else {
                at = count.checked_mul(held).and_then(|n| n.checked_add(at)).ok_or_else(odd)?;
                continue;
            };
            let maps_bytes = count.checked_mul(map_bytes).ok_or_else(odd)?;
            let pointers_bytes = count.checked_mul(wide as u64).ok_or_else(odd)?;
            let parts = [6 + (wide + offset_bytes) as u64, maps_bytes, pointers_bytes, 4];
            blocks = file.checked(address, block_bytes(file, &parts)?)?;
            blocks.signature(b"EASB")?;
            blocks.skip(2 + wide + offset_bytes)?;
            maps = blocks.take(maps_bytes as usize)?;
        }
        for number in 0..count {
            let address = blocks.address()?;
            if let Some(address) = address.filter(|_| at < used) {
                let prefix = 6 + (wide + offset_bytes) as u64;
                let unpaged = if pages == 0 { held.checked_mul(entry_bytes).ok_or_else(odd)? } else { 0 };
                let length = block_bytes(file, &[prefix, unpaged, 4])?;
                let mut block = file.checked(address, length)?;
                block.signature(b"EADB")?;
                block.skip(2 + wide + offset_bytes)?;
                if pages == 0 {
                    kind.push(&mut block, held, at, &mut entries)?;
                } else {
                    let map = maps.get((number * map_bytes) as usize..).ok_or_else(odd)?;
                    kind.push_pages(file, (address + length as u64, held, per_page), map, at, &mut entries)?;
                }
            }
            at = at.checked_add(held).ok_or_else(odd)?;
        }
        if level < supers_in_index {
            index = blocks;
        }
    }
    Ok(entries)
}
