//! Ridge regression on a slide's mean features, global vectors and the cells of the cubes side by side: the simplest predictor
//! that looks at the slide. [`Ridge`](solver::Ridge) says how it is fitted.
//!
//! As a network: every patch's features, their mean, a linear head. So each patch's part in a prediction is known exactly.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    mil::{
        features::{FeatureDims, Moments, Reads},
        method::{ClosedForm, Fit, ISG_SLIDE, Method, MethodSpec, TrainingData, with},
        network::{Aggregator, Dims, Input, Mode, Network, PatchEncoder, Patches},
        ridge as solver,
    },
    nn::{builder::Builder, linear::Linear, vit::Sequences},
    shape::Shape,
    tensor::Tensor,
};

/// It has no keys: the penalty is found by leaving slides out.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ridge {}

pub const SPEC: MethodSpec = MethodSpec {
    name: "ridge",
    title: "ridge regression on mean features",
    cites: "Hoerl, Kennard: Ridge regression: biased estimation for nonorthogonal problems. Technometrics 1970",
    slide: ISG_SLIDE,
    preset: |_| Arc::new(Ridge {}),
    training: |_, train| train.members = 1,
    with: with::<Ridge>,
    cases: || vec![Arc::new(Ridge {})],
};

impl Method for Ridge {
    /// Everything there is.
    fn reads(&self, available: FeatureDims) -> Reads {
        Reads { global: available.global > 0, cube: available.cube() > 0, coords: false }
    }

    /// Parameters `head.*` over the global vector and the mean cell, one after the other.
    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        let reads = self.reads(dims.features);
        let width = dims.features.global + if reads.cube { dims.features.cell } else { 0 };
        let head = b.scope("head", |b| Linear::new(b, width, dims.genes, 1.0))?;
        Ok(Network::new(Input::of(reads), AllFeatures, LinearOnMean(head)))
    }

    fn fit(&self) -> Fit<'_> {
        Fit::Closed(self)
    }
}

impl ClosedForm for Ridge {
    fn solve(&self, data: &TrainingData) -> Result<Vec<(String, Shape, Vec<f64>)>> {
        let reads = self.reads(data.set.dims);
        let parts: Vec<&Moments> = data.features.global.iter().chain(&data.features.cube).collect();
        let scale = || parts.iter().flat_map(|part| part.mean.iter().zip(&part.std));
        let row = |&slide: &usize| -> Result<Vec<f64>> {
            let means = data.set.mean_features(slide, reads)?;
            Ok(means.iter().zip(scale()).map(|(v, (m, s))| (v - f64::from(*m)) / f64::from(*s)).collect())
        };
        let rows = data.slides.iter().map(row).collect::<Result<Vec<_>>>()?;
        let targets: Vec<Vec<f64>> = data.slides.iter().map(|&slide| data.targets_of(slide)).collect();
        let (weights, biases) = solver::Ridge::fit(&rows, &targets)?.line();
        let [genes, width] = [biases.len(), rows.first().map_or(0, Vec::len)];
        Ok(vec![("head.weight".into(), [genes, width].into(), weights), ("head.bias".into(), [genes].into(), biases)])
    }
}

/// A patch as it is: its global vector, and the mean over its cells.
struct AllFeatures;

impl PatchEncoder for AllFeatures {
    fn tokens(&self, patches: &Patches, _: &mut Mode) -> Result<Tensor> {
        let cell = patches.cube.as_ref().map(Tensor::global_avg_pool).transpose()?;
        match (&patches.global, &cell) {
            (Some(global), Some(cell)) => Tensor::concat(&[global, cell], 1),
            (None, Some(cell)) => Ok(cell.clone()),
            _ => patches.global().cloned(),
        }
    }
}

struct LinearOnMean(Linear);

impl Aggregator for LinearOnMean {
    fn pool(&self, tokens: &Tensor, slides: &Sequences, _: &mut Mode) -> Result<Tensor> {
        self.0.forward(&tokens.segment_mean(slides.offsets())?)
    }

    fn contributions(&self, tokens: &Tensor) -> Result<Option<Tensor>> {
        self.0.forward(tokens).map(Some)
    }
}
