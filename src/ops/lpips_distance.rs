//! LPIPS's comparison of one layer of features (Zhang et al. 2018, eq. 1): unit length over channels, squared difference,
//! a weight per channel, mean over pixels.
//!
//! `distance = mean over pixels of Σ_c weight_c (a_c/(‖a‖ + 1e-10) − b_c/(‖b‖ + 1e-10))²`. A tiny addend under the norm's
//! root changes no value; it gives a pixel without any activation the gradient zero, where the root's own would be 0/0.

use rayon::prelude::*;

use crate::{
    cpu::vector::{sum1, sum2},
    device::{
        driver::DevicePtr,
        host::Real,
        kernel::{FLOATS, Kernel, blocks},
        modules,
    },
    error::{Error, Result},
    float_dispatch, kernel_params,
    op::{
        Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, normal,
        registry::{IMAGE, Workload},
        same_float,
    },
    shape::{Shape, Spec},
    tape::{Keep, Vjp},
    tensor::Tensor,
    vectorised,
};

impl Tensor {
    /// Features `[n, h, w, c]` of two batches of images and `weight` `[c]`: distances `[n]`.
    pub fn lpips_distance(&self, other: &Tensor, weight: &Tensor) -> Result<Tensor> {
        apply1(Distance, &[self, other, weight])
    }
}

/// Added to a norm before it divides, and to its square before the root.
const NORM_EPS: f64 = 1e-10;
const SQUARE_EPS: f64 = 1e-30;

/// Inputs a, b, weight.
struct Distance;

/// Images, pixels and channels.
fn extents(shape: Shape) -> [usize; 3] {
    [shape[0], shape[1] * shape[2], shape[3]]
}

impl Op for Distance {
    fn name(&self) -> &'static str {
        "lpips_distance"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let dtype = same_float("lpips_distance", x)?;
        let [a, b, weight] = [0, 1, 2].map(|i| x[i].shape);
        match a.nhwc() {
            Some([n, h, w, c]) if a == b && *weight == [c] && h * w > 0 && c > 0 => Ok(vec![Spec::new([n], dtype)]),
            _ => Err(Error::shape("lpips_distance", format!("features {a} and {b}, weights {weight}"))),
        }
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let [_, pixels, c] = extents(args.x_shape(0));
        float_dispatch!(args, T => {
            let (a, b, weight) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2));
            let image = |(i, y): (usize, &mut T)| {
                let at = i * pixels * c;
                *y = distance(&a[at..][..pixels * c], &b[at..][..pixels * c], weight) / T::c(pixels as f64);
            };
            args.y::<T>(0).par_iter_mut().enumerate().for_each(image);
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [a, b, weight] = [0, 1, 2].map(|i| args.x[i]);
        let [n, pixels, c] = extents(a.shape());
        let per_image = blocks(pixels, PIXELS);
        let images = n * per_image as usize;
        let parts = args.scratch((images * 4).max(4))?;
        let pointers = [a.ptr, b.ptr, weight.ptr];
        let params = DistanceParams { parts: parts.ptr(), ..params(pointers, pixels, c, a.dtype().bytes()) };
        args.launch(&FORWARD, a.dtype(), blocks(images, 1), 0, &params)?;
        let sum = SumParams {
            parts: parts.ptr(),
            distance: args.y[0].ptr,
            n: n as u64,
            parts_per_image: per_image.into(),
            scale: 1.0 / pixels as f32,
            unused: 0,
        };
        args.launch(&SUM, a.dtype(), blocks(n * 32, THREADS as usize), 0, &sum)
    }

    fn vjp(&self, v: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (dy, a, b, weight) = (v.upstream()?, v.x(0), v.x(1), v.x(2));
        let da = v.when(0, || apply1(DistanceGrad, &[dy, a, b, weight]))?;
        let db = v.when(1, || apply1(DistanceGrad, &[dy, b, a, weight]))?;
        // Trained weights stay as they are, so this one is composed.
        let dweight = v.when(2, || {
            let [n, pixels, c] = extents(a.shape());
            let squares = unit_length(a)?.sub(&unit_length(b)?)?.square()?;
            let dy = dy.scale(1.0 / pixels as f64)?.reshape([n, 1, 1, 1])?;
            squares.mul(&dy)?.sum(&[0, 1, 2])?.reshape([c])
        })?;
        Ok(vec![da, db, dweight])
    }

    fn keep(&self) -> Keep {
        Keep::INPUTS
    }
}

fn unit_length(x: &Tensor) -> Result<Tensor> {
    x.div(&x.square()?.sum(&[3])?.shift(SQUARE_EPS)?.sqrt()?.shift(NORM_EPS)?)
}

#[inline(always)]
fn norm<T: Real>(x: &[T]) -> T {
    (sum1(x, |x| x * x) + T::c(SQUARE_EPS)).sqrt()
}

/// Σ over pixels and channels for one image.
fn distance<T: Real>(a: &[T], b: &[T], weight: &[T]) -> T {
    let c = weight.len();
    let (mut difference, mut pixels) = (vec![T::zero(); c], vec![T::zero(); a.len() / c]);
    vectorised!({
        for (pixel, (a, b)) in pixels.iter_mut().zip(a.chunks_exact(c).zip(b.chunks_exact(c))) {
            let (ia, ib) = ((norm(a) + T::c(NORM_EPS)).recip(), (norm(b) + T::c(NORM_EPS)).recip());
            for (d, (&a, &b)) in difference.iter_mut().zip(a.iter().zip(b)) {
                *d = a * ia - b * ib;
            }
            *pixel = sum2(&difference, weight, |d, w| w * d * d);
        }
    });
    sum1(&pixels, |x| x)
}

/// The gradient of a; inputs ddistance, a, b, weight.
struct DistanceGrad;

impl Op for DistanceGrad {
    fn name(&self) -> &'static str {
        "lpips_distance_grad"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        Ok(vec![x[1]])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let [_, pixels, c] = extents(args.x_shape(1));
        float_dispatch!(args, T => {
            let (dy, a, b, weight) = (args.x::<T>(0), args.x::<T>(1), args.x::<T>(2), args.x::<T>(3));
            let row = |(pixel, da): (usize, &mut [T])| {
                let (a, b) = (&a[pixel * c..][..c], &b[pixel * c..][..c]);
                gradient(dy[pixel / pixels] / T::c(pixels as f64), [a, b, weight], da);
            };
            args.y::<T>(0).par_chunks_mut(c).with_min_len(64).enumerate().for_each(row);
        });
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [dy, a, b, weight] = [0, 1, 2, 3].map(|i| args.x[i]);
        let [n, pixels, c] = extents(a.shape());
        let params = params([a.ptr, b.ptr, weight.ptr], pixels, c, a.dtype().bytes());
        let params = DistanceParams { ddistance: dy.ptr, da: args.y[0].ptr, ..params };
        args.launch(&BACKWARD, a.dtype(), blocks(n * blocks(pixels, PIXELS) as usize, 1), 0, &params)
    }
}

/// With `e = 2 weight (u − t) dy`: `da = e / (‖a‖ + ε) − a Σ e a / (‖a‖ (‖a‖ + ε)²)`.
fn gradient<T: Real>(dy: T, [a, b, weight]: [&[T]; 3], da: &mut [T]) {
    vectorised!({
        let length = norm(a);
        let (ia, ib) = ((length + T::c(NORM_EPS)).recip(), (norm(b) + T::c(NORM_EPS)).recip());
        let two = T::c(2.0) * dy;
        for (da, ((&a, &b), &w)) in da.iter_mut().zip(a.iter().zip(b).zip(weight)) {
            *da = two * w * (a * ia - b * ib);
        }
        let along = sum2(da, a, |e, a| e * a) * ia * ia / length;
        for (da, &a) in da.iter_mut().zip(a) {
            *da = *da * ia - a * along;
        }
    });
}

kernel_params! {
    struct DistanceParams {
        a: DevicePtr,
        b: DevicePtr,
        weight: DevicePtr,
        parts: DevicePtr,
        ddistance: DevicePtr,
        da: DevicePtr,
        pixels: u64,
        c: u32,
        parts_per_image: u32,
        aligned: u32,
        unused: u32,
    }

    struct SumParams {
        parts: DevicePtr,
        distance: DevicePtr,
        n: u64,
        parts_per_image: u64,
        scale: f32,
        unused: u32,
    }
}

const THREADS: u32 = 256;
/// Pixels of a block.
const PIXELS: usize = 64;
// SAFETY: only this file fills `DistanceParams`, from the tensors and scratch memory of the launch and from their sizes.
const FORWARD: Kernel<DistanceParams> = unsafe { Kernel::new(&modules::LPIPS_DISTANCE, "fwd", THREADS, FLOATS) };
// SAFETY: as above, `SumParams`.
const SUM: Kernel<SumParams> = unsafe { Kernel::new(&modules::LPIPS_DISTANCE, "sum", THREADS, FLOATS) };
// SAFETY: as above, `DistanceParams`.
const BACKWARD: Kernel<DistanceParams> = unsafe { Kernel::new(&modules::LPIPS_DISTANCE, "bwd_x", THREADS, FLOATS) };

fn params([a, b, weight]: [DevicePtr; 3], pixels: usize, c: usize, element_bytes: usize) -> DistanceParams {
    let null = DevicePtr::NULL;
    DistanceParams {
        a,
        b,
        weight,
        parts: null,
        ddistance: null,
        da: null,
        pixels: pixels as u64,
        c: u32::try_from(c).unwrap_or(u32::MAX),
        parts_per_image: blocks(pixels, PIXELS),
        aligned: (c * element_bytes).is_multiple_of(16).into(),
        unused: 0,
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "lpips_distance",
    order: Order::Once,
    kernels: &[FORWARD.info(), SUM.info(), BACKWARD.info()],
    cases: || {
        let case = |name, x: [usize; 4]| {
            let weight = drawn([x[3]], Draw::Uniform(0.0, 1.0));
            Case::new(name, [normal(x), normal(x), weight], |x| Ok(vec![x[0].lpips_distance(&x[1], &x[2])?]))
        };
        vec![case("ragged", [2, 3, 5, 7]), case("past_a_block", [1, 5, 13, 8]), case("one_channel", [1, 2, 2, 33])]
    },
    workloads: || {
        let inputs = [normal(IMAGE), normal(IMAGE), normal([IMAGE[3]])];
        let flops = 10.0 * IMAGE.iter().product::<usize>() as f64;
        vec![Workload::gpu("lpips_distance", inputs, flops, |x| x[0].lpips_distance(&x[1], &x[2]))]
    },
    ..OpSpec::BARE
};
