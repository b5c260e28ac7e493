//! Many buffers in one launch (`kernels/common/tensor_list.cuh`): their addresses go by value with the parameters, and each
//! block takes a chunk of one of them.

use super::driver::DevicePtr;

/// Buffers of one launch: what 4 KiB of parameters hold.
pub const LIST: usize = 64;
/// Elements of a block.
const CHUNK: usize = 4096;
/// Threads of a block.
pub const THREADS: u32 = 256;

/// How up to [`LIST`] buffers are shared out among blocks.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    pub count: [u64; LIST],
    pub first_block: [u32; LIST],
    pub buffers: u32,
    pub blocks: u32,
}

impl Shares {
    /// Of buffers of these many elements. An empty one gets no block.
    pub fn of(counts: &[usize]) -> Shares {
        let mut shares = Shares { count: [0; LIST], first_block: [0; LIST], buffers: counts.len() as u32, blocks: 0 };
        for (i, &count) in counts.iter().enumerate().take(LIST) {
            shares.count[i] = count as u64;
            shares.first_block[i] = shares.blocks;
            let blocks = u32::try_from(count.div_ceil(CHUNK)).unwrap_or(u32::MAX);
            shares.blocks = shares.blocks.saturating_add(blocks);
        }
        shares
    }
}

/// A list of addresses as a kernel takes it.
pub fn addresses(of: impl IntoIterator<Item = DevicePtr>) -> [DevicePtr; LIST] {
    let mut list = [DevicePtr::NULL; LIST];
    list.iter_mut().zip(of).for_each(|(to, from)| *to = from);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_gets_the_blocks_it_needs() {
        let shares = Shares::of(&[1, CHUNK, 0, CHUNK + 1]);
        assert_eq!(shares.first_block[..4], [0, 1, 2, 2]);
        assert_eq!((shares.blocks, shares.buffers), (4, 4));
    }
}
