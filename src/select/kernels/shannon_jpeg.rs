//! JPEG scores of a batch of images: the bits of each one's entropy-coded blocks ([`crate::select::jpeg`]).

use super::PATCHES;
use crate::{
    device::{
        driver::DevicePtr,
        kernel::{Kernel, UNTYPED, blocks_for_each},
        modules,
    },
    dtype::DType,
    error::Result,
    kernel_params,
    op::{Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, registry::Workload},
    select::jpeg,
    select::kernels::shannon::{infer_scores, score_images},
    shape::Spec,
    tape::Keep,
    tensor::Tensor,
};

impl Tensor {
    /// Bits of the entropy-coded blocks of a baseline 4:2:0 JPEG of every image of a batch `u8 [n, h, w, 3]`, as scores `i32
    /// [n, 2]`; [`jpeg::file_bits`] adds what a file has beside them. `quality` is 1 to 100 (values outside are moved in).
    pub fn shannon_jpeg(&self, quality: u8) -> Result<Tensor> {
        apply1(Jpeg { quality }, &[self])
    }
}

kernel_params! {
    struct JpegParams {
        pixels: DevicePtr, bits: DevicePtr, width_px: u32, height_px: u32,
        units_across: u32, units: u32, blocks: u32, scale: u32
    }
}

// SAFETY: only this file fills `JpegParams`, from the tensors and scratch memory of the launch and from their sizes.
const SCORE: Kernel<JpegParams> = unsafe { Kernel::new(&modules::SHANNON_JPEG, "score", 192, UNTYPED) };
/// Units of 16 x 16 pixels that a thread block adds.
const UNITS_A_BLOCK: usize = 31;

struct Jpeg {
    quality: u8,
}

impl Op for Jpeg {
    fn name(&self) -> &'static str {
        "shannon_jpeg"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        infer_scores(self.name(), x)
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        score_images(args, |image| jpeg::coded_bits(image, self.quality));
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (x, y) = (args.x[0], args.y[0]);
        let [n, height_px, width_px, _] = x.shape().nhwc().unwrap_or_default();
        args.zero(&y)?;
        let units_across = width_px.div_ceil(16);
        let units = units_across * height_px.div_ceil(16);
        let of_each = units.div_ceil(UNITS_A_BLOCK);
        let params = JpegParams {
            pixels: x.ptr,
            bits: y.ptr,
            width_px: width_px as u32,
            height_px: height_px as u32,
            units_across: units_across as u32,
            units: units as u32,
            blocks: of_each as u32,
            scale: jpeg::table_percent(self.quality),
        };
        args.launch(&SCORE, DType::U8, blocks_for_each(n, of_each as u32), 0, &params)
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("one pixel", [drawn([1, 1, 1, 3], Draw::Bytes)], |x| Ok(vec![x[0].shannon_jpeg(75)?])),
        Case::new("cut units", [drawn([2, 19, 37, 3], Draw::Bytes)], |x| Ok(vec![x[0].shannon_jpeg(50)?])),
        Case::new("two blocks", [drawn([2, 17, 260, 3], Draw::Bytes)], |x| Ok(vec![x[0].shannon_jpeg(100)?])),
    ]
}

fn workloads() -> Vec<Workload> {
    vec![Workload::gpu("shannon_jpeg", [drawn(PATCHES, Draw::Bytes)], 0.0, |x| x[0].shannon_jpeg(80))]
}

pub static SPEC: OpSpec =
    OpSpec { name: "shannon_jpeg", order: Order::None, kernels: &[SCORE.info()], cases, workloads, ..OpSpec::BARE };
