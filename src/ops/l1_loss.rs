//! The mean absolute difference of two tensors, and what it shares with the mean squared one: a mean of a function of
//! differences, its gradient as an op of its own, and that one's gradient made of ordinary ops, so that every order exists.

use rayon::prelude::*;

use crate::{
    cpu::vector::{GRAIN, map2, sum2},
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, KernelInfo, blocks},
        module::Module,
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal,
        registry::{IMAGE, Workload, only},
        same_float,
    },
    ops::sum::pairwise,
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
};

impl Tensor {
    /// `mean |x − target|`, shape `[1]`; at equality the gradient is 0.
    pub fn l1_loss(&self, target: &Tensor) -> Result<Tensor> {
        apply1(MeanLoss { of: Distance::Absolute }, &[self, target])
    }
}

/// What is averaged.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Distance {
    Absolute,
    Squared,
}

/// Inputs x, target.
pub(super) struct MeanLoss {
    pub(super) of: Distance,
}

impl Op for MeanLoss {
    fn name(&self) -> &'static str {
        match self.of {
            Distance::Absolute => "l1_loss",
            Distance::Squared => "mse_loss",
        }
    }

    /// A loss never broadcasts: a mean over a stretched target is a mistake.
    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float(self.name(), x)?;
        if x[0].shape != x[1].shape {
            let message = format!("{} against a target {}", x[0].shape, x[1].shape);
            return Err(Error::shape(self.name(), message));
        }
        Ok(vec![Spec::new([1], dtype)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            let (x, target) = (args.x::<T>(0), args.x::<T>(1));
            let part = |(x, target): (&[T], &[T])| {
                vectorised!(match self.of {
                    Distance::Absolute => sum2(x, target, |x, t| (x - t).abs()),
                    Distance::Squared => sum2(x, target, |x, t| (x - t) * (x - t)),
                })
            };
            let parts: Vec<T> = x.par_chunks(GRAIN).zip(target.par_chunks(GRAIN)).map(part).collect();
            args.y::<T>(0)[0] = pairwise(&parts) * T::c(share(x.len()));
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, kernels) = (args.x[0], self.of.kernels());
        let params = params(args, [x.ptr, args.x[1].ptr]);
        let parts = args.scratch(params.blocks as usize * 4)?;
        let params = LossParams { parts: parts.ptr(), y: args.y[0].ptr, ..params };
        args.launch(&kernels[0], x.dtype(), params.blocks, 0, &params)?;
        match params.blocks {
            1 => Ok(()),
            _ => args.launch(&kernels[1], x.dtype(), 1, 0, &params),
        }
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        if !v.need(0) && !v.need(1) {
            return Ok(vec![None, None]);
        }
        let dx = apply1(MeanLossGrad { of: self.of }, &[v.upstream()?, v.x(0), v.x(1)])?;
        let dtarget = v.when(1, || dx.neg())?;
        Ok(vec![Some(dx), dtarget])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

/// One element's part of a mean.
fn share(count: usize) -> f64 {
    1.0 / count.max(1) as f64
}

/// `dx = derivative(x − target) · dy / count`; inputs dy, x, target.
struct MeanLossGrad {
    of: Distance,
}

impl Op for MeanLossGrad {
    fn name(&self) -> &'static str {
        match self.of {
            Distance::Absolute => "l1_loss_grad",
            Distance::Squared => "mse_loss_grad",
        }
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![x[1]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            let (x, target) = (args.x::<T>(1), args.x::<T>(2));
            let upstream = args.x::<T>(0)[0] * T::c(share(x.len()));
            let dx = args.y::<T>(0);
            match self.of {
                Distance::Absolute => map2(x, target, dx, move |x, t| {
                    let difference = x - t;
                    if difference == T::c(0.0) { difference } else { difference.signum() * upstream }
                }),
                Distance::Squared => map2(x, target, dx, move |x, t| T::c(2.0) * (x - t) * upstream),
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let x = args.x[1];
        let params = params(args, [x.ptr, args.x[2].ptr]);
        let params = LossParams { dy: args.x[0].ptr, dx: args.y[0].ptr, ..params };
        let per_block = THREADS as usize * x.dtype().vector_elems();
        args.launch(&self.of.kernels()[2], x.dtype(), blocks(x.elems(), per_block), 0, &params)
    }

    /// Linear in dy; its derivative by x is 0 for absolute and 2 for squared differences.
    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (g, dy, x, target) = (v.upstream()?, v.x(0), v.x(1), v.x(2));
        let share = share(x.shape().elems());
        let difference = || x.sub(target);
        let slope = || match self.of {
            Distance::Absolute => difference()?.sign(),
            Distance::Squared => difference()?.scale(2.0),
        };
        let ddy = v.when(0, || g.mul(&slope()?)?.sum_all()?.scale(share))?;
        if self.of == Distance::Absolute {
            return Ok(vec![ddy, None, None]);
        }
        let dx = g.mul(dy)?.scale(2.0 * share)?;
        let dtarget = v.when(2, || dx.neg())?;
        Ok(vec![ddy, Some(dx), dtarget])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

kernel_params! {
    pub(super) struct LossParams {
        x: DevicePtr,
        target: DevicePtr,
        parts: DevicePtr,
        y: DevicePtr,
        dy: DevicePtr,
        dx: DevicePtr,
        count: u64,
        scale: f32,
        blocks: u32,
    }
}

const THREADS: u32 = 256;
/// Elements of a block's sum.
const CHUNK: usize = 4096;

/// Parts, their sum, the gradient.
const fn kernels(module: &'static Module) -> [Kernel<LossParams>; 3] {
    // SAFETY: only this file fills `LossParams`, from the tensors and scratch memory of the launch and from their sizes.
    unsafe {
        [
            Kernel::new(module, "fwd", THREADS, FLOATS),
            Kernel::new(module, "sum", THREADS, FLOATS),
            Kernel::new(module, "bwd_x", THREADS, FLOATS),
        ]
    }
}

const ABSOLUTE: [Kernel<LossParams>; 3] = kernels(&modules::L1_LOSS);
const SQUARED: [Kernel<LossParams>; 3] = kernels(&modules::MSE_LOSS);

impl Distance {
    fn kernels(self) -> &'static [Kernel<LossParams>; 3] {
        match self {
            Distance::Absolute => &ABSOLUTE,
            Distance::Squared => &SQUARED,
        }
    }
}

pub(super) const SQUARED_KERNELS: &[KernelInfo] = &[SQUARED[0].info(), SQUARED[1].info(), SQUARED[2].info()];

/// Sizes of the tensor behind the first address.
fn params(args: &DeviceArgs, [x, target]: [DevicePtr; 2]) -> LossParams {
    let count = args.x[args.x.len() - 1].elems();
    let null = DevicePtr::NULL;
    LossParams {
        x,
        target,
        parts: null,
        y: null,
        dy: null,
        dx: null,
        count: count as u64,
        scale: share(count) as f32,
        // One even for nothing: its sum is 0.
        blocks: blocks(count, CHUNK).max(1),
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "l1_loss",
    order: Order::Any,
    kernels: &[ABSOLUTE[0].info(), ABSOLUTE[1].info(), ABSOLUTE[2].info()],
    cases: || {
        let case = |name, x: [usize; 2]| Case::new(name, [normal(x), normal(x)], |x| Ok(vec![x[0].l1_loss(&x[1])?]));
        vec![case("mean", [5, 17]), case("one", [1, 1]), case("past_a_block", [3, 1367])]
    },
    workloads: || {
        let flops = 3.0 * IMAGE.iter().product::<usize>() as f64;
        vec![Workload::gpu("l1_loss", [normal(IMAGE), normal(IMAGE)], flops, |x| x[0].l1_loss(&x[1]))]
    },
    reference: Some(|a| Ok(only("loss", a.tensor("x")?.l1_loss(a.tensor("target")?)?))),
};
