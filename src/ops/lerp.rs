//! `target = (1 − weight) · target + weight · x` in place, over many tensors in one launch: running statistics, moving averages.

use rayon::prelude::*;

use crate::{
    cpu::vector::GRAIN,
    device::{
        driver::DevicePtr,
        host::{Element, HostBuffer, Real},
        kernel::{FLOATS, Kernel, KernelInfo},
        modules,
        multi_tensor::{MAX_TENSORS, THREADS, for_each_launch, pointers},
    },
    dtype::DType,
    error::{Error, Result},
    kernel_params,
    op::{self, DeviceArgs, InPlace},
    shape::Spec,
    tensor::Tensor,
    vectorised,
};

/// `target = (1 − weight) · target + weight · x`, pair by pair: running statistics, averages of weights. With weight 1 a
/// copy.
pub fn lerp(targets: &[&Tensor], x: &[&Tensor], weight: f64) -> Result<()> {
    if pairs(targets, x)? == 0 {
        return Ok(());
    }
    op::update(&Lerp { weight: Some(weight) }, targets, x)
}

/// As [`lerp`] with the weight in a tensor of one f32: what a captured CUDA graph reads anew at every replay.
pub fn lerp_by(targets: &[&Tensor], x: &[&Tensor], weight: &Tensor) -> Result<()> {
    if weight.spec() != Spec::new([1], DType::F32) {
        return Err(Error::shape(
            "lerp",
            format!("one f32 wanted as weight, got {}:{}", weight.shape(), weight.dtype()),
        ));
    }
    if pairs(targets, x)? == 0 {
        return Ok(());
    }
    let x: Vec<&Tensor> = x.iter().copied().chain([weight]).collect();
    op::update(&Lerp { weight: None }, targets, &x)
}

fn pairs(targets: &[&Tensor], x: &[&Tensor]) -> Result<usize> {
    if targets.len() != x.len() || targets.iter().zip(x).any(|(target, x)| target.spec() != x.spec()) {
        return Err(Error::shape("lerp", "every target needs an input of its shape and type"));
    }
    Ok(targets.len())
}

/// Without a weight of its own, the last input is it.
struct Lerp {
    weight: Option<f64>,
}

impl InPlace for Lerp {
    fn name(&self) -> &'static str {
        "lerp"
    }

    fn cpu(&self, targets: &mut [&mut HostBuffer], x: &[&HostBuffer]) -> Result<()> {
        let weight = match (self.weight, x.last()) {
            (Some(weight), _) => weight,
            (None, Some(HostBuffer::F32(weight))) => f64::from(weight[0]),
            (None, _) => return Err(Error::shape("lerp", "a weight wanted")),
        };
        targets.par_iter_mut().zip(x).try_for_each(|(target, x)| match (&mut **target, *x) {
            (HostBuffer::F32(target), HostBuffer::F32(x)) => lerp_slices(target, x, weight),
            (HostBuffer::F64(target), HostBuffer::F64(x)) => lerp_slices(target, x, weight),
            (target, _) => Err(Error::DType { op: "lerp", wanted: "f32 or f64, both alike", got: target.dtype() }),
        })
    }

    fn gpu(&self, args: &DeviceArgs) -> Result<()> {
        let weight_at = match self.weight {
            Some(_) => DevicePtr::NULL,
            None => args.x[args.y.len()].ptr,
        };
        // One launch takes tensors of one type.
        for dtype in FLOATS {
            let of_type: Vec<usize> = (0..args.y.len()).filter(|&i| args.y[i].dtype() == *dtype).collect();
            for_each_launch(
                &of_type,
                |i| args.y[i].elems(),
                |some, table| {
                    let params = LerpParams {
                        target: pointers(some.iter().map(|&i| args.y[i].ptr)),
                        x: pointers(some.iter().map(|&i| args.x[i].ptr)),
                        count: table.count,
                        first_block: table.first_block,
                        weight_at,
                        weight: self.weight.unwrap_or_default() as f32,
                        tensors: table.tensors,
                    };
                    args.launch(&LERP, *dtype, table.blocks, 0, &params)
                },
            )?;
        }
        match args.y.iter().find(|y| !FLOATS.contains(&y.dtype())) {
            None => Ok(()),
            Some(y) => Err(Error::DType { op: "lerp", wanted: "f32, bf16 or f16 on a GPU", got: y.dtype() }),
        }
    }
}

kernel_params! {
    struct LerpParams {
        target: [DevicePtr; MAX_TENSORS],
        x: [DevicePtr; MAX_TENSORS],
        count: [u64; MAX_TENSORS],
        first_block: [u32; MAX_TENSORS],
        weight_at: DevicePtr,
        weight: f32,
        tensors: u32,
    }
}

// SAFETY: only this file fills `LerpParams`, from the tensors and scratch memory of the launch and from their sizes.
const LERP: Kernel<LerpParams> = unsafe { Kernel::new(&modules::EMA, "lerp", THREADS, FLOATS) };
pub const KERNEL: KernelInfo = LERP.info();

fn lerp_slices<T: Real>(target: &mut [T], x: &[T], weight: f64) -> Result<()> {
    let (keep, take) = (<T as Element>::from_f64(1.0 - weight), <T as Element>::from_f64(weight));
    target.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN)).for_each(|(target, x)| {
        vectorised!([keep, take], {
            for (target, &x) in target.iter_mut().zip(x) {
                *target = keep * *target + take * x;
            }
        });
    });
    Ok(())
}
