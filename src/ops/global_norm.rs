//! The Euclidean norm of many tensors together: what gradient clipping compares with its limit.

use rayon::prelude::*;

use crate::{
    cpu::vector::{GRAIN, sum1},
    device::{
        driver::DevicePtr,
        host::{Element, Real},
        kernel::{FLOATS, Kernel, UNTYPED},
        modules,
        multi_tensor::{ChunkTable, MAX_TENSORS, THREADS, pointers},
    },
    dtype::DType,
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{Case, DeviceArgs, DeviceView, HostArgs, Op, OpSpec, Order, apply1, normal, registry::Workload},
    shape::Spec,
    tensor::Tensor,
    vectorised,
};

impl Tensor {
    /// `√ Σ x²` over every element of every tensor, shape `[1]`. Has no gradient.
    pub fn global_norm(tensors: &[&Tensor]) -> Result<Tensor> {
        apply1(GlobalNorm, tensors)
    }
}

struct GlobalNorm;

impl Op for GlobalNorm {
    fn name(&self) -> &'static str {
        "global_norm"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        match x.iter().find(|spec| !spec.dtype.is_float() || spec.dtype != x[0].dtype) {
            Some(other) => Err(Error::DType { op: "global_norm", wanted: "one float type", got: other.dtype }),
            None => Ok(vec![Spec::new([1], if x[0].dtype == DType::F64 { DType::F64 } else { DType::F32 })]),
        }
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            let total: f64 = (0..args.inputs()).map(|i| squares(args.x::<T>(i))).sum();
            args.y::<T>(0)[0] = T::c(total.sqrt());
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let table = |x: &[DeviceView]| ChunkTable::new(x.iter().map(DeviceView::elems));
        let tables: Vec<ChunkTable> = args.x.chunks(MAX_TENSORS).map(table).collect();
        let total: usize = tables.iter().map(|table| table.blocks as usize).sum();
        let parts = args.scratch((total * 4).max(4))?;
        let mut first = 0;
        for (x, table) in args.x.chunks(MAX_TENSORS).zip(&tables) {
            let params = SquaresParams {
                x: pointers(x.iter().map(|x| x.ptr)),
                count: table.count,
                first_block: table.first_block,
                parts: parts.ptr().offset_bytes(first * 4),
                tensors: table.tensors,
                unused: 0,
            };
            args.launch(&SQUARES, x[0].dtype(), table.blocks, 0, &params)?;
            first += table.blocks as usize;
        }
        let params = RootParams { parts: parts.ptr(), norm: args.y[0].ptr, count: total as u64 };
        args.launch(&ROOT, DType::F32, 1, 0, &params)
    }
}

kernel_params! {
    struct SquaresParams {
        x: [DevicePtr; MAX_TENSORS],
        count: [u64; MAX_TENSORS],
        first_block: [u32; MAX_TENSORS],
        parts: DevicePtr,
        tensors: u32,
        unused: u32,
    }

    struct RootParams { parts: DevicePtr, norm: DevicePtr, count: u64 }
}

// SAFETY: only this file fills `SquaresParams`, from the tensors and scratch memory of the launch and from their sizes.
const SQUARES: Kernel<SquaresParams> = unsafe { Kernel::new(&modules::GLOBAL_NORM, "squares", THREADS, FLOATS) };
// SAFETY: as above, `RootParams`.
const ROOT: Kernel<RootParams> = unsafe { Kernel::new(&modules::GLOBAL_NORM, "root", THREADS, UNTYPED) };

fn squares<T: Real>(x: &[T]) -> f64 {
    let partials: Vec<T> = x.par_chunks(GRAIN).map(|x| vectorised!(sum1(x, |x| x * x))).collect();
    partials.into_iter().map(Element::to_f64).sum()
}

pub const SPEC: OpSpec = OpSpec {
    name: "global_norm",
    order: Order::None,
    kernels: &[SQUARES.info(), ROOT.info()],
    cases: || {
        vec![
            Case::new("three", [normal([5, 7]), normal([300]), normal([1])], |x| {
                Ok(vec![Tensor::global_norm(&x.iter().collect::<Vec<_>>())?])
            })
            .wrt([]),
            Case::new("past_a_block", [normal([2, 4097]), normal([3])], |x| {
                Ok(vec![Tensor::global_norm(&x.iter().collect::<Vec<_>>())?])
            })
            .wrt([]),
        ]
    },
    workloads: || {
        let inputs: Vec<_> = (0..64).map(|_| normal([1 << 19])).collect();
        let run = |x: &[Tensor]| Tensor::global_norm(&x.iter().collect::<Vec<_>>());
        vec![Workload::gpu("global_norm", inputs, 2.0 * f64::from(64 << 19), run)]
    },
    ..OpSpec::BARE
};
