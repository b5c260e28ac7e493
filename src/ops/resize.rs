//! Images at another size. Pixel centres are at half integers in both images (PyTorch's `align_corners=false`), whose
//! `interpolate` this follows for each kind of interpolation. Separable and linear, with its adjoint as gradient: every
//! order exists.

use crate::{
    cpu::stencil::{Reads, separable},
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, HostArgs, Op, OpSpec, Order, apply1, normal,
        registry::{IMAGE, Workload},
    },
    ops::avg_pool2d::vector_threads,
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
};

/// What a new pixel is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// One old pixel.
    Nearest,
    /// The two nearest old pixels along each axis, also when shrinking (which aliases).
    Bilinear,
    /// As bilinear when enlarging; when shrinking, a triangle wide enough to see every old pixel.
    Antialiased,
    /// The mean of all old pixels that the new one touches.
    Area,
}

impl Tensor {
    /// `[n, h, w, c] -> [n, h', w', c]`.
    pub fn resize(&self, to: [usize; 2], interpolation: Interpolation) -> Result<Tensor> {
        apply1(Resize { to, interpolation, adjoint: false }, &[self])
    }
}

struct Resize {
    /// The new size, or with `adjoint` the old one.
    to: [usize; 2],
    interpolation: Interpolation,
    adjoint: bool,
}

/// What each of `to` new positions reads of `from` old ones, and the weights its taps name.
fn axis(interpolation: Interpolation, from: usize, to: usize) -> (Reads, Vec<f64>) {
    let scale = from as f64 / to as f64;
    let window = |i: usize| -> (usize, Vec<f64>) {
        let centre = (i as f64 + 0.5) * scale;
        match interpolation {
            Interpolation::Nearest => ((i * from / to).min(from - 1), vec![1.0]),
            Interpolation::Bilinear => {
                let at = (centre - 0.5).clamp(0.0, (from - 1) as f64);
                let first = (at as usize).min(from.saturating_sub(2));
                let weight = at - first as f64;
                (first, if from == 1 { vec![1.0] } else { vec![1.0 - weight, weight] })
            }
            Interpolation::Antialiased => {
                let reach = scale.max(1.0);
                let first = (centre - reach + 0.5).max(0.0) as usize;
                let last = ((centre + reach + 0.5) as usize).min(from);
                let triangle = |old: usize| (1.0 - ((old as f64 + 0.5 - centre) / reach).abs()).max(0.0);
                let weights: Vec<f64> = (first..last).map(triangle).collect();
                let total: f64 = weights.iter().sum();
                (first, weights.iter().map(|weight| weight / total).collect())
            }
            Interpolation::Area => {
                let (first, last) = (i * from / to, ((i + 1) * from).div_ceil(to));
                (first, vec![1.0 / (last - first) as f64; last - first])
            }
        }
    };
    let windows: Vec<(usize, Vec<f64>)> = (0..to).map(window).collect();
    let longest = windows.iter().map(|(_, weights)| weights.len()).max().unwrap_or(0);
    // Taps are numbered over all positions: each names one weight.
    let mut weights = vec![0.0; to * longest];
    windows.iter().zip(weights.chunks_mut(longest.max(1))).for_each(|((_, w), out)| out[..w.len()].copy_from_slice(w));
    let reads = Reads::listed(windows.iter().enumerate().map(|(i, (first, weights))| {
        (0..weights.len()).filter(|&tap| weights[tap] != 0.0).map(|tap| (first + tap, i * longest + tap)).collect()
    }));
    (reads, weights)
}

impl Op for Resize {
    fn name(&self) -> &'static str {
        if self.adjoint { "resize_gradient" } else { "resize" }
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let Spec { shape, dtype } = x[0];
        match shape.nhwc() {
            Some([n, h, w, c]) if dtype.is_float() && ![h, w].contains(&0) && !self.to.contains(&0) => {
                Ok(vec![Spec::new([n, self.to[0], self.to[1], c], dtype)])
            }
            _ => Err(Error::shape(self.name(), format!("{shape} of {dtype} to {:?}", self.to))),
        }
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let Some([_, h, w, c]) = args.x_shape(0).nhwc() else { return Ok(()) };
        let [rows, cols] = [(h, self.to[0]), (w, self.to[1])].map(|(x, y)| {
            let (from, to) = if self.adjoint { (y, x) } else { (x, y) };
            let (reads, weights) = axis(self.interpolation, from, to);
            (if self.adjoint { reads.transposed(from) } else { reads }, weights)
        });
        float_dispatch!(args, T => {
            let [row_taps, col_taps] =
                [&rows.1, &cols.1].map(|weights| weights.iter().map(|&weight| T::c(weight)).collect::<Vec<T>>());
            separable(args.x(0), [h, w, c], (&rows.0, &row_taps), (&cols.0, &col_taps), args.y::<T>(0));
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, y) = (args.x[0], args.y[0]);
        let Some([_, h, w, c]) = x.shape().nhwc() else { return Ok(()) };
        let (threads, aligned) = vector_threads(self.name(), y.elems(), c, y.dtype().bytes())?;
        // `to` is the new size, or in the adjoint the old one: the kernels take both by what they are.
        let (old, new) = if self.adjoint { (self.to, [h, w]) } else { ([h, w], self.to) };
        let [[h, w], [to_h, to_w]] = [old, new].map(|size| size.map(|n| n as u32));
        // In the order of the enum, which is the kernel's.
        let (kind, c, dtype) = (self.interpolation as u32, c as u32, y.dtype());
        let params = ResizeParams { x: x.ptr, y: y.ptr, threads, h, w, to_h, to_w, c, kind, aligned };
        let kernel = if self.adjoint { &BACKWARD } else { &FORWARD };
        args.launch(kernel, dtype, threads.div_ceil(THREADS), 0, &params)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let shape: Shape = v.x_spec(0).shape;
        let back = Resize { to: [shape[1], shape[2]], adjoint: !self.adjoint, interpolation: self.interpolation };
        Ok(vec![Some(apply1(back, &[v.upstream()?])?)])
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

kernel_params! {
    struct ResizeParams {
        x: DevicePtr,
        y: DevicePtr,
        threads: u32,
        h: u32,
        w: u32,
        to_h: u32,
        to_w: u32,
        c: u32,
        kind: u32,
        aligned: u32,
    }
}

const THREADS: u32 = 256;
// SAFETY: only this file fills `ResizeParams`, from the tensors and scratch memory of the launch and from their sizes.
const FORWARD: Kernel<ResizeParams> = unsafe { Kernel::new(&modules::RESIZE, "fwd", THREADS, FLOATS) };
// SAFETY: as above, `ResizeParams`.
const BACKWARD: Kernel<ResizeParams> = unsafe { Kernel::new(&modules::RESIZE, "bwd_x", THREADS, FLOATS) };

pub const SPEC: OpSpec = OpSpec {
    name: "resize",
    order: Order::Any,
    kernels: &[FORWARD.info(), BACKWARD.info()],
    cases: || {
        let case = |name, x: [usize; 4], to, interpolation| {
            Case::new(name, [normal(x)], move |x| Ok(vec![x[0].square()?.resize(to, interpolation)?]))
        };
        vec![
            case("nearest", [2, 5, 4, 3], [7, 3], Interpolation::Nearest),
            case("bilinear_up", [1, 3, 4, 9], [7, 8], Interpolation::Bilinear),
            case("bilinear_down", [1, 9, 8, 2], [4, 3], Interpolation::Bilinear),
            case("antialiased_down", [2, 9, 11, 3], [4, 3], Interpolation::Antialiased),
            case("antialiased_up", [1, 4, 3, 33], [6, 7], Interpolation::Antialiased),
            case("aligned", [1, 5, 3, 16], [3, 4], Interpolation::Antialiased),
            case("area", [1, 8, 7, 3], [4, 3], Interpolation::Area),
            case("from_one_pixel", [1, 1, 1, 3], [3, 2], Interpolation::Bilinear),
            case("to_one_pixel", [1, 5, 4, 3], [1, 1], Interpolation::Antialiased),
        ]
    },
    workloads: || {
        let [n, h, w, _] = IMAGE;
        let half = move |x: &[Tensor]| x[0].resize([h / 2, w / 2], Interpolation::Antialiased);
        let patches = normal([2, 1024, 1024, 3]);
        vec![
            Workload::gpu("resize", [normal(IMAGE)], 16.0 * (n * h * w / 4 * IMAGE[3]) as f64, half),
            Workload::cpu("resize_1024_to_256", [patches], |x| x[0].resize([256, 256], Interpolation::Antialiased)),
        ]
    },
    ..OpSpec::BARE
};
