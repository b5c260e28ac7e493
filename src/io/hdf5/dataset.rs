//! A dataset: its type, its shape, and its numbers from wherever they are stored.

use super::{
    bytes::{AGAIN, Cursor, Image, PLAINER, damaged, refuse},
    chunks::{Chunked, Index},
    datatype::{Dataspace, Datatype},
    filters::{self, Filter},
    object::{Object, kind},
};
use crate::io::{array::ElementType, pickle::Refusal};

/// The most bytes of one array.
const MAX_ARRAY_BYTES: u64 = 16 << 30;
/// What deflate makes of a byte at most; chunks never written are bounded by the same.
const MAX_EXPANSION: u64 = 1032;

/// A dataset's description.
pub(super) struct Description {
    pub shape: Vec<usize>,
    pub element: ElementType,
    big_endian: bool,
    storage: Storage,
    filters: Vec<Filter>,
    /// Chunks over the array's edge go through no filter.
    edges_plain: bool,
    /// One element where nothing was written; empty for zeros.
    fill: Vec<u8>,
}

enum Storage {
    /// Nothing was ever written.
    Nowhere,
    Inside(Vec<u8>),
    Contiguous {
        address: u64,
        bytes: u64,
    },
    Chunked(Chunked),
}

impl Description {
    /// `None` for an object that is no dataset.
    pub fn read(object: &Object) -> Result<Option<Description>, Refusal> {
        let find = |kind| object.find(kind);
        let (Some(mut datatype), Some(mut dataspace), Some(layout)) =
            (find(kind::DATATYPE)?, find(kind::DATASPACE)?, find(kind::LAYOUT)?)
        else {
            return Ok(None);
        };
        let (element, big_endian) = match Datatype::read(&mut datatype)? {
            Datatype::Number { element, big_endian } => (element, big_endian),
            Datatype::Text(_) | Datatype::VariableText => return Err(refuse("holds text, not numbers", PLAINER)),
            Datatype::Other(what, _) => return Err(refuse(format!("holds {what}, not numbers"), PLAINER)),
        };
        let dataspace = Dataspace::read(&mut dataspace)?;
        if dataspace.is_null {
            return Err(refuse("holds nothing at all, not even an empty array", AGAIN));
        }
        if find(kind::EXTERNAL_FILES)?.is_some() {
            return Err(refuse("has its numbers in other files", PLAINER));
        }
        let item = element.bytes() as u64;
        let bytes = dataspace.count()?.checked_mul(item).ok_or_else(|| damaged("an impossible shape"))?;
        let room = (layout.file.data.len() as u64).saturating_mul(MAX_EXPANSION).saturating_add(1 << 20);
        if bytes > room.min(MAX_ARRAY_BYTES) {
            let size = format!("{:?}", dataspace.shape);
            return Err(refuse(format!("is too large for the file it is in, {size}"), AGAIN));
        }
        let shape = dataspace.shape.iter().map(|&extent| extent as usize).collect();
        let filters = find(kind::FILTERS)?.map_or(Ok(Vec::new()), |mut message| filters::read(&mut message))?;
        let (storage, edges_plain) = Storage::read(layout, dataspace, item)?;
        let fill = fill(object, item as usize)?;
        Ok(Some(Description { shape, element, big_endian, storage, filters, edges_plain, fill }))
    }

    /// Every element, little-endian, rows first.
    pub fn bytes(&self, file: Image) -> Result<Vec<u8>, Refusal> {
        let item = self.element.bytes();
        // The product is within what was allowed for.
        let total = self.shape.iter().product::<usize>() * item;
        let mut out = match &self.storage {
            Storage::Inside(bytes) => bytes.get(..total).ok_or_else(|| damaged("an array that ends early"))?.to_vec(),
            Storage::Contiguous { address, bytes } if *bytes >= total as u64 => {
                file.slice(*address, total as u64)?.to_vec()
            }
            Storage::Contiguous { .. } => return Err(damaged("an array that ends early")),
            Storage::Nowhere => self.filled(total),
            Storage::Chunked(chunked) => {
                let mut out = self.filled(total);
                self.unpack(file, chunked, &mut out)?;
                out
            }
        };
        if self.big_endian {
            out.chunks_exact_mut(item).for_each(<[u8]>::reverse);
        }
        Ok(out)
    }

    fn filled(&self, total: usize) -> Vec<u8> {
        let mut out = vec![0; total];
        if !self.fill.is_empty() {
            out.chunks_exact_mut(self.fill.len()).for_each(|element| element.copy_from_slice(&self.fill));
        }
        out
    }

    fn unpack(&self, file: Image, chunked: &Chunked, out: &mut [u8]) -> Result<(), Refusal> {
        let most = chunked.chunk_bytes as usize;
        for chunk in chunked.chunks(file)? {
            let edge = (0..chunk.first.len())
                .any(|axis| chunk.first[axis].saturating_add(chunked.extents[axis]) > chunked.shape[axis]);
            let stored = file.slice(chunk.address, chunk.bytes)?;
            let short = || damaged("a chunk of another size than the others");
            if self.filters.is_empty() || (edge && self.edges_plain) {
                paste(stored.get(..most).ok_or_else(short)?, chunked, &chunk.first, self.element.bytes(), out);
            } else {
                let bytes = filters::undo(&self.filters, chunk.mask, stored, most)?;
                if bytes.len() != most {
                    return Err(short());
                }
                paste(&bytes, chunked, &chunk.first, self.element.bytes(), out);
            }
        }
        Ok(())
    }
}

/// Copies what of a chunk lies within the array, run by run along the last axis.
fn paste(chunk: &[u8], chunked: &Chunked, first: &[u64], item: usize, out: &mut [u8]) {
    let rank = first.len();
    let held: Vec<usize> =
        (0..rank).map(|axis| chunked.extents[axis].min(chunked.shape[axis] - first[axis]) as usize).collect();
    let run = held[rank - 1] * item;
    let runs: usize = held[..rank - 1].iter().product();
    for number in 0..runs {
        let (mut rest, mut from, mut to) = (number, 0, 0);
        let (mut from_step, mut to_step) = (chunked.extents[rank - 1] as usize, chunked.shape[rank - 1] as usize);
        for axis in (0..rank - 1).rev() {
            let at = rest % held[axis];
            rest /= held[axis];
            from += at * from_step;
            to += (first[axis] as usize + at) * to_step;
            from_step *= chunked.extents[axis] as usize;
            to_step *= chunked.shape[axis] as usize;
        }
        to += first[rank - 1] as usize;
        out[to * item..][..run].copy_from_slice(&chunk[from * item..][..run]);
    }
}

impl Storage {
    /// And whether chunks over the edge go through no filter.
    fn read(mut layout: Cursor, dataspace: Dataspace, item: u64) -> Result<(Storage, bool), Refusal> {
        let version = layout.u8()?;
        if !(3..=5).contains(&version) {
            let age = if version < 3 { "older" } else { "newer" };
            return Err(refuse(format!("is laid out in an {age} way that is not read (layout {version})"), PLAINER));
        }
        match layout.u8()? {
            0 => {
                let size = layout.u16()?;
                return Ok((Storage::Inside(layout.take(size.into())?.to_vec()), false));
            }
            1 => {
                let address = layout.address()?;
                let bytes = layout.length()?;
                let stored = address.map(|address| Storage::Contiguous { address, bytes });
                return Ok((stored.unwrap_or(Storage::Nowhere), false));
            }
            2 => {}
            3 => return Err(refuse("is a virtual dataset, a view of other files", PLAINER)),
            _ => return Err(refuse("is laid out in a newer way that is not read", PLAINER)),
        }
        let flags = if version > 3 { layout.u8()? } else { 0 };
        // One more than the array has: the bytes of an element.
        let rank = usize::from(layout.u8()?);
        if rank != dataspace.shape.len() + 1 || rank < 2 {
            return Err(damaged("chunks of another rank than the array's"));
        }
        let tree = if version == 3 { layout.address()? } else { None };
        let wide = if version == 3 { 4 } else { layout.u8()?.into() };
        let extents: Vec<u64> = (0..rank).map(|_| layout.uint(wide)).collect::<Result<_, _>>()?;
        let chunk_bytes = extents.iter().try_fold(1u64, |n, &extent| n.checked_mul(extent)).unwrap_or(0);
        if chunk_bytes == 0 || extents[rank - 1] != item {
            return Err(damaged("chunks of an impossible shape"));
        }
        let extents = extents[..rank - 1].to_vec();
        // All chunks together are what is unpacked at most; a chunk larger than the array is a small array's.
        let unpacked = extents.iter().zip(&dataspace.shape).try_fold(item, |n, (extent, size)| {
            size.div_ceil(*extent).max(1).checked_mul(*extent).and_then(|covered| covered.checked_mul(n))
        });
        let room = (layout.file.data.len() as u64).saturating_mul(MAX_EXPANSION).saturating_add(64 << 20);
        if unpacked.is_none_or(|bytes| bytes > room.min(2 * MAX_ARRAY_BYTES)) {
            return Err(refuse("has chunks too large for the file they are in", AGAIN));
        }
        let (index, address) = match version {
            3 => (Index::Tree, tree),
            _ => {
                let index = match layout.u8()? {
                    1 if flags & 2 != 0 => Index::Single { packed: Some((layout.length()?, layout.u32()?)) },
                    1 => Index::Single { packed: None },
                    2 => Index::Implicit,
                    3 => {
                        layout.skip(1)?;
                        Index::FixedArray
                    }
                    4 => {
                        layout.skip(5)?;
                        Index::ExtensibleArray
                    }
                    _ => {
                        return Err(refuse(
                            "can grow along several axes, which is not read with libver=\"latest\"",
                            PLAINER,
                        ));
                    }
                };
                (index, layout.address()?)
            }
        };
        let Dataspace { shape, largest, .. } = dataspace;
        let chunked = |address| Storage::Chunked(Chunked { shape, largest, extents, chunk_bytes, index, address });
        Ok((address.map_or(Storage::Nowhere, chunked), flags & 1 != 0))
    }
}

/// The element that stands where nothing was written; empty for zeros.
fn fill(object: &Object, item: usize) -> Result<Vec<u8>, Refusal> {
    let size_of = |cursor: &mut Cursor| cursor.u32().map(|size| size as usize);
    let (mut cursor, size);
    if let Some(message) = object.find(kind::FILL_VALUE)? {
        cursor = message;
        let version = cursor.u8()?;
        let defined = match version {
            1 | 2 => {
                cursor.skip(2)?;
                let defined = cursor.u8()? != 0;
                version == 1 || defined
            }
            3 => cursor.u8()? & 0x20 != 0,
            _ => return Err(refuse("has a fill value of a newer kind", PLAINER)),
        };
        size = if defined { size_of(&mut cursor)? } else { 0 };
    } else if let Some(message) = object.find(kind::FILL_VALUE_OLD)? {
        cursor = message;
        size = size_of(&mut cursor)?;
    } else {
        return Ok(Vec::new());
    }
    match size {
        0 => Ok(Vec::new()),
        size if size == item => {
            let value = cursor.take(item)?.to_vec();
            Ok(if value.iter().all(|&b| b == 0) { Vec::new() } else { value })
        }
        _ => Err(damaged("a fill value of another type")),
    }
}
