//! Kernels as values: which module and entry, how many threads a block has, and the one struct it takes.
//!
//! A kernel's parameters are one `#[repr(C)]` struct passed by value, declared twice: in `kernels/S.cu` and, with
//! [`kernel_params!`](crate::kernel_params), beside the op. The contract test holds the two against each other through the PTX.

use std::{
    collections::HashMap,
    marker::PhantomData,
    sync::{LazyLock, Mutex, PoisonError},
};

use bytemuck::Pod;

use crate::{
    dtype::DType,
    error::{Error, Result},
};

/// One field of a parameter struct.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    pub name: &'static str,
    pub offset_bytes: usize,
    pub size_bytes: usize,
}

/// A parameter struct whose layout is known.
pub trait Params: Pod {
    const FIELDS: &'static [Field];
}

/// Declares the parameter structs of kernels, field by field as in the `.cu` file. Padding must be spelled out.
#[macro_export]
macro_rules! kernel_params {
    ($($(#[$doc:meta])* $visibility:vis struct $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
            $visibility struct $name { $(pub $field: $type),* }

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
pub struct Kernel<P> {
    /// Its PTX, `kernels/<module>.cu`.
    pub module: &'static str,
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
    pub const fn new(module: &'static str, name: &'static str, threads: u32, types: &'static [DType]) -> Kernel<P> {
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
    pub module: &'static str,
    pub name: &'static str,
    pub threads: u32,
    pub types: &'static [DType],
    pub fields: &'static [Field],
    pub params_bytes: usize,
}

impl KernelInfo {
    /// The entry for `dtype`, if there is one.
    pub fn entry(&self, dtype: DType) -> Option<String> {
        let (module, name) = (self.module, self.name);
        if self.types.is_empty() {
            return Some(format!("{module}_{name}"));
        }
        self.types.contains(&dtype).then(|| format!("{module}_{name}_{dtype}"))
    }

    /// All its entries.
    pub fn entries(&self) -> Vec<String> {
        match self.types {
            [] => self.entry(DType::F32).into_iter().collect(),
            types => types.iter().filter_map(|&dtype| self.entry(dtype)).collect(),
        }
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

/// The PTX that `build.rs` embeds.
mod embedded {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// The PTX text of `kernels/<module>.cu`.
///
/// For people tuning kernels: where `ISG_PTX` names a folder, `<module>.ptx` is read from there instead, once.
pub fn ptx(module: &str) -> Option<&'static str> {
    replaced(module).or_else(|| {
        embedded::MODULES.binary_search_by_key(&module, |(name, _)| name).ok().map(|i| embedded::MODULES[i].1)
    })
}

/// An error where `ISG_PTX` is set and names no folder: a typing mistake must not run the embedded kernels in silence.
pub fn check_replacements() -> Result<()> {
    match std::env::var_os("ISG_PTX").filter(|folder| !folder.is_empty()) {
        Some(folder) if !std::path::Path::new(&folder).is_dir() => {
            Err(Error::input(folder, "is named by ISG_PTX and is no folder", "correct the variable or unset it"))
        }
        _ => Ok(()),
    }
}

fn replaced(module: &str) -> Option<&'static str> {
    static TEXTS: LazyLock<Mutex<HashMap<String, &'static str>>> = LazyLock::new(Mutex::default);
    let folder = std::env::var_os("ISG_PTX").filter(|folder| !folder.is_empty())?;
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = texts.get(module) {
        return Some(text);
    }
    let text = std::fs::read_to_string(std::path::Path::new(&folder).join(format!("{module}.ptx"))).ok()?;
    // Kept for the program's life, like the embedded ones; there are as many as there are kernel files.
    let text: &'static str = Box::leak(text.into_boxed_str());
    texts.insert(module.to_string(), text);
    Some(text)
}

/// The suffix of modules for compute capability 9.0 alone (`.target sm_90a`).
const SM90: &str = "_sm90";

/// Whether a GPU of this compute capability runs the module: all from 8.0 on, but for Hopper's own.
pub fn runs_on(module: &str, capability: (u32, u32)) -> bool {
    !module.ends_with(SM90) || capability == (9, 0)
}

/// As [`ptx`], for a GPU of this compute capability.
pub fn text_for(module: &str, capability: (u32, u32), device: &str) -> Result<&'static str> {
    check_replacements()?;
    if !runs_on(module, capability) {
        return Err(Error::Device(format!("{device}: kernels/{module}.cu is for compute capability 9.0 alone")));
    }
    ptx(module).ok_or_else(|| Error::Device(format!("{device}: this build holds no kernels/{module}.cu")))
}

/// Every embedded module: name and text, sorted by name.
pub fn modules() -> &'static [(&'static str, &'static str)] {
    embedded::MODULES
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
