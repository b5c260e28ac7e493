//! Host memory: typed buffers, the element and real-number traits that view them, and the pool that recycles them.

use std::{cell::RefCell, collections::HashMap};

use bytemuck::Pod;
use half::{bf16, f16};

use crate::{dtype::DType, math::Elementary};

/// A typed block of host memory.
#[derive(Clone, Debug)]
pub enum HostBuffer {
    F64(Vec<f64>),
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    U8(Vec<u8>),
    I32(Vec<i32>),
}

macro_rules! each_buffer {
    ($buffer:expr, $v:ident => $body:expr) => {
        match $buffer {
            HostBuffer::F64($v) => $body,
            HostBuffer::F32($v) => $body,
            HostBuffer::Bf16($v) => $body,
            HostBuffer::F16($v) => $body,
            HostBuffer::U8($v) => $body,
            HostBuffer::I32($v) => $body,
        }
    };
}

impl HostBuffer {
    pub fn zeros(dtype: DType, elems: usize) -> HostBuffer {
        match dtype {
            DType::F64 => HostBuffer::F64(vec![0.0; elems]),
            DType::F32 => HostBuffer::F32(vec![0.0; elems]),
            DType::Bf16 => HostBuffer::Bf16(vec![bf16::ZERO; elems]),
            DType::F16 => HostBuffer::F16(vec![f16::ZERO; elems]),
            DType::U8 => HostBuffer::U8(vec![0; elems]),
            DType::I32 => HostBuffer::I32(vec![0; elems]),
        }
    }

    pub fn dtype(&self) -> DType {
        match self {
            HostBuffer::F64(_) => DType::F64,
            HostBuffer::F32(_) => DType::F32,
            HostBuffer::Bf16(_) => DType::Bf16,
            HostBuffer::F16(_) => DType::F16,
            HostBuffer::U8(_) => DType::U8,
            HostBuffer::I32(_) => DType::I32,
        }
    }

    pub fn len(&self) -> usize {
        each_buffer!(self, v => v.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn bytes(&self) -> &[u8] {
        each_buffer!(self, v => bytemuck::cast_slice(v))
    }

    /// A copy at another element type, rounded to nearest; integers saturate.
    pub fn cast(&self, to: DType) -> HostBuffer {
        let mut out = HostBuffer::zeros(to, self.len());
        self.cast_into(&mut out);
        out
    }

    /// Fills `out` (of the same length) with these elements at its own type.
    pub fn cast_into(&self, out: &mut HostBuffer) {
        match (self, out) {
            // Widening and rounding of 16-bit storage is on every path of a 16-bit op: no detour over f64.
            (HostBuffer::Bf16(x), HostBuffer::F32(y)) => y.iter_mut().zip(x).for_each(|(y, x)| *y = x.to_f32()),
            (HostBuffer::F16(x), HostBuffer::F32(y)) => y.iter_mut().zip(x).for_each(|(y, x)| *y = x.to_f32()),
            (HostBuffer::F32(x), HostBuffer::Bf16(y)) => {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = bf16::from_f32(*x));
            }
            (HostBuffer::F32(x), HostBuffer::F16(y)) => y.iter_mut().zip(x).for_each(|(y, x)| *y = f16::from_f32(*x)),
            (x, y) => each_buffer!(x, x => each_buffer!(y, y => {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = Element::from_f64(Element::to_f64(*x)));
            })),
        }
    }

    /// Quiet NaNs, or a conspicuous integer: what an op that forgets an element leaves behind.
    fn poison(&mut self) {
        match self {
            HostBuffer::F64(v) => v.fill(f64::NAN),
            HostBuffer::F32(v) => v.fill(f32::NAN),
            HostBuffer::Bf16(v) => v.fill(bf16::NAN),
            HostBuffer::F16(v) => v.fill(f16::NAN),
            HostBuffer::U8(v) => v.fill(0xA5),
            HostBuffer::I32(v) => v.fill(i32::MIN / 3),
        }
    }

    fn resize(&mut self, elems: usize) {
        each_buffer!(self, v => v.resize(elems, Default::default()));
    }

    fn capacity_bytes(&self) -> usize {
        each_buffer!(self, v => std::mem::size_of_val(v.as_slice()) / v.len().max(1) * v.capacity())
    }
}

/// A Rust type that tensors hold.
pub trait Element: Pod + Default + Send + Sync + std::fmt::Debug + PartialOrd {
    const DTYPE: DType;
    fn of(buffer: &HostBuffer) -> Option<&[Self]>;
    fn of_mut(buffer: &mut HostBuffer) -> Option<&mut [Self]>;
    fn wrap(values: Vec<Self>) -> HostBuffer;
    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;
}

macro_rules! element {
    ($t:ty, $variant:ident, $from:expr, $to:expr) => {
        impl Element for $t {
            const DTYPE: DType = DType::$variant;
            fn of(buffer: &HostBuffer) -> Option<&[Self]> {
                if let HostBuffer::$variant(v) = buffer { Some(v) } else { None }
            }
            fn of_mut(buffer: &mut HostBuffer) -> Option<&mut [Self]> {
                if let HostBuffer::$variant(v) = buffer { Some(v) } else { None }
            }
            fn wrap(values: Vec<Self>) -> HostBuffer {
                HostBuffer::$variant(values)
            }
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                $from(value)
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                $to(self)
            }
        }
    };
}
element!(f64, F64, |v| v, |v| v);
element!(f32, F32, |v: f64| v as f32, f64::from);
element!(bf16, Bf16, bf16::from_f64, bf16::to_f64);
element!(f16, F16, f16::from_f64, f16::to_f64);
element!(u8, U8, |v: f64| v.round_ties_even() as u8, f64::from);
element!(i32, I32, |v: f64| v.round_ties_even() as i32, f64::from);

/// The two types the CPU computes in: f64 is the reference, f32 the default. 16-bit tensors are widened to f32 on the way in
/// and rounded once on the way out.
pub trait Real: Element + Elementary + num_traits::NumAssign + std::iter::Sum {
    /// A constant at this precision.
    #[inline(always)]
    fn c(value: f64) -> Self {
        Self::constant(value)
    }
}

impl Real for f64 {}
impl Real for f32 {}

/// Blocks smaller than this go straight to the allocator, which is good at them.
const POOLED_BYTES: usize = 16 << 10;
/// What the pool holds at most; beyond it, freed blocks go back to the system.
const HELD_BYTES: usize = 2 << 30;

/// Recycles large host buffers: fresh pages cost more than most ops that fill them.
#[derive(Default)]
pub struct HostPool {
    free: RefCell<HashMap<(DType, usize), Vec<HostBuffer>>>,
    held_bytes: std::cell::Cell<usize>,
    poison: bool,
}

impl HostPool {
    /// With `poison`, every allocation is filled with NaNs first, so that an op that leaves an element unwritten shows.
    pub fn new(poison: bool) -> HostPool {
        HostPool { poison, ..HostPool::default() }
    }

    /// `elems` elements of unspecified value: an op writes every element of its outputs.
    pub fn alloc(&self, dtype: DType, elems: usize) -> HostBuffer {
        let class = size_class(elems);
        let recycled = self.free.borrow_mut().get_mut(&(dtype, class)).and_then(Vec::pop);
        let mut buffer = match recycled {
            Some(mut buffer) => {
                self.held_bytes.set(self.held_bytes.get() - buffer.capacity_bytes());
                buffer.resize(elems);
                buffer
            }
            None if elems * dtype.bytes() < POOLED_BYTES => HostBuffer::zeros(dtype, elems),
            None => {
                let mut buffer = HostBuffer::zeros(dtype, class);
                buffer.resize(elems);
                buffer
            }
        };
        if self.poison {
            buffer.poison();
        }
        buffer
    }

    pub fn give_back(&self, buffer: HostBuffer) {
        let bytes = buffer.capacity_bytes();
        if bytes >= POOLED_BYTES && self.held_bytes.get() + bytes <= HELD_BYTES {
            let key = (buffer.dtype(), size_class(buffer.len()));
            self.held_bytes.set(self.held_bytes.get() + bytes);
            self.free.borrow_mut().entry(key).or_default().push(buffer);
        }
    }
}

/// Rounds up to one of eight steps per power of two: at most 12.5 % is wasted.
fn size_class(elems: usize) -> usize {
    let step = (elems.next_power_of_two() / 16).max(1);
    elems.div_ceil(step) * step
}
