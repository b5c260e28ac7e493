//! Kernels as values: which module and entry, how many threads a block has, and the one struct it takes.
//!
//! A kernel's parameters are one `#[repr(C)]` struct passed by value, declared twice: in `kernels/S.cu` and, with
//! [`kernel_params!`](crate::kernel_params), beside the op. The contract test holds the two against each other through the PTX.

use std::{marker::PhantomData, slice};

use super::{driver::DevicePtr, module::Module};
use crate::dtype::DType;

/// What a parameter struct is made of: numbers, addresses of device memory, other parameter structs, arrays of these.
///
/// # Safety
/// The type has no padding and no lifetime; kernels get its bytes.
pub unsafe trait Param: Copy + 'static {}

macro_rules! params {
    ($($type:ty),*) => {
        $(
            // SAFETY: a plain number.
            unsafe impl Param for $type {}
        )*
    };
}

params!(u8, i32, u32, u64, f32, f64);

// SAFETY: one u64, transparently.
unsafe impl Param for DevicePtr {}

// SAFETY: elements follow each other without gaps.
unsafe impl<T: Param, const N: usize> Param for [T; N] {}

/// One field of a parameter struct.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    pub name: &'static str,
    pub offset_bytes: usize,
    pub size_bytes: usize,
}

/// A parameter struct whose layout is known.
pub trait Params: Param {
    const FIELDS: &'static [Field];

    /// As the kernel takes it.
    fn bytes(&self) -> &[u8] {
        // SAFETY: a `Param` has no padding, so every byte is initialised.
        unsafe { slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

/// Declares the parameter structs of kernels, field by field as in the `.cu` file. Padding must be spelled out, or it does not
/// compile.
#[macro_export]
macro_rules! kernel_params {
    ($($(#[$doc:meta])* $visibility:vis struct $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            $visibility struct $name { $(pub $field: $type),* }

            const _: () = {
                const fn param<T: $crate::device::kernel::Param>() -> usize { size_of::<T>() }
                assert!(size_of::<$name>() == 0 $(+ param::<$type>())*, "padding that is not spelled out");
            };

            // SAFETY: every field is a `Param`, and together they fill the struct: checked right above.
            unsafe impl $crate::device::kernel::Param for $name {}

            impl $crate::device::kernel::Params for $name {
                const FIELDS: &'static [$crate::device::kernel::Field] = &[$($crate::device::kernel::Field {
                    name: stringify!($field),
                    offset_bytes: std::mem::offset_of!($name, $field),
                    size_bytes: size_of::<$type>(),
                }),*];
            }
        )*
    };
}

/// A kernel family: one entry `<module>_<name>_<dtype>` for each of `types`, or `<module>_<name>` where there are none.
///
/// Having one is the right to launch it with any `P`: see [`Kernel::new`].
///
/// ```
/// use isg::{DType, Device, Result, Tensor, kernel_params};
/// use isg::device::{driver::DevicePtr, kernel::{Kernel, blocks}, module::{Arch, Module}};
/// use isg::op::{DeviceArgs, HostArgs, Op, apply1};
/// use isg::shape::Spec;
///
/// static TWICE: Module = Module::new("twice", Arch::SM_80, "
/// .version 8.0
/// .target sm_80
/// .address_size 64
/// .visible .entry twice_fwd_f32(.param .align 8 .b8 p[24])
/// .maxntid 128, 1, 1
/// {
///     .reg .pred %beyond;
///     .reg .f32 %v;
///     .reg .b32 %i, %block, %thread, %count;
///     .reg .b64 %x, %y;
///     mov.u32 %block, %ctaid.x;
///     mov.u32 %thread, %tid.x;
///     mad.lo.u32 %i, %block, 128, %thread;
///     ld.param.u32 %count, [p+16];
///     setp.ge.u32 %beyond, %i, %count;
///     @%beyond bra $L__end;
///     ld.param.u64 %x, [p];
///     ld.param.u64 %y, [p+8];
///     mad.wide.u32 %x, %i, 4, %x;
///     mad.wide.u32 %y, %i, 4, %y;
///     ld.global.f32 %v, [%x];
///     add.f32 %v, %v, %v;
///     st.global.f32 [%y], %v;
/// $L__end:
///     ret;
/// }
/// ");
///
/// kernel_params! {
///     struct TwiceParams { x: DevicePtr, y: DevicePtr, count: u32, unused: u32 }
/// }
///
/// // SAFETY: `Twice::gpu` alone fills `TwiceParams`, with two tensors of one shape and the number of their elements.
/// const FORWARD: Kernel<TwiceParams> = unsafe { Kernel::new(&TWICE, "fwd", 128, &[DType::F32]) };
///
/// struct Twice;
///
/// impl Op for Twice {
/// #    fn name(&self) -> &'static str {
/// #        "twice"
/// #    }
/// #    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
/// #        Ok(vec![x[0]])
/// #    }
/// #    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
/// #        let x = args.x::<f32>(0);
/// #        args.y::<f32>(0).iter_mut().zip(x).for_each(|(y, x)| *y = x + x);
/// #        Ok(())
/// #    }
///     // ... name, shapes and the definition on the CPU
///     fn gpu(&self, args: &DeviceArgs) -> Result<()> {
///         let (x, y) = (args.x[0], args.y[0]);
///         let params = TwiceParams { x: x.ptr, y: y.ptr, count: y.elems() as u32, unused: 0 };
///         args.launch(&FORWARD, y.dtype(), blocks(y.elems(), 128), 0, &params)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let x = Tensor::from_vec(vec![1.0f32, 2.5], [2], &Device::named("emulator")?)?;
/// assert_eq!(apply1(Twice, &[&x])?.to_vec::<f32>()?, [2.0, 5.0]);
/// # Ok(())
/// # }
/// ```
pub struct Kernel<P> {
    pub module: &'static Module,
    pub name: &'static str,
    /// Threads of a block; the entry's `.maxntid`.
    pub threads: u32,
    pub types: &'static [DType],
    params: PhantomData<fn(P)>,
}

/// The float types kernels store.
pub const FLOATS: &[DType] = &[DType::F32, DType::Bf16, DType::F16];
/// The types that kernels which only move elements take.
pub const MOVABLE: &[DType] = &[DType::F32, DType::Bf16, DType::F16, DType::U8, DType::I32];
/// For kernels whose types are not a matter of choice.
pub const UNTYPED: &[DType] = &[];

impl<P: Params> Kernel<P> {
    /// # Safety
    /// Its entries take one `P` and blocks of `threads` threads. Whoever can reach this kernel and fill a `P` does so from the
    /// tensors and scratch memory of the launch: every address is of live memory, as large as the entry takes it to be from
    /// the numbers beside it. Keep the kernel or the struct private to the file that launches it, and that is a matter of
    /// one file.
    pub const unsafe fn new(
        module: &'static Module,
        name: &'static str,
        threads: u32,
        types: &'static [DType],
    ) -> Kernel<P> {
        Kernel { module, name, threads, types, params: PhantomData }
    }

    /// What the contract test compares with the PTX.
    pub const fn info(&self) -> KernelInfo {
        KernelInfo {
            module: self.module,
            name: self.name,
            threads: self.threads,
            types: self.types,
            fields: P::FIELDS,
            params_bytes: size_of::<P>(),
        }
    }
}

/// A kernel family without the type of its parameters.
#[derive(Clone, Copy, Debug)]
pub struct KernelInfo {
    pub module: &'static Module,
    pub name: &'static str,
    pub threads: u32,
    pub types: &'static [DType],
    pub fields: &'static [Field],
    pub params_bytes: usize,
}

impl KernelInfo {
    /// The entry for `dtype`, if there is one.
    pub fn entry(&self, dtype: DType) -> Option<String> {
        if self.types.is_empty() {
            return Some(self.to_string());
        }
        self.types.contains(&dtype).then(|| format!("{self}_{dtype}"))
    }

    /// All its entries.
    pub fn entries(&self) -> Vec<String> {
        match self.types {
            [] => self.entry(DType::F32).into_iter().collect(),
            types => types.iter().filter_map(|&dtype| self.entry(dtype)).collect(),
        }
    }
}

/// What the names of its entries begin with.
impl std::fmt::Display for KernelInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}_{}", self.module.name, self.name)
    }
}

/// The kernels of several lists, `N` in all, as one.
pub const fn concat<const N: usize>(lists: &[&[KernelInfo]]) -> [KernelInfo; N] {
    let mut all = [lists[0][0]; N];
    let (mut at, mut list) = (0, 0);
    while list < lists.len() {
        let mut i = 0;
        while i < lists[list].len() {
            all[at] = lists[list][i];
            (at, i) = (at + 1, i + 1);
        }
        list += 1;
    }
    assert!(at == N, "as many kernels as the lists hold");
    all
}

/// `each` blocks for every one of `count`; a launch rejects more than a grid takes.
pub fn blocks_for_each(count: usize, each: u32) -> u32 {
    count.checked_mul(each as usize).and_then(|blocks| u32::try_from(blocks).ok()).unwrap_or(u32::MAX)
}

/// Blocks a warp of columns wide that cover `cols`: 16 B per lane where rows are aligned, else one element.
pub fn column_blocks(cols: usize, aligned: bool, element_bytes: usize) -> u32 {
    blocks(cols, 32 * if aligned { 16 / element_bytes } else { 1 })
}

/// Blocks of `per_block` that cover `count`.
pub fn blocks(count: usize, per_block: usize) -> u32 {
    u32::try_from(count.div_ceil(per_block)).unwrap_or(u32::MAX)
}
