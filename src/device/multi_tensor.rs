//! Multi-tensor apply: many tensors in one launch (`kernels/common/multi_tensor.cuh`). Their addresses go by value with the
//! parameters, and each block takes a chunk of one of them.

use super::driver::DevicePtr;
use crate::error::Result;

/// Tensors of one launch: what 4 KiB of parameters hold.
pub const MAX_TENSORS: usize = 64;
/// Elements per block.
const CHUNK: usize = 4096;
/// Threads of a block.
pub const THREADS: u32 = 256;

/// How up to [`MAX_TENSORS`] tensors are cut into chunks, one per block.
#[derive(Clone, Copy, Debug)]
pub struct ChunkTable {
    /// Elements of each tensor.
    pub count: [u64; MAX_TENSORS],
    /// The block that takes each tensor's first chunk.
    pub first_block: [u32; MAX_TENSORS],
    pub tensors: u32,
    pub blocks: u32,
}

impl ChunkTable {
    /// For tensors of these many elements. An empty one gets no block.
    pub fn new(counts: impl IntoIterator<Item = usize>) -> ChunkTable {
        let mut table = ChunkTable { count: [0; MAX_TENSORS], first_block: [0; MAX_TENSORS], tensors: 0, blocks: 0 };
        for (i, count) in counts.into_iter().enumerate().take(MAX_TENSORS) {
            table.count[i] = count as u64;
            table.first_block[i] = table.blocks;
            table.tensors += 1;
            let blocks = u32::try_from(count.div_ceil(CHUNK)).unwrap_or(u32::MAX);
            table.blocks = table.blocks.saturating_add(blocks);
        }
        table
    }
}

/// Calls `launch` with as many tensors at a time as one launch takes, and their chunks.
pub fn for_each_launch(
    tensors: &[usize],
    elems: impl Fn(usize) -> usize,
    mut launch: impl FnMut(&[usize], &ChunkTable) -> Result<()>,
) -> Result<()> {
    let mut launches = tensors.chunks(MAX_TENSORS);
    launches.try_for_each(|some| launch(some, &ChunkTable::new(some.iter().map(|&i| elems(i)))))
}

/// Addresses as a kernel takes them.
pub fn pointers(of: impl IntoIterator<Item = DevicePtr>) -> [DevicePtr; MAX_TENSORS] {
    let mut list = [DevicePtr::NULL; MAX_TENSORS];
    list.iter_mut().zip(of).for_each(|(to, from)| *to = from);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_gets_the_blocks_it_needs() {
        let table = ChunkTable::new([1, CHUNK, 0, CHUNK + 1]);
        assert_eq!(table.first_block[..4], [0, 1, 2, 2]);
        assert_eq!((table.blocks, table.tensors), (4, 4));
    }
}
