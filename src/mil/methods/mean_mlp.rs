//! An MLP on the mean of a slide's global vectors: with two hidden layers of sigmoids the classifier of the
//! paper's table 3 (HE2RNA's for MSI), with one of ReLU the probe of table 5.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    activation::Activation,
    error::{Error, Result},
    mil::{
        embedding::GlobalVectors,
        features::{FeatureDims, Reads},
        method::{ISG_SLIDE, Method, MethodSpec, with},
        network::{Aggregator, Dims, Input, Mode, Network},
        transformer::HEAD_GAIN,
    },
    nn::{builder::Builder, linear::Linear, vit::Sequences},
    preset::Preset,
    tensor::Tensor,
};

/// `[train.mean-mlp]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeanMlp {
    /// Widths of the hidden layers.
    pub hidden: Vec<usize>,
    pub activation: Activation,
    /// Share of the values dropped in training, after every hidden layer.
    pub dropout: f64,
}

pub const SPEC: MethodSpec = MethodSpec {
    name: "mean-mlp",
    title: "MLP on mean features",
    cites: "Schmauch et al.: A deep learning model to predict RNA-Seq expression of tumours from whole slide images. \
            Nature Communications 2020",
    slide: ISG_SLIDE,
    preset: |preset| {
        let (hidden, dropout) = match preset {
            Preset::Paper => (vec![512], 0.0),
            Preset::Small => (vec![32], 0.1),
        };
        Arc::new(MeanMlp { hidden, activation: Activation::Relu, dropout })
    },
    training: |_, train| train.members = 1,
    with: with::<MeanMlp>,
    cases: || {
        let case = |hidden, activation| Arc::new(MeanMlp { hidden, activation, dropout: 0.1 }) as Arc<dyn Method>;
        vec![case(vec![7], Activation::Relu), case(vec![6, 5], Activation::Sigmoid)]
    },
};

impl Method for MeanMlp {
    fn check(&self) -> Result<()> {
        if self.hidden.is_empty() || self.hidden.contains(&0) || !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::Usage("hidden holds widths of at least 1, dropout goes from 0 to below 1".into()));
        }
        Ok(())
    }

    fn reads(&self, _: FeatureDims) -> Reads {
        Reads::GLOBAL
    }

    /// Parameters `hidden.{i}.*`, `head.*`.
    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        self.check()?;
        let mut width = dims.features.global;
        let mut hidden = Vec::new();
        for (i, &wider) in self.hidden.iter().enumerate() {
            // Keeps the variance through a ReLU.
            hidden.push(b.scope(&format!("hidden.{i}"), |b| Linear::new(b, width, wider, std::f64::consts::SQRT_2))?);
            width = wider;
        }
        let head = b.scope("head", |b| Linear::new(b, width, dims.genes, HEAD_GAIN))?;
        let mlp = MeanThenMlp { hidden, activation: self.activation, head, dropout: self.dropout };
        Ok(Network::new(Input::of(Reads::GLOBAL), GlobalVectors, mlp))
    }
}

struct MeanThenMlp {
    hidden: Vec<Linear>,
    activation: Activation,
    head: Linear,
    dropout: f64,
}

impl Aggregator for MeanThenMlp {
    fn pool(&self, tokens: &Tensor, slides: &Sequences, mode: &mut Mode) -> Result<Tensor> {
        let mut x = tokens.segment_mean(slides.offsets())?;
        for layer in &self.hidden {
            x = mode.dropout(layer.forward_activated(&x, self.activation)?, self.dropout)?;
        }
        self.head.forward(&x.widened()?)
    }
}
