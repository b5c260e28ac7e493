//! Shannon scores of a batch of images: the bits of each one's `lz` stream ([`crate::select::shannon`]), and the payloads of
//! that stream. Integers throughout: the CPU and every GPU give the same numbers and the same bytes.
//!
//! Scores are unsigned 64-bit numbers; a tensor holds each as two `i32`, the lower half first ([`Tensor::to_scores`]).

use super::PATCHES;
use crate::{
    device::{
        driver::DevicePtr,
        kernel::{Kernel, KernelInfo, UNTYPED, blocks_for_each},
        modules,
    },
    dtype::DType,
    error::{Error, Result},
    image::RgbImage,
    kernel_params,
    op::{Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply_n, apply1, drawn, registry::Workload},
    select::shannon::{
        self, MAX_PIXEL_BYTES,
        predict::{CHUNK_BYTES, ChunkGrid},
    },
    shape::{Shape, Spec},
    tape::Keep,
    tensor::Tensor,
};

impl Tensor {
    /// Bits of the `lz` stream of every image of a batch `u8 [n, h, w, 3]`, as scores `i32 [n, 2]`. No stream is written.
    pub fn shannon_bits(&self) -> Result<Tensor> {
        apply1(ShannonScore, &[self])
    }

    /// What the streams of a batch `u8 [n, h, w, 3]` hold: payloads `u8 [n, chunks, 49152]`, of which each chunk's first
    /// bytes count, and how many, `i32 [n, chunks]`. [`encode`] makes a stream of them.
    pub fn shannon_payloads(&self) -> Result<[Tensor; 2]> {
        apply_n(ShannonEncode, &[self])
    }

    /// The numbers of a tensor of scores `i32 [n, 2]`.
    pub fn to_scores(&self) -> Result<Vec<u64>> {
        let halves = self.to_vec::<i32>()?;
        Ok(halves
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&[low, high]| u64::from(low as u32) | u64::from(high as u32) << 32)
            .collect())
    }
}

/// A batch `u8 [n, h, w, 3]` of images of one size.
///
/// # Errors
/// Images of several sizes, or none.
pub fn batch(images: &[RgbImage], device: &crate::Device) -> Result<Tensor> {
    let Some(first) = images.first() else { return Err(Error::shape("shannon", "a batch of no images")) };
    let (width_px, height_px) = (first.width_px, first.height_px);
    if images.iter().any(|image| (image.width_px, image.height_px) != (width_px, height_px)) {
        return Err(Error::shape("shannon", "images of one batch have one size"));
    }
    let mut pixels = Vec::with_capacity(images.len() * first.pixels.len());
    images.iter().for_each(|image| pixels.extend_from_slice(&image.pixels));
    Tensor::from_vec::<u8>(pixels, [images.len(), height_px, width_px, 3], device)
}

/// The `lz` stream of an image, its payloads made on `device`.
///
/// # Errors
/// The image has no pixels or more than [`MAX_PIXEL_BYTES`] of them, or the device fails.
pub fn encode(image: &RgbImage, device: &crate::Device) -> Result<Vec<u8>> {
    shannon::check_size(image).map_err(|why| Error::shape("shannon", why.0))?;
    let [payloads, sizes] = batch(std::slice::from_ref(image), device)?.shannon_payloads()?;
    let (payloads, sizes) = (payloads.to_vec::<u8>()?, sizes.to_vec::<i32>()?);
    let chunks = payloads.chunks_exact(CHUNK_BYTES).zip(&sizes).map(|(slot, &bytes)| &slot[..bytes as usize]);
    Ok(shannon::assemble(image, chunks))
}

kernel_params! {
    /// As `shannon_order0` takes it too.
    pub(super) struct ScoreParams {
        pixels: DevicePtr, bits: DevicePtr, width_px: u32, height_px: u32, columns: u32, rows: u32
    }

    struct EncodeParams {
        pixels: DevicePtr, payloads: DevicePtr, sizes: DevicePtr,
        width_px: u32, height_px: u32, columns: u32, rows: u32, slot_words: u32, unused: u32
    }
}

const THREADS: u32 = 512;
// SAFETY: only this file fills `ScoreParams`, from the tensors and scratch memory of the launch and from their sizes.
const SCORE: Kernel<ScoreParams> = unsafe { Kernel::new(&modules::SHANNON, "score", THREADS, UNTYPED) };
// SAFETY: as above, `EncodeParams`.
const ENCODE: Kernel<EncodeParams> = unsafe { Kernel::new(&modules::SHANNON, "encode", THREADS, UNTYPED) };
const KERNELS: &[KernelInfo] = &[SCORE.info(), ENCODE.info()];
/// `sizeof(State)` and `sizeof(EncoderState)` in `kernels/shannon.cu`, which asserts them.
const SCORE_SHARED_BYTES: usize = 85_120;
const ENCODE_SHARED_BYTES: usize = 90_384;

/// The extents of a batch of images, or what is wrong with it.
pub(super) fn images(op: &'static str, x: Spec) -> Result<[usize; 4]> {
    if x.dtype != DType::U8 {
        return Err(Error::DType { op, wanted: "u8", got: x.dtype });
    }
    match x.shape.nhwc() {
        Some(extents @ [_, h, w, 3]) if 3 * h * w <= MAX_PIXEL_BYTES => Ok(extents),
        Some([.., 3]) => Err(Error::shape(op, format!("images of {} have more than 2^30 bytes of pixels", x.shape))),
        _ => Err(Error::shape(op, format!("a batch [n, h, w, 3] wanted, not {}", x.shape))),
    }
}

/// What an op that scores images gives: two halves of a number each.
pub(super) fn infer_scores(op: &'static str, x: &[Spec]) -> Result<Vec<Spec>> {
    let [n, ..] = images(op, x[0])?;
    Ok(vec![Spec { shape: [n, 2].into(), dtype: DType::I32 }])
}

/// The images of a batch, one after another.
fn each(args: &HostArgs) -> impl Iterator<Item = RgbImage> {
    let [_, height_px, width_px, _] = args.x_shape(0).nhwc().unwrap_or_default();
    let bytes = 3 * height_px * width_px;
    let image = move |pixels: &[u8]| RgbImage { width_px, height_px, pixels: pixels.to_vec() };
    let n = args.x_shape(0)[0];
    let x = args.x::<u8>(0);
    (0..n).map(move |i| image(&x[i * bytes..][..bytes]))
}

/// The definition of an op that scores images.
pub(super) fn score_images(args: &mut HostArgs, bits: impl Fn(&RgbImage) -> u64) {
    let found: Vec<u64> = each(args).map(|image| bits(&image)).collect();
    for ([low, high], bits) in args.y::<i32>(0).as_chunks_mut().0.iter_mut().zip(found) {
        (*low, *high) = (bits as u32 as i32, (bits >> 32) as u32 as i32);
    }
}

/// Zeroes the scores and gives the parameters of a kernel that adds to them, and its blocks: one a chunk.
pub(super) fn score_params(args: &DeviceArgs) -> Result<(ScoreParams, u32)> {
    let (x, y) = (args.x[0], args.y[0]);
    let [n, height_px, width_px, _] = x.shape().nhwc().unwrap_or_default();
    args.zero(&y)?;
    let grid = ChunkGrid::new(width_px, height_px);
    let params = ScoreParams {
        pixels: x.ptr,
        bits: y.ptr,
        width_px: width_px as u32,
        height_px: height_px as u32,
        columns: grid.columns as u32,
        rows: grid.rows as u32,
    };
    Ok((params, blocks_for_each(n, grid.len() as u32)))
}

struct ShannonScore;

impl Op for ShannonScore {
    fn name(&self) -> &'static str {
        "shannon_bits"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        infer_scores(self.name(), x)
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        score_images(args, shannon::bits);
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (params, blocks) = score_params(args)?;
        args.launch(&SCORE, DType::U8, blocks, SCORE_SHARED_BYTES, &params)
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

struct ShannonEncode;

impl Op for ShannonEncode {
    fn name(&self) -> &'static str {
        "shannon_payloads"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        let [n, h, w, _] = images(self.name(), x[0])?;
        let chunks = ChunkGrid::new(w, h).len();
        let too_many = || Error::shape(self.name(), "the payloads do not fit memory; give fewer images");
        let payloads = Shape::try_new(&[n, chunks, CHUNK_BYTES]).ok_or_else(too_many)?;
        let sizes = [n, chunks].into();
        Ok(vec![Spec { shape: payloads, dtype: DType::U8 }, Spec { shape: sizes, dtype: DType::I32 }])
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        let payloads: Vec<Vec<u8>> = each(args).flat_map(|image| shannon::payloads(&image)).collect();
        args.y::<u8>(0).fill(0);
        for (slot, payload) in args.y::<u8>(0).chunks_exact_mut(CHUNK_BYTES).zip(&payloads) {
            slot[..payload.len()].copy_from_slice(payload);
        }
        for (size, payload) in args.y::<i32>(1).iter_mut().zip(&payloads) {
            *size = payload.len() as i32;
        }
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, payloads, sizes) = (args.x[0], args.y[0], args.y[1]);
        let [n, height_px, width_px, _] = x.shape().nhwc().unwrap_or_default();
        args.zero(&payloads)?;
        let grid = ChunkGrid::new(width_px, height_px);
        let params = EncodeParams {
            pixels: x.ptr,
            payloads: payloads.ptr,
            sizes: sizes.ptr,
            width_px: width_px as u32,
            height_px: height_px as u32,
            columns: grid.columns as u32,
            rows: grid.rows as u32,
            slot_words: CHUNK_BYTES as u32 / 4,
            unused: 0,
        };
        args.launch(&ENCODE, DType::U8, blocks_for_each(n, grid.len() as u32), ENCODE_SHARED_BYTES, &params)
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

fn cases() -> Vec<Case> {
    let score = |x: &[Tensor]| Ok(vec![x[0].shannon_bits()?]);
    vec![
        Case::new("one pixel", [drawn([1, 1, 1, 3], Draw::Bytes)], score),
        Case::new("two images of one chunk", [drawn([2, 9, 7, 3], Draw::Bytes)], score),
        Case::new("two chunks", [drawn([1, 30, 131, 3], Draw::Bytes)], score),
        Case::new("payloads", [drawn([2, 5, 140, 3], Draw::Bytes)], |x| Ok(x[0].shannon_payloads()?.to_vec())),
    ]
}

fn workloads() -> Vec<Workload> {
    vec![Workload::gpu("shannon", [drawn(PATCHES, Draw::Bytes)], 0.0, |x| x[0].shannon_bits())]
}

pub static SPEC: OpSpec =
    OpSpec { name: "shannon", order: Order::None, kernels: KERNELS, cases, workloads, ..OpSpec::BARE };
