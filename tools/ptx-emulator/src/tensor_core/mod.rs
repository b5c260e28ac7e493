//! Matrix instructions as pure functions on registers: `mma.sync`, `ldmatrix`, `stmatrix`, `movmatrix`, `wgmma`.
//!
//! Layouts are those of the PTX ISA. Numerics: products are exact, sums are f32 in ascending k, one rounding each.
//! Hardware aligns and truncates partial sums instead, so the last bits differ; results here are the better ones.

mod double;
mod element;
mod instructions;
mod matrix;
mod mma;
mod warpgroup_sums;
mod wgmma;
mod wmma;

pub(crate) use instructions::decode;

pub use element::Element;
pub use matrix::{from_rows, to_rows, transpose};
pub use mma::Form;
pub use warpgroup_sums::{Operand, Sums};
pub use wgmma::{Descriptor, Major, Swizzle, Tile, WarpgroupForm};

/// One 32-bit register of all lanes of a warp.
pub type Lanes = [u32; 32];

/// Runs `body`, compiled for AVX2 and FMA where the processor has them. The flag tells it whether `mul_add` is one instruction.
macro_rules! vectorised {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident $(<const $k:ident: usize, const $h:ident: bool>)? ($($arg:ident: $type:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        $visibility fn $name $(<const $k: usize, const $h: bool>)? ($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide $(<const $k: usize, const $h: bool>)? ($($arg: $type),*) {
                    $body::<$($k, $h,)? true>($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: both features were just detected.
                    return unsafe { wide $(::<$k, $h>)? ($($arg),*) };
                }
            }
            $body::<$($k, $h,)? false>($($arg),*)
        }
    };
}
pub(crate) use vectorised;
