//! Exponential moving averages of weights and statistics, in place.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::{
    device::{
        host::{Element, HostBuffer, Real},
        vector::{GRAIN, vectorised},
    },
    error::{Error, Result},
    nn::builder::Params,
    op::{self, InPlace},
    tensor::Tensor,
};

/// `target = (1 − weight) · target + weight · x`, pair by pair: running statistics, averages of weights. With weight 1 a
/// copy.
pub fn lerp(targets: &[&Tensor], x: &[&Tensor], weight: f64) -> Result<()> {
    if targets.is_empty() && x.is_empty() {
        return Ok(());
    }
    if targets.len() != x.len() || targets.iter().zip(x).any(|(target, x)| target.shape() != x.shape()) {
        return Err(Error::shape("lerp", "every target needs an input of its shape"));
    }
    op::update(&Lerp { weight }, targets, x)
}

struct Lerp {
    weight: f64,
}

impl InPlace for Lerp {
    fn name(&self) -> &'static str {
        "lerp"
    }

    fn cpu(&self, targets: &mut [&mut HostBuffer], x: &[&HostBuffer]) -> Result<()> {
        targets.par_iter_mut().zip(x).try_for_each(|(target, x)| match (&mut **target, *x) {
            (HostBuffer::F32(target), HostBuffer::F32(x)) => lerp_slices(target, x, self.weight),
            (HostBuffer::F64(target), HostBuffer::F64(x)) => lerp_slices(target, x, self.weight),
            (target, _) => Err(Error::DType { op: "lerp", wanted: "f32 or f64, both alike", got: target.dtype() }),
        })
    }
}

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
