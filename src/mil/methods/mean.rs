//! The mean of the training targets, whatever the slide shows: the error that a predictor must beat.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    mil::{
        features::{FeatureDims, Reads},
        method::{ClosedForm, Fit, ISG_SLIDE, Method, MethodSpec, TrainingData, with},
        network::{Aggregator, Dims, Input, Mode, Network, PatchEncoder, Patches},
    },
    nn::{
        builder::{Builder, Init},
        vit::Sequences,
    },
    shape::Shape,
    tensor::Tensor,
};

/// It has no keys.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mean {}

pub const SPEC: MethodSpec = MethodSpec {
    name: "mean",
    title: "mean of the training targets",
    cites: "",
    slide: ISG_SLIDE,
    preset: |_| Arc::new(Mean {}),
    training: |_, train| train.members = 1,
    with: with::<Mean>,
    cases: || vec![Arc::new(Mean {})],
};

impl Method for Mean {
    /// Something must be read for a patch to count.
    fn reads(&self, available: FeatureDims) -> Reads {
        if available.global > 0 { Reads::GLOBAL } else { Reads::CUBE }
    }

    /// Parameter `mean` `[1, genes]`.
    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        let mean = b.param("mean", [1, dims.genes], Init::Constant(0.0))?;
        let input = Input::of(self.reads(dims.features));
        Ok(Network::new(input, EveryPatch(mean.clone()), EverySlide(mean)))
    }

    fn fit(&self) -> Fit<'_> {
        Fit::Closed(self)
    }
}

impl ClosedForm for Mean {
    fn solve(&self, data: &TrainingData) -> Result<Vec<(String, Shape, Vec<f64>)>> {
        let rows: Vec<Vec<f64>> = data.slides.iter().map(|&slide| data.targets_of(slide)).collect();
        let genes = data.set.genes.len();
        let mean = |gene: usize| {
            let known: Vec<f64> = rows.iter().map(|row| row[gene]).filter(|v| v.is_finite()).collect();
            known.iter().sum::<f64>() / known.len().max(1) as f64
        };
        Ok(vec![("mean".into(), [1, genes].into(), (0..genes).map(mean).collect())])
    }
}

/// Every patch says the mean.
struct EveryPatch(Tensor);

impl PatchEncoder for EveryPatch {
    fn tokens(&self, patches: &Patches, _: &mut Mode) -> Result<Tensor> {
        let n = patches.global().or_else(|_| patches.cube())?.shape()[0];
        let first = Tensor::from_vec(vec![0i32; n], [n], self.0.device())?;
        self.0.gather_rows(&first)
    }
}

struct EverySlide(Tensor);

impl Aggregator for EverySlide {
    fn pool(&self, _: &Tensor, slides: &Sequences, _: &mut Mode) -> Result<Tensor> {
        let n = slides.lengths().len();
        let first = Tensor::from_vec(vec![0i32; n], [n], self.0.device())?;
        self.0.gather_rows(&first)
    }

    fn contributions(&self, tokens: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(tokens.clone()))
    }
}
