//! Exponential moving averages of weights and statistics, in place.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::{
    device::{
        driver::DevicePtr,
        host::{Element, HostBuffer, Real},
        kernel::{FLOATS, Kernel, KernelInfo},
        list::{LIST, Shares, THREADS, addresses},
        vector::{GRAIN, vectorised},
    },
    dtype::DType,
    error::{Error, Result},
    kernel_params,
    nn::builder::Params,
    op::{self, DeviceArgs, InPlace},
    shape::Spec,
    tensor::Tensor,
};

/// `target = (1 − weight) · target + weight · x`, pair by pair: running statistics, averages of weights. With weight 1 a
/// copy.
pub fn lerp(targets: &[&Tensor], x: &[&Tensor], weight: f64) -> Result<()> {
    if pairs(targets, x)? == 0 {
        return Ok(());
    }
    op::update(&Lerp { weight: Some(weight) }, targets, x)
}

/// As [`lerp`] with the weight in a tensor of one f32: what a recorded step reads anew at every replay.
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
            for some in of_type.chunks(LIST) {
                let list = Shares::of(&some.iter().map(|&i| args.y[i].elems()).collect::<Vec<_>>());
                let params = LerpParams {
                    target: addresses(some.iter().map(|&i| args.y[i].ptr)),
                    x: addresses(some.iter().map(|&i| args.x[i].ptr)),
                    count: list.count,
                    first_block: list.first_block,
                    weight_at,
                    weight: self.weight.unwrap_or_default() as f32,
                    tensors: list.buffers,
                };
                args.launch(&LERP, *dtype, list.blocks, 0, &params)?;
            }
        }
        match args.y.iter().find(|y| !FLOATS.contains(&y.dtype())) {
            None => Ok(()),
            Some(y) => Err(Error::DType { op: "lerp", wanted: "f32, bf16 or f16 on a GPU", got: y.dtype() }),
        }
    }
}

kernel_params! {
    struct LerpParams {
        target: [DevicePtr; LIST],
        x: [DevicePtr; LIST],
        count: [u64; LIST],
        first_block: [u32; LIST],
        weight_at: DevicePtr,
        weight: f32,
        tensors: u32,
    }
}

const LERP: Kernel<LerpParams> = Kernel::new("ema", "lerp", THREADS, FLOATS);
pub(super) const KERNEL: KernelInfo = LERP.info();

fn lerp_slices<T: Real>(target: &mut [T], x: &[T], weight: f64) -> Result<()> {
    let (keep, take) = (<T as Element>::from_f64(1.0 - weight), <T as Element>::from_f64(weight));
    target.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN)).for_each(|(target, x)| {
        vectorised(
            #[inline(always)]
            || {
                let (keep, take) = (keep, take);
                for (target, &x) in target.iter_mut().zip(x) {
                    *target = keep * *target + take * x;
                }
            },
        );
    });
    Ok(())
}

/// Averages of a model's tensors, parameters and buffers.
pub struct Ema {
    averages: Vec<Tensor>,
}

impl Ema {
    /// Begins as a copy of the tensors.
    pub fn of(params: &Params) -> Result<Ema> {
        let averages = params.named().map(|(_, t)| t.zeros_like()).collect::<Result<Vec<_>>>()?;
        let ema = Ema { averages };
        ema.update(params, 0.0)?;
        Ok(ema)
    }

    /// The averages are the tensors of another model of the same architecture, which is so kept up to date.
    pub fn over(averaged: &Params) -> Ema {
        Ema { averages: averaged.named().map(|(_, t)| t.clone()).collect() }
    }

    /// One step: `average = decay · average + (1 − decay) · tensor`.
    pub fn update(&self, params: &Params, decay: f64) -> Result<()> {
        let averages: Vec<&Tensor> = self.averages.iter().collect();
        let current: Vec<&Tensor> = params.named().map(|(_, t)| t).collect();
        lerp(&averages, &current, 1.0 - decay)
    }

    /// As [`Ema::update`] with `1 − decay` in a tensor of one f32.
    pub fn update_by(&self, params: &Params, weight: &Tensor) -> Result<()> {
        let averages: Vec<&Tensor> = self.averages.iter().collect();
        let current: Vec<&Tensor> = params.named().map(|(_, t)| t).collect();
        lerp_by(&averages, &current, weight)
    }

    /// A decay that forgets the fresh weights soon: `(1 + step) / (10 + step)` while that is below `decay`.
    pub fn warmed_up(decay: f64, step: u64) -> f64 {
        decay.min((1.0 + step as f64) / (10.0 + step as f64))
    }

    /// The averages under the names of the tensors they follow.
    pub fn named(&self, params: &Params) -> Vec<(String, Tensor)> {
        params.named().zip(&self.averages).map(|((name, _), average)| (name.to_string(), average.clone())).collect()
    }

    /// Takes up the averages that [`Ema::named`] gave. `origin` names the file in errors.
    pub fn restore(&mut self, params: &Params, tensors: &HashMap<String, Tensor>, origin: &str) -> Result<()> {
        let find = |(name, t): (&str, &Tensor)| match tensors.get(name) {
            Some(average) if average.spec() == t.spec() => average.to_device(t.device()),
            Some(average) => {
                let problem = format!("{name} is {}:{}, not {}", average.shape(), average.dtype(), t.shape());
                Err(Error::input(origin, problem, "resume with the settings the run began with"))
            }
            None => Err(Error::input(origin, format!("{name} is missing"), "resume from an earlier checkpoint")),
        };
        self.averages = params.named().map(find).collect::<Result<_>>()?;
        Ok(())
    }
}
