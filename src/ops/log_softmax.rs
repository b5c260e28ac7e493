//! `y = x − log Σ eˣ` over the last axis: logarithms of probabilities that are too small to be stored themselves.

use crate::{
    cpu::vector::{par_rows, rows_per_task, sum1},
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch, inlined, kernel_params,
    math::exp,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{Workload, only},
    },
    shape::Spec,
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
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
        if !x[0].dtype.is_float() || x[0].shape.rank() == 0 {
            return Err(Error::shape("log_softmax", format!("float rows wanted, got {}:{}", x[0].shape, x[0].dtype)));
        }
        Ok(vec![x[0]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let cols = args.x_shape(0).last();
        float_dispatch!(args, T => {
            let x = args.x::<T>(0);
            par_rows(args.y::<T>(0), cols, |task, y| {
                y.copy_from_slice(&x[task * rows_per_task(cols) * cols..][..y.len()]);
                vectorised!({
                    for row in y.chunks_exact_mut(cols) {
                        log_softmax_in_place(row);
                    }
                });
            });
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        launch(args, args.x[0].ptr, DevicePtr::NULL, &FORWARD)
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
        let cols = args.x_shape(1).last();
        float_dispatch!(args, T => {
            let (dy, y) = (args.x::<T>(0), args.x::<T>(1));
            par_rows(args.y::<T>(0), cols, |task, dx| vectorised!({
                for (row, dx) in dx.chunks_exact_mut(cols).enumerate() {
                    let at = (task * rows_per_task(cols) + row) * cols;
                    let (dy, y) = (&dy[at..at + cols], &y[at..at + cols]);
                    let sum = sum1(dy, |dy| dy);
                    for (dx, (&dy, &y)) in dx.iter_mut().zip(dy.iter().zip(y)) {
                        *dx = dy - exp(y) * sum;
                    }
                }
            }));
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        launch(args, args.x[0].ptr, args.x[1].ptr, &BACKWARD)
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

kernel_params! {
    struct LogSoftmaxParams {
        x: DevicePtr,
        y: DevicePtr,
        out: DevicePtr,
        rows: u64,
        cols: u64,
        aligned: u32,
        unused: u32,
    }
}

const THREADS: u32 = 256;
/// Rows up to this length get a warp, longer ones a block.
const NARROW: usize = 2048;

const fn kernel(name: &'static str) -> Kernel<LogSoftmaxParams> {
    // SAFETY: only this file fills `LogSoftmaxParams`, from the tensors of the launch and from their sizes.
    unsafe { Kernel::new(&modules::LOG_SOFTMAX, name, THREADS, FLOATS) }
}

/// For narrow and for wide rows.
const FORWARD: [Kernel<LogSoftmaxParams>; 2] = [kernel("fwd"), kernel("fwd_block_per_row")];
const BACKWARD: [Kernel<LogSoftmaxParams>; 2] = [kernel("bwd_x"), kernel("bwd_x_block_per_row")];

fn launch(args: &DeviceArgs, x: DevicePtr, y: DevicePtr, kernels: &[Kernel<LogSoftmaxParams>; 2]) -> Result<()> {
    let out = args.y[0];
    let (rows, cols) = (out.shape().rows(), out.shape().last());
    if out.elems() == 0 {
        return Ok(());
    }
    let aligned = (cols * out.dtype().bytes()).is_multiple_of(16).into();
    let params = LogSoftmaxParams { x, y, out: out.ptr, rows: rows as u64, cols: cols as u64, aligned, unused: 0 };
    match cols <= NARROW {
        true => args.launch(&kernels[0], out.dtype(), blocks(rows, THREADS as usize / 32), 0, &params),
        false => args.launch(&kernels[1], out.dtype(), blocks(rows, 1), 0, &params),
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "log_softmax",
    order: Order::Any,
    kernels: &[FORWARD[0].info(), FORWARD[1].info(), BACKWARD[0].info(), BACKWARD[1].info()],
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
