//! Many links or attributes of one object: a fractal heap holds them, a B-tree of version 2 says where in it each lies.
//!
//! Read are objects within the heap's direct blocks; those too large for a block, and heaps behind filters, are refused.

use super::bytes::{Cursor, Image, PLAINER, damaged, refuse};
use crate::io::pickle::Refusal;

/// Deeper trees would hold more than any file.
const MAX_LEVELS: u16 = 32;

/// Every object that a B-tree's records name; `skip` bytes of a record come before where its object lies.
pub(super) fn objects<'a>(file: Image<'a>, heap: u64, tree: u64, skip: usize) -> Result<Vec<Cursor<'a>>, Refusal> {
    let heap = Heap::read(file, heap)?;
    let records = Tree::read(file, tree)?.records()?;
    records
        .into_iter()
        .map(|mut record| {
            record.skip(skip)?;
            heap.object(record)
        })
        .collect()
}

struct Tree<'a> {
    file: Image<'a>,
    node_bytes: usize,
    record_bytes: usize,
    /// Most records of a node at each depth from the leaves up, and of everything below it.
    most: Vec<u64>,
    most_below: Vec<u64>,
    root: Option<u64>,
    root_records: u64,
}

/// Bytes that a number up to `most` takes.
fn width(most: u64) -> usize {
    (64 - most.leading_zeros() as usize).div_ceil(8).max(1)
}

impl<'a> Tree<'a> {
    fn read(file: Image<'a>, address: u64) -> Result<Tree<'a>, Refusal> {
        let mut head = file.checked(address, 22 + file.address_bytes + file.length_bytes)?;
        head.signature(b"BTHD")?;
        head.skip(2)?;
        let node_bytes = head.u32()? as usize;
        let record_bytes = usize::from(head.u16()?);
        let depth = head.u16()?;
        head.skip(2)?;
        let root = head.address()?;
        let root_records = head.u16()?.into();
        if record_bytes == 0 || depth > MAX_LEVELS || node_bytes > file.data.len() {
            return Err(damaged("a tree of impossible nodes"));
        }
        let mut tree =
            Tree { file, node_bytes, record_bytes, most: Vec::new(), most_below: Vec::new(), root, root_records };
        for level in 0..=usize::from(depth) {
            let pointer = tree.pointer_bytes(level);
            let room = node_bytes.checked_sub(10 + pointer).ok_or_else(|| damaged("a tree of impossible nodes"))?;
            let most = (room / (record_bytes + pointer)) as u64;
            let below = tree.most_below.last().map_or(Some(0), |below| (most + 1).checked_mul(*below));
            let below = below.and_then(|below| below.checked_add(most));
            tree.most.push(most);
            tree.most_below.push(below.ok_or_else(|| damaged("a tree of impossible nodes"))?);
        }
        Ok(tree)
    }

    /// Bytes of a child's address and counts in a node of this level; a leaf has none.
    fn pointer_bytes(&self, level: usize) -> usize {
        match level {
            0 => 0,
            1 => self.file.address_bytes + width(self.most[0]),
            _ => self.file.address_bytes + width(self.most[0]) + width(self.most_below[level - 1]),
        }
    }

    fn records(&self) -> Result<Vec<Cursor<'a>>, Refusal> {
        let mut records = Vec::new();
        let mut budget = self.file.data.len() / self.node_bytes.max(1) + 1;
        if let Some(root) = self.root {
            self.node(root, self.root_records, self.most.len() - 1, &mut budget, &mut records)?;
        }
        Ok(records)
    }

    fn node(
        &self,
        address: u64,
        count: u64,
        level: usize,
        budget: &mut usize,
        records: &mut Vec<Cursor<'a>>,
    ) -> Result<(), Refusal> {
        *budget = budget.checked_sub(1).ok_or_else(|| damaged("a tree that runs in circles"))?;
        if count > self.most[level] {
            return Err(damaged("a tree of impossible nodes"));
        }
        let count = count as usize;
        let pointers = if level == 0 { 0 } else { (count + 1) * self.pointer_bytes(level) };
        let mut node = self.file.checked(address, 10 + count * self.record_bytes + pointers)?;
        node.signature(if level == 0 { b"BTLF" } else { b"BTIN" })?;
        node.skip(2)?;
        for _ in 0..count {
            records.push(node.part(self.record_bytes)?);
        }
        if level > 0 {
            for _ in 0..=count {
                let child = node.address()?.ok_or_else(|| damaged("a tree with a child that is nowhere"))?;
                let of_child = node.uint(width(self.most[0]))?;
                node.skip(if level > 1 { width(self.most_below[level - 1]) } else { 0 })?;
                self.node(child, of_child, level - 1, budget, records)?;
            }
        }
        Ok(())
    }
}

struct Heap<'a> {
    file: Image<'a>,
    /// Bytes of an object's offset and length in what names it.
    offset_bytes: usize,
    length_bytes: usize,
    /// Blocks of a row, and the bytes of one in the first row.
    columns: u64,
    start_bytes: u64,
    most_direct_bytes: u64,
    /// Rows of the root's block of blocks; 0 where the root is a direct block.
    rows: u16,
    root: Option<u64>,
}

impl<'a> Heap<'a> {
    fn read(file: Image<'a>, address: u64) -> Result<Heap<'a>, Refusal> {
        let mut head = file.at(address)?;
        head.signature(b"FRHP")?;
        head.skip(3)?;
        if head.u16()? != 0 {
            return Err(refuse("keeps its names behind filters", PLAINER));
        }
        head.skip(1)?;
        let most_object_bytes = head.u32()?.into();
        let [address_bytes, wide] = [file.address_bytes, file.length_bytes];
        // Ids of objects, their tree, free space, and how much of everything there is.
        head.skip(wide + address_bytes + wide + address_bytes + 8 * wide)?;
        let columns = head.u16()?.into();
        let start_bytes = head.length()?;
        let most_direct_bytes = head.length()?;
        let bits = head.u16()?;
        head.skip(2)?;
        let root = head.address()?;
        let rows = head.u16()?;
        let plain = |n: u64| n.is_power_of_two();
        if !(plain(columns) && plain(start_bytes) && plain(most_direct_bytes) && (1..=64).contains(&bits)) {
            return Err(damaged("a heap of odd blocks"));
        }
        file.checked(address, 22 + 12 * wide + 3 * address_bytes + 4)?;
        let length_bytes = width(most_direct_bytes).min(width(most_object_bytes));
        let offset_bytes = usize::from(bits).div_ceil(8);
        Ok(Heap { file, offset_bytes, length_bytes, columns, start_bytes, most_direct_bytes, rows, root })
    }

    fn object(&self, mut id: Cursor) -> Result<Cursor<'a>, Refusal> {
        if id.u8()? & 0xf0 != 0 {
            return Err(refuse("has links or attributes of many KB", PLAINER));
        }
        let nowhere = || damaged("an object beyond its heap");
        let offset = id.uint(self.offset_bytes)?;
        let length = id.uint(self.length_bytes)?;
        let root = self.root.ok_or_else(nowhere)?;
        let (mut block, mut within, mut rows) = (root, offset, self.rows);
        // Bytes of the direct block that holds it.
        let mut direct_bytes = self.start_bytes;
        while rows > 0 {
            // Rows 0 and 1 have blocks of the first size, each later one of twice the one before.
            let mut row = 0u32;
            let mut before = 0u64;
            let (bytes, column) = loop {
                let bytes =
                    self.start_bytes.checked_shl(row.saturating_sub(1)).filter(|&b| b > 0).ok_or_else(nowhere)?;
                let of_row = bytes.checked_mul(self.columns).ok_or_else(nowhere)?;
                if within - before < of_row {
                    break (bytes, (within - before) / bytes);
                }
                before += of_row;
                row += 1;
            };
            if row >= u32::from(rows) {
                return Err(nowhere());
            }
            let mut table = self.file.at(block)?;
            table.signature(b"FHIB")?;
            table.skip(1 + self.file.address_bytes + self.offset_bytes)?;
            let entry = u64::from(row) * self.columns + column;
            // What lies below blocks of blocks has the same width of entry, as no block is filtered.
            table.skip(
                usize::try_from(entry).ok().and_then(|n| n.checked_mul(self.file.address_bytes)).ok_or_else(nowhere)?,
            )?;
            block = table.address()?.ok_or_else(nowhere)?;
            within = within - before - column * bytes;
            if bytes <= self.most_direct_bytes {
                direct_bytes = bytes;
                break;
            }
            // A block of blocks spans `bytes`: so many rows.
            rows = (bytes / (self.start_bytes * self.columns)).checked_ilog2().ok_or_else(nowhere)? as u16 + 1;
        }
        if within.checked_add(length).is_none_or(|end| end > direct_bytes) {
            return Err(nowhere());
        }
        let mut head = self.file.at(block)?;
        head.signature(b"FHDB")?;
        let whole = self.file.slice(block, direct_bytes)?;
        let start = usize::try_from(within).map_err(|_| nowhere())?;
        let bytes = whole.get(start..start + length as usize).ok_or_else(nowhere)?;
        Ok(Cursor { file: self.file, rest: bytes })
    }
}
