//! Every constant that chooses a launch: tiles, split-K, fusions, per architecture, each with its source.
//!
//! None of them changes what is computed, only how long it takes, except that a split of K is another order of additions. They
//! are models of a device (peak rates, SM counts) unless a source says "measured": whoever has the device tunes here.

use crate::{DType, device::Precision};

/// GEMM and implicit GEMM by mma.sync, compute capability 8.0 and up.
pub mod mma_sync {
    /// Sides of the two tiles: 128 × 128 where the result is large, 64 × 64 for four times the blocks where it is small. Source: the
    /// entries of `kernels/gemm.cu`.
    pub const LARGE_TILE: usize = 128;
    pub const SMALL_TILE: usize = 64;
    /// Blocks an SM holds of each. Source: registers and shared memory of the entries (`kernels/budget.toml`).
    pub const LARGE_BLOCKS_PER_SM: usize = 2;
    pub const SMALL_BLOCKS_PER_SM: usize = 4;
    /// K steps of a split below which it costs more than it saves: three of them fill the pipeline, and every partial sum is written
    /// and read once more. Source: a choice, untuned.
    pub const MIN_STEPS_PER_SPLIT: usize = 16;
    /// Partial sums of one GEMM. Source: a choice, untuned; a limit on scratch memory.
    pub const MAX_PARTIAL_BYTES: usize = 128 << 20;
    /// The reduction is one thread per four elements, which reads them split by split. Source: a choice, untuned.
    pub const MAX_SPLITS: usize = 64;
    /// Rows of A up to which one warp per column takes the place of a tile, of whose MMAs four rows would use a sixteenth. Source:
    /// the entry's accumulators per lane.
    pub const SKINNY_ROWS: usize = 4;
}

/// GEMM by TMA and wgmma, compute capability 9.0.
pub mod sm90 {
    /// Rows of a tile and K of a step. Source: two consumer warpgroups of m64, and the 128-byte swizzle of 16-bit elements.
    pub const TILE_M: usize = 128;
    pub const TILE_K: usize = 64;
    /// Columns of the two tiles. Source: wgmma's n256 is the largest; 128 × 256 loads 87 FLOP per byte.
    pub const WIDE_TILE_N: usize = 256;
    pub const NARROW_TILE_N: usize = 128;
    /// Wide tiles may compute one column in so many that does not exist. Source: a choice, untuned.
    pub const MAX_WASTED_COLUMNS: usize = 8;
    /// As mma_sync's, with K steps twice as long. Source: a choice, untuned.
    pub const MIN_STEPS_PER_SPLIT: usize = 8;
    /// Extents below which most of a tile would be zeros. Source: half a tile.
    pub const MIN_EXTENT: usize = 64;
}

/// Blocks of a pass over rows that also sums its columns: four for each SM of an H100 (132). Source: four blocks of 256 threads
/// fill an SM. A constant, not the device's count: every device adds in one order.
pub const COLUMN_SUM_BLOCKS: usize = 4 * 132;

impl Precision {
    /// TF32 where it buys time. Source: 3xTF32 of 2²⁶ multiply-adds takes an H100 one to two microseconds, less than a launch, so
    /// smaller ops stay exact for nothing.
    pub const TF32: Precision = Precision::Tf32 { min_macs: 1 << 26 };
}

/// Sides of a patch of the fused upsampling kernel before and after its filter of `FIR` taps, in pixels, and its channels
/// (`kernels/modulated_conv2d.cu`).
pub mod fused_upsample {
    pub const PATCH_PX: usize = 16;
    pub const FIR: usize = 4;
    pub const OUTPUT_PX: usize = PATCH_PX - FIR + 1;
    pub const CHANNELS: usize = 64;
}

/// Whether upsampling in one pass takes less time than in two: the MMAs of the patches' margins against the bytes of what is
/// not stored, by the FLOP that tensor cores reach in the time memory takes for a byte. `[c, k]` are the channels.
pub fn fuses_upsample([h, w]: [usize; 2], [oh, ow]: [usize; 2], [c, k]: [usize; 2], dtype: DType) -> bool {
    use fused_upsample::{CHANNELS, OUTPUT_PX, PATCH_PX};
    // Source: about 400 TFLOP/s of 16-bit mma.sync on a device of 3 TB/s (H100); 3xTF32 is three MMAs of half the speed.
    let (flop_per_byte, bytes) = match dtype {
        DType::Bf16 | DType::F16 => (128, 2),
        _ => (21, 4),
    };
    let pixels = oh.div_ceil(OUTPUT_PX) * ow.div_ceil(OUTPUT_PX) * (PATCH_PX * PATCH_PX / 4);
    let flop = pixels.saturating_sub(h * w) * 18 * c * k.next_multiple_of(CHANNELS);
    let saved_bytes = 2 * (2 * h + 1) * (2 * w + 1) * k * bytes;
    flop < saved_bytes * flop_per_byte
}

/// Hidden channels from which one kernel of clusters computes a block of MBConv: half the blocks of the smaller cluster have some.
/// Source: a choice, untuned.
pub const MIN_CLUSTER_HIDDEN: usize = 512;

/// Whether MBConv's expansion with a layer norm takes less time where its tensor stays on the chip: the product is computed a
/// second time, for the moments of its rows, against six passes over the hidden tensor.
pub fn fuses_normed_expansion(inputs: usize, dtype: DType, tf32: bool) -> bool {
    // Source: as above; TF32 by mma.sync reaches about 135 TFLOP/s.
    let (flop_per_byte, bytes) = match dtype {
        DType::Bf16 | DType::F16 => (128, 2),
        _ if tf32 => (45, 4),
        _ => (21, 4),
    };
    2 * inputs < 6 * bytes * flop_per_byte
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_product_is_for_16_bits_and_few_inputs() {
        let pays = |inputs, dtype| fuses_normed_expansion(inputs, dtype, false);
        assert!(pays(512, DType::Bf16) && pays(512, DType::F16) && pays(128, DType::F32));
        assert!(!pays(512, DType::F32), "3xTF32 takes longer than the bytes");
        assert!(fuses_normed_expansion(512, DType::F32, true));
    }

    #[test]
    fn one_pass_is_for_few_channels_and_large_images() {
        let pays = |px: usize, c, k, dtype| fuses_upsample([px; 2], [2 * px; 2], [c, k], dtype);
        for (px, c, k) in [(64, 64, 64), (64, 128, 64), (128, 64, 64), (128, 128, 128)] {
            assert!(pays(px, c, k, DType::Bf16), "{px} {c} {k}");
        }
        assert!(!pays(64, 256, 256, DType::Bf16), "tensor cores decide");
        assert!(!pays(4, 512, 512, DType::F16), "one patch is mostly margin");
        assert!(pays(128, 64, 64, DType::F32) && !pays(128, 128, 64, DType::F32), "3xTF32 multiplies three times");
        assert!(!pays(64, 64, 3, DType::Bf16), "three channels of 64 are computed");
    }
}
