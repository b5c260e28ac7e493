//! Order-0 scores of a batch of images: the entropy of each one's predicted residuals ([`crate::select::order0`]).

use super::PATCHES;
use crate::{
    device::{
        kernel::{Kernel, UNTYPED},
        modules,
    },
    dtype::DType,
    error::Result,
    op::{Case, DeviceArgs, Draw, HostArgs, Op, OpSpec, Order, apply1, drawn, registry::Workload},
    select::kernels::shannon::{ScoreParams, infer_scores, score_images, score_params},
    select::order0,
    shape::Spec,
    tape::Keep,
    tensor::Tensor,
};

impl Tensor {
    /// Entropy of the residuals of every image of a batch `u8 [n, h, w, 3]` in 1/65536 bit, as scores `i32 [n, 2]`;
    /// [`order0::whole_bits`] rounds them.
    pub fn shannon_order0(&self) -> Result<Tensor> {
        apply1(Order0, &[self])
    }
}

// SAFETY: only `score_params` fills `ScoreParams`, from the tensors of the launch and their sizes.
const SCORE: Kernel<ScoreParams> = unsafe { Kernel::new(&modules::SHANNON_ORDER0, "score", 256, UNTYPED) };

struct Order0;

impl Op for Order0 {
    fn name(&self) -> &'static str {
        "shannon_order0"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>> {
        infer_scores(self.name(), x)
    }

    fn cpu(&self, args: &mut HostArgs) -> Result<()> {
        score_images(args, order0::entropy_q16);
        Ok(())
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let (params, blocks) = score_params(args)?;
        args.launch(&SCORE, DType::U8, blocks, 0, &params)
    }

    fn keep(&self) -> Keep {
        Keep::NONE
    }
}

fn cases() -> Vec<Case> {
    let score = |x: &[Tensor]| Ok(vec![x[0].shannon_order0()?]);
    vec![
        Case::new("one pixel", [drawn([1, 1, 1, 3], Draw::Bytes)], score),
        Case::new("bytes", [drawn([2, 9, 7, 3], Draw::Bytes)], score),
        Case::new("vectors", [drawn([2, 20, 144, 3], Draw::Bytes)], score),
        Case::new("wider than a block", [drawn([1, 3, 1400, 3], Draw::Bytes)], score),
    ]
}

fn workloads() -> Vec<Workload> {
    vec![Workload::gpu("shannon_order0", [drawn(PATCHES, Draw::Bytes)], 0.0, |x| x[0].shannon_order0())]
}

pub static SPEC: OpSpec =
    OpSpec { name: "shannon_order0", order: Order::None, kernels: &[SCORE.info()], cases, workloads, ..OpSpec::BARE };
