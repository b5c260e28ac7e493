//! Exponential moving averages of a model's weights and statistics, in place.

use std::collections::HashMap;

use super::restored;
use crate::{
    error::Result,
    nn::builder::Params,
    ops::lerp::{lerp, lerp_by},
    tensor::Tensor,
};

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
        let find = |(name, t): (&str, &Tensor)| restored(tensors, name, t, origin);
        self.averages = params.named().map(find).collect::<Result<_>>()?;
        Ok(())
    }
}
