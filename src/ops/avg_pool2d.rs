//! The mean over a sliding window; padding counts as zeros in it.

use crate::{
    cpu::stencil::{Reads, Uniform, dense},
    device::{
        driver::DevicePtr,
        host::Real,
        index::count31,
        kernel::{FLOATS, Kernel},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal,
        registry::{IMAGE, Workload, only},
    },
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

/// A square window moved over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2d {
    pub kernel: usize,
    pub stride: usize,
    /// On each side; at most half the kernel.
    pub padding: usize,
}

impl Pool2d {
    /// Extents of the images and of the pooled ones.
    pub(crate) fn extents(&self, op: &'static str, x: Shape) -> Result<([usize; 4], [usize; 2])> {
        let wrong = || Error::shape(op, format!("{x} with {self:?}"));
        let [n, h, w, c] = x.nhwc().ok_or_else(wrong)?;
        let out =
            |extent: usize| Some((extent + 2 * self.padding).checked_sub(self.kernel)?.checked_div(self.stride)? + 1);
        match (out(h), out(w)) {
            (Some(oh), Some(ow)) if self.kernel > 0 && 2 * self.padding <= self.kernel => Ok(([n, h, w, c], [oh, ow])),
            _ => Err(wrong()),
        }
    }

    /// What `positions` windows see of an axis of `extent`.
    pub(crate) fn reads(&self, positions: usize, extent: usize) -> Reads {
        Reads::windows(positions, self.kernel, self.stride, self.padding, extent)
    }
}

impl Tensor {
    /// `[n, h, w, c] -> [n, h', w', c]`.
    pub fn avg_pool2d(&self, pool: Pool2d) -> Result<Tensor> {
        apply1(AvgPool { pool, adjoint: None }, &[self])
    }
}

struct AvgPool {
    pool: Pool2d,
    /// Spreads instead of averaging, back to an image of this size.
    adjoint: Option<[usize; 2]>,
}

impl AvgPool {
    /// The large images and the pooled extents.
    fn extents(&self, x: Shape) -> Result<([usize; 4], [usize; 2])> {
        let Some([h, w]) = self.adjoint else { return self.pool.extents(self.name(), x) };
        let wrong = || Error::shape(self.name(), format!("{x} does not arise from {h}x{w} by {:?}", self.pool));
        let [n, _, _, c] = x.nhwc().ok_or_else(wrong)?;
        let (large, small) = self.pool.extents(self.name(), Shape::from([n, h, w, c]))?;
        if x[1..3] == small { Ok((large, small)) } else { Err(wrong()) }
    }
}

impl Op for AvgPool {
    fn name(&self) -> &'static str {
        if self.adjoint.is_some() { "avg_pool2d_gradient" } else { "avg_pool2d" }
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let Spec { shape, dtype } = x[0];
        if !dtype.is_float() {
            return Err(Error::DType { op: self.name(), wanted: "a float type", got: dtype });
        }
        let ([n, h, w, c], [oh, ow]) = self.extents(shape)?;
        Ok(vec![Spec::new(if self.adjoint.is_some() { [n, h, w, c] } else { [n, oh, ow, c] }, dtype)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let ([_, h, w, c], [oh, ow]) = self.extents(args.x_shape(0))?;
        let (rows, cols, kernel) = (self.pool.reads(oh, h), self.pool.reads(ow, w), self.pool.kernel);
        float_dispatch!(args, T => {
            let taps = vec![T::c(1.0 / (kernel * kernel) as f64); kernel * kernel];
            let (taps, x, y) = ((&Uniform(&taps), kernel), args.x::<T>(0), args.y::<T>(0));
            if self.adjoint.is_some() {
                dense(x, [oh, ow, c], (&rows.transposed(h), &cols.transposed(w)), taps, y);
            } else {
                dense(x, [h, w, c], (&rows, &cols), taps, y);
            }
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, y) = (args.x[0], args.y[0]);
        let ([_, h, w, c], [oh, ow]) = self.extents(x.shape())?;
        let (threads, aligned) = vector_threads(self.name(), y.elems(), c, y.dtype().bytes())?;
        let [h, w, c, oh, ow] = [h, w, c, oh, ow].map(|n| n as u32);
        let [kernel, stride, padding] = [self.pool.kernel, self.pool.stride, self.pool.padding].map(|n| n as u32);
        let (x, y, dtype) = (x.ptr, y.ptr, y.dtype());
        let params = AvgPoolParams { x, y, threads, h, w, c, oh, ow, kernel, stride, padding, aligned };
        let kernel = if self.adjoint.is_some() { &BACKWARD } else { &FORWARD };
        args.launch(kernel, dtype, threads.div_ceil(THREADS), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let [h, w] = [1, 2].map(|axis| v.x_spec(0).shape[axis]);
        let adjoint = if self.adjoint.is_some() { None } else { Some([h, w]) };
        Ok(vec![Some(apply1(AvgPool { adjoint, ..*self }, &[v.upstream()?])?)])
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

kernel_params! {
    struct AvgPoolParams {
        x: DevicePtr,
        y: DevicePtr,
        threads: u32,
        h: u32,
        w: u32,
        c: u32,
        oh: u32,
        ow: u32,
        kernel: u32,
        stride: u32,
        padding: u32,
        aligned: u32,
    }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `AvgPoolParams`, from the tensors and scratch memory of the launch and from their sizes.
const FORWARD: Kernel<AvgPoolParams> = unsafe { Kernel::new(&modules::AVG_POOL2D, "fwd", THREADS, FLOATS) };
// SAFETY: as above, `AvgPoolParams`.
const BACKWARD: Kernel<AvgPoolParams> = unsafe { Kernel::new(&modules::AVG_POOL2D, "bwd_x", THREADS, FLOATS) };

/// Threads for images of `elems` elements, 16 bytes of channels each where the channels are a multiple of that (then the second
/// number is 1), else one element. Fewer than 2³¹: kernels count in 32 bits.
pub(super) fn vector_threads(op: &'static str, elems: usize, c: usize, element_bytes: usize) -> Result<(u32, u32)> {
    let aligned = (c * element_bytes).is_multiple_of(16);
    let threads = elems / if aligned { 16 / element_bytes } else { 1 };
    Ok((count31(op, threads)?, aligned.into()))
}

pub const SPEC: OpSpec = OpSpec {
    name: "avg_pool2d",
    order: Order::Any,
    kernels: &[FORWARD.info(), BACKWARD.info()],
    cases: || {
        let case = |name, x: [usize; 4], kernel, stride, padding| {
            let pool = Pool2d { kernel, stride, padding };
            Case::new(name, [normal(x)], move |x| Ok(vec![x[0].square()?.avg_pool2d(pool)?]))
        };
        vec![
            case("halves", [2, 5, 6, 3], 2, 2, 0),
            case("overlapping", [1, 7, 5, 9], 3, 2, 1),
            case("aligned", [1, 5, 4, 16], 3, 2, 1),
            case("same", [1, 4, 5, 33], 3, 1, 1),
            case("one_pixel", [2, 1, 1, 4], 2, 2, 1),
        ]
    },
    workloads: || {
        let halves = Pool2d { kernel: 2, stride: 2, padding: 0 };
        let flops = IMAGE.iter().product::<usize>() as f64;
        vec![
            Workload::gpu("avg_pool2d", [normal(IMAGE)], flops, move |x| x[0].avg_pool2d(halves)),
            Workload::cpu("avg_pool2d_64px_c64", [normal([4, 64, 64, 64])], move |x| x[0].avg_pool2d(halves)),
        ]
    },
    reference: Some(|a| {
        let pool = Pool2d { kernel: a.int("kernel")?, stride: a.int("stride")?, padding: a.int("padding")? };
        Ok(only("y", a.tensor("x")?.avg_pool2d(pool)?))
    }),
};
