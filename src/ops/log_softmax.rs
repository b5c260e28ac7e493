//! `y = x − log Σ eˣ` over the last axis: logarithms of probabilities that are too small to be stored themselves.

use super::softmax::rows::{RowKernels, float_rows, map_gradients, map_rows};
use crate::{
    cpu::vector::sum1,
    device::{driver::DevicePtr, host::Real, kernel::concat, modules},
    error::Result,
    float_dispatch, inlined,
    math::exp,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{Workload, only},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
};

impl Tensor {
    /// The logarithm of the softmax over the last axis.
    pub fn log_softmax(&self) -> Result<Tensor> {
        apply1(LogSoftmax, &[self])
    }
}

struct LogSoftmax;

impl Op for LogSoftmax {
    fn name(&self) -> &'static str {
        "log_softmax"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        float_rows(self.name(), x[0])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => map_rows::<T>(args, inlined!(|row| log_softmax_in_place(row))));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        FORWARD.launch(args, args.x[0].ptr, DevicePtr::NULL)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply1(LogSoftmaxGrad, &[v.upstream()?, v.y(0)])?)])
    }

    fn keep(&self) -> Keep {
        Keep::OUTPUTS
    }
}

#[inline(always)]
fn log_softmax_in_place<T: Real>(row: &mut [T]) {
    let mut top = T::neg_infinity();
    for &x in row.iter() {
        top = if x > top { x } else { top };
    }
    for x in row.iter_mut() {
        *x -= top;
    }
    let log_sum = sum1(row, inlined!(|x| exp(x))).ln();
    for x in row.iter_mut() {
        *x -= log_sum;
    }
}

/// `dx = dy − eʸ Σ dy`; inputs dy, y.
struct LogSoftmaxGrad;

impl Op for LogSoftmaxGrad {
    fn name(&self) -> &'static str {
        "log_softmax_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![x[1]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        float_dispatch!(args, T => {
            map_gradients::<T>(args, inlined!(|dx, dy, y| {
                let sum = sum1(dy, |dy| dy);
                for (dx, (&dy, &y)) in dx.iter_mut().zip(dy.iter().zip(y)) {
                    *dx = dy - exp(y) * sum;
                }
            }))
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        BACKWARD.launch(args, args.x[0].ptr, args.x[1].ptr)
    }

    /// Linear in dy.
    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (g, dy, y) = (v.upstream()?, v.x(0), v.x(1));
        let last = [y.shape().rank() - 1];
        let weighted = g.mul(&y.exp()?)?;
        let ddy = v.when(0, || g.sub(&weighted.sum(&last)?))?;
        let dydy = v.when(1, || weighted.mul(&dy.sum(&last)?)?.neg())?;
        Ok(vec![ddy, dydy])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

const FORWARD: RowKernels = RowKernels::new(&modules::LOG_SOFTMAX, "fwd", "fwd_block_per_row");
const BACKWARD: RowKernels = RowKernels::new(&modules::LOG_SOFTMAX, "bwd_x", "bwd_x_block_per_row");

pub const SPEC: OpSpec = OpSpec {
    name: "log_softmax",
    order: Order::Any,
    kernels: &concat::<4>(&[&FORWARD.infos(), &BACKWARD.infos()]),
    cases: || {
        let case = |name, input| Case::new(name, [input], |x| Ok(vec![x[0].log_softmax()?]));
        vec![
            case("rows", normal([5, 33])),
            case("held", normal([2, 3, 264])),
            case("wide", drawn([2, 1025], Draw::Uniform(76.0, 84.0))),
            case("block_per_row", normal([2, 2056])),
            case("block_per_odd_row", normal([1, 2057])),
        ]
    },
    workloads: || {
        let one = |cols: usize| {
            let run = |x: &[Tensor]| x[0].log_softmax();
            Workload::gpu(format!("log_softmax_{cols}"), [normal([16384, cols])], 8.0 * (16384 * cols) as f64, run)
        };
        vec![one(384), one(2048)]
    },
    reference: Some(|a| Ok(only("y", a.tensor("x")?.log_softmax()?))),
};
