//! Launching the kernels of tests/kernels with little ceremony, and their texts with something taken out.

#[allow(dead_code, reason = "not every test takes texts apart")]
pub mod mutate;

use ptx_emulator::{Counters, Fault, Gpu, Module, Options};

/// One value of a kernel's parameter list.
pub struct Arg(Vec<u8>);

macro_rules! args {
    ($($t:ty),*) => {$(
        impl From<$t> for Arg {
            fn from(value: $t) -> Self { Self(value.to_le_bytes().to_vec()) }
        }
    )*};
}
args!(u64, i32, u32, f32);

impl From<[u8; 128]> for Arg {
    fn from(bytes: [u8; 128]) -> Self {
        Self(bytes.to_vec())
    }
}

/// A GPU with one module.
pub struct Host {
    pub gpu: Gpu,
    pub module: Module,
}

impl Host {
    pub fn new(text: &str, seed: u64) -> Self {
        let module = Module::load(text).unwrap_or_else(|e| panic!("{e}"));
        Self { gpu: Gpu::new(Options { seed, max_warp_instructions: 3_000_000, ..Options::default() }), module }
    }

    pub fn upload<T: Copy>(&mut self, values: &[T]) -> u64 {
        // SAFETY: T is a plain number in every call of these tests.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        let address = self.gpu.alloc_named(bytes.len() as u64, "input").unwrap();
        self.gpu.write(address, bytes).unwrap();
        address
    }

    /// Memory nobody has written.
    pub fn room<T>(&mut self, count: usize) -> u64 {
        self.gpu.alloc_named((count * size_of::<T>()) as u64, "output").unwrap()
    }

    pub fn download<T: Copy + Default>(&mut self, address: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        // SAFETY: as in `upload`; every pattern of bits is a value of these types.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), size_of_val(&values[..])) };
        self.gpu.read(address, bytes).unwrap();
        values
    }

    pub fn launch(
        &mut self,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        args: &[Arg],
    ) -> Result<Counters, Fault> {
        let declared = &self.module.entry(entry).unwrap_or_else(|| panic!("no entry {entry}")).params;
        assert_eq!(declared.len(), args.len(), "{entry}");
        let mut params = Vec::new();
        for (param, arg) in declared.iter().zip(args) {
            assert_eq!(param.bytes as usize, arg.0.len(), "{entry} {}", param.name);
            params.resize(param.offset as usize, 0);
            params.extend(&arg.0);
        }
        let module = self.module.clone();
        self.gpu.launch(&module, entry, grid, block, shared, &params)
    }
}

/// Numbers that look random and are the same every time.
pub fn numbers(count: usize, below: u32) -> Vec<u32> {
    let mut state = 12345u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    (0..count).map(|_| next()).collect()
}

/// Small integers as floats, so that sums are exact in any order.
pub fn floats(count: usize) -> Vec<f32> {
    numbers(count, 17).into_iter().map(|v| v as f32 - 8.0).collect()
}

/// [`launch`](Host::launch)'s arguments without the noise.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => { &[$($crate::harness::Arg::from($arg)),*] };
}
