//! What selectors sum over the grey levels of a batch of images `u8 [n, h, w, 3]`: histogram ([`otsu`](crate::select::otsu)), Sobel gradient
//! ([`gradient`]), energy of a pair of separable filters ([`gaussian`](crate::select::gaussian)).
//!
//! Histogram and gradient are integers and the same on every device; energies are f32 and agree within rounding.

use super::PATCHES;
use super::shannon::{images, infer_scores};
use crate::{
    device::{
        driver::DevicePtr,
        kernel::{Kernel, UNTYPED, blocks_for_each},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    image::RgbImage,
    kernel_params,
    op::{Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, registry::Workload},
    select::{dog::Dog, gaussian::BandPass, gradient, grey::GreyImage, log::Log},
    shape::Spec,
    tape::Keep,
    tensor::Tensor,
};

impl Tensor {
    /// How often each grey level occurs in every image of a batch `u8 [n, h, w, 3]`: `i32 [n, 256]`.
    pub fn grey_histogram(&self) -> Result<Tensor> {
        apply1(Histogram, &[self])
    }

    /// Summed Sobel gradient of every image in steps of [`gradient::STEP_LEVELS`], as scores `i32 [n, 2]`.
    pub fn gradient_steps(&self) -> Result<Tensor> {
        apply1(Gradient, &[self])
    }

    /// Mean square of every filtered image: `f32 [n]`. On a GPU the filter's radius is at most [`MAX_RADIUS`].
    pub fn band_energy(&self, filter: &BandPass) -> Result<Tensor> {
        apply1(Band { filter: filter.clone() }, &[self])
    }
}

/// The largest radius that has a kernel.
pub const MAX_RADIUS: usize = 32;

kernel_params! {
    /// A batch of images, cut into tiles: `GreyBatch` of `kernels/common/grey.cuh`.
    pub(super) struct GreyBatch { pixels: DevicePtr, width_px: u32, height_px: u32, tiles_x: u32, tiles_y: u32 }
}

impl GreyBatch {
    /// The op's input in tiles of the given size, and how many there are of each image.
    pub(super) fn of(args: &DeviceArgs, [tile_w, tile_h]: [usize; 2]) -> (GreyBatch, usize) {
        let [_, h, w, _] = args.x[0].shape().nhwc().unwrap_or_default();
        let [tiles_x, tiles_y] = [w.div_ceil(tile_w), h.div_ceil(tile_h)];
        let batch = GreyBatch {
            pixels: args.x[0].ptr,
            width_px: w as u32,
            height_px: h as u32,
            tiles_x: tiles_x as u32,
            tiles_y: tiles_y as u32,
        };
        (batch, tiles_x * tiles_y)
    }
}

kernel_params! {
    struct HistogramParams { pixels: DevicePtr, counts: DevicePtr, image_px: u64, blocks_each: u32, unused: u32 }
    struct GradientParams { batch: GreyBatch, sums: DevicePtr }
    struct BandParams { batch: GreyBatch, parts: DevicePtr, down: Taps, along: Taps }
    struct BandSumParams { parts: DevicePtr, energies: DevicePtr, n: u32, parts_each: u32, scale: f32, unused: u32 }
}

/// From the centre outwards, of both filters.
type Taps = [[f32; 2]; MAX_RADIUS + 1];

const THREADS: u32 = 256;
// SAFETY: only this file fills `HistogramParams`, from the tensors and scratch memory of the launch and from their sizes.
const HISTOGRAM: Kernel<HistogramParams> = unsafe { Kernel::new(&modules::TEXTURE, "histogram", THREADS, UNTYPED) };
// SAFETY: as above, `GradientParams`.
const GRADIENT: Kernel<GradientParams> = unsafe { Kernel::new(&modules::TEXTURE, "gradient", THREADS, UNTYPED) };

const fn band(name: &'static str) -> Kernel<BandParams> {
    // SAFETY: as above, `BandParams`.
    unsafe { Kernel::new(&modules::TEXTURE, name, THREADS, UNTYPED) }
}

const BAND8: Kernel<BandParams> = band("band8");
const BAND16: Kernel<BandParams> = band("band16");
const BAND32: Kernel<BandParams> = band("band32");
// SAFETY: as above, `BandSumParams`.
const BAND_SUM: Kernel<BandSumParams> = unsafe { Kernel::new(&modules::TEXTURE, "band_sum", THREADS, UNTYPED) };

/// Pixels that a block of the histogram counts.
const HISTOGRAM_PX: usize = 16384;
const GRADIENT_TILE: [usize; 2] = [64, 16];
const BAND_TILE: [usize; 2] = [64, 32];

/// The images of a batch in grey, one after another.
pub(super) fn greys(args: &HostArgs) -> Vec<GreyImage> {
    let [n, height_px, width_px, _] = args.x_shape(0).nhwc().unwrap_or_default();
    let bytes = 3 * height_px * width_px;
    let x = args.x::<u8>(0);
    let grey = |i: usize| GreyImage::of(&RgbImage { width_px, height_px, pixels: x[i * bytes..][..bytes].to_vec() });
    (0..n).map(grey).collect()
}

struct Histogram;

impl Op for Histogram {
    fn name(&self) -> &'static str {
        "grey_histogram"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let [n, ..] = images(self.name(), x[0])?;
        Ok(vec![Spec::new([n, 256], DType::I32)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let greys = greys(args);
        for (counts, grey) in args.y::<i32>(0).chunks_exact_mut(256).zip(&greys) {
            counts.iter_mut().zip(grey.histogram()).for_each(|(to, count)| *to = count as i32);
        }
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [n, h, w, _] = args.x[0].shape().nhwc().unwrap_or_default();
        let y = args.y[0];
        args.zero(&y)?;
        let each = (h * w).div_ceil(HISTOGRAM_PX);
        let params = HistogramParams {
            pixels: args.x[0].ptr,
            counts: y.ptr,
            image_px: (h * w) as u64,
            blocks_each: each as u32,
            unused: 0,
        };
        args.launch(&HISTOGRAM, DType::U8, blocks_for_each(n, each as u32), 0, &params)
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

struct Gradient;

impl Op for Gradient {
    fn name(&self) -> &'static str {
        "gradient_steps"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        infer_scores(self.name(), x)
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let steps: Vec<u64> = greys(args).iter().map(gradient::steps).collect();
        for ([low, high], steps) in args.y::<i32>(0).as_chunks_mut().0.iter_mut().zip(steps) {
            (*low, *high) = (steps as u32 as i32, (steps >> 32) as u32 as i32);
        }
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let y = args.y[0];
        args.zero(&y)?;
        let (batch, tiles) = GreyBatch::of(args, GRADIENT_TILE);
        let grid = blocks_for_each(args.x[0].shape()[0], tiles as u32);
        args.launch(&GRADIENT, DType::U8, grid, 0, &GradientParams { batch, sums: y.ptr })
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

struct Band {
    filter: BandPass,
}

impl Op for Band {
    fn name(&self) -> &'static str {
        "band_energy"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let [n, ..] = images(self.name(), x[0])?;
        Ok(vec![Spec::new([n], DType::F32)])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let energies: Vec<f64> = greys(args).iter().map(|grey| self.filter.energy(grey)).collect();
        args.y::<f32>(0).iter_mut().zip(energies).for_each(|(to, energy)| *to = energy as f32);
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let [n, h, w, _] = args.x[0].shape().nhwc().unwrap_or_default();
        if h * w == 0 {
            return args.zero(&args.y[0]);
        }
        let radius = self.filter.radius();
        let (kernel, radius_px) = match radius {
            0..=8 => (&BAND8, 8),
            9..=16 => (&BAND16, 16),
            17..=MAX_RADIUS => (&BAND32, 32),
            _ => {
                let message = format!("a filter of radius {radius}; the kernels take at most {MAX_RADIUS}");
                return Err(Error::shape(self.name(), message));
            }
        };
        let (batch, tiles) = GreyBatch::of(args, BAND_TILE);
        let grid = blocks_for_each(n, tiles as u32);
        let parts = args.scratch(4 * grid as usize)?;
        let padded = |taps: &[[f32; 2]]| -> Taps { std::array::from_fn(|k| taps.get(k).copied().unwrap_or_default()) };
        let [down, along] = self.filter.taps().map(padded);
        let params = BandParams { batch, parts: parts.ptr(), down, along };
        args.launch(kernel, DType::U8, grid, band_shared_bytes(radius_px), &params)?;
        let sum = BandSumParams {
            parts: parts.ptr(),
            energies: args.y[0].ptr,
            n: n as u32,
            parts_each: tiles as u32,
            scale: 1.0 / (h * w) as f32,
            unused: 0,
        };
        args.launch(&BAND_SUM, DType::U8, blocks_for_each(n, 1), 0, &sum)
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

/// `Band<R>::BYTES` of `kernels/texture.cu`.
fn band_shared_bytes(radius_px: usize) -> usize {
    let [w, h] = BAND_TILE;
    let columns = (w + 2 * radius_px).next_multiple_of(4);
    4 * ((h + 2 * radius_px) * columns + 2 * h * (columns + 4))
}

fn cases() -> Vec<Case> {
    let image = |shape: [usize; 4]| [drawn(shape, Draw::Bytes)];
    let band = |filter: BandPass| move |x: &[Tensor]| Ok(vec![x[0].band_energy(&filter)?]);
    let filter = |filter: Result<BandPass>| filter.expect("a sound sigma");
    let dog = filter(Dog::default().filter());
    let log = |sigma_px| filter(Log { sigma_px }.filter());
    vec![
        Case::new("histogram of one pixel", image([1, 1, 1, 3]), |x| Ok(vec![x[0].grey_histogram()?])),
        Case::new("histogram", image([3, 41, 67, 3]), |x| Ok(vec![x[0].grey_histogram()?])),
        Case::new("histogram in words", image([2, 16, 12, 3]), |x| Ok(vec![x[0].grey_histogram()?])),
        Case::new("histogram of several blocks", image([1, 128, 132, 3]), |x| Ok(vec![x[0].grey_histogram()?])),
        Case::new("gradient of one pixel", image([2, 1, 1, 3]), |x| Ok(vec![x[0].gradient_steps()?])),
        Case::new("gradient", image([2, 19, 67, 3]), |x| Ok(vec![x[0].gradient_steps()?])),
        Case::new("gradient of whole tiles", image([1, 32, 128, 3]), |x| Ok(vec![x[0].gradient_steps()?])),
        Case::new("gradient of a line", image([1, 1, 130, 3]), |x| Ok(vec![x[0].gradient_steps()?])),
        Case::new("dog of two pixels", image([3, 1, 2, 3]), band(dog.clone())),
        Case::new("dog", image([2, 35, 66, 3]), band(dog)),
        Case::new("log", image([1, 33, 9, 3]), band(log(2.0))),
        Case::new("log of whole tiles", image([1, 64, 128, 3]), band(log(2.0))),
        Case::new("log of radius 14", image([1, 5, 70, 3]), band(log(3.5))),
        Case::new("log of radius 20", image([1, 3, 4, 3]), band(log(5.0))),
    ]
}

fn workloads() -> Vec<Workload> {
    let band = |name: &str, filter: Result<BandPass>| {
        let filter = filter.expect("a sound sigma");
        Workload::gpu(name, [drawn(PATCHES, Draw::Bytes)], 0.0, move |x| x[0].band_energy(&filter))
    };
    vec![
        Workload::gpu("grey_histogram", [drawn(PATCHES, Draw::Bytes)], 0.0, |x| x[0].grey_histogram()),
        Workload::gpu("gradient_steps", [drawn(PATCHES, Draw::Bytes)], 0.0, |x| x[0].gradient_steps()),
        band("dog", Dog::default().filter()),
        band("log", Log::default().filter()),
    ]
}

pub static SPEC: OpSpec = OpSpec {
    name: "texture",
    order: Order::None,
    kernels: &[HISTOGRAM.info(), GRADIENT.info(), BAND8.info(), BAND16.info(), BAND32.info(), BAND_SUM.info()],
    cases,
    workloads,
    ..OpSpec::BARE
};
