//! Attention-based multiple-instance learning: every patch is embedded by itself, a gated attention says what each counts, and
//! one linear head reads the weighed mean for all genes at once.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    mil::{
        embedding::{Embedding, check_dropout},
        features::{FeatureDims, Reads},
        method::{ISG_SLIDE, Method, MethodSpec, with},
        network::{Aggregator, Dims, Input, Mode, Network, PatchMap},
        transformer::HEAD_GAIN,
    },
    nn::{Builder, gated_attention::GatedAttention, linear::Linear, vit::Sequences},
    preset::Preset,
    tensor::Tensor,
};

/// `[train.abmil]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abmil {
    /// Numbers of an embedded patch.
    pub hidden: usize,
    /// Numbers through which a patch is scored.
    pub attention: usize,
    /// Share of an embedded patch dropped in training.
    pub dropout: f64,
}

pub const SPEC: MethodSpec = MethodSpec {
    name: "abmil",
    title: "ABMIL",
    cites: "Ilse, Tomczak, Welling: Attention-based Deep Multiple Instance Learning. ICML 2018",
    slide: ISG_SLIDE,
    preset: |preset| {
        Arc::new(match preset {
            Preset::Paper => Abmil { hidden: 512, attention: 256, dropout: 0.25 },
            Preset::Small => Abmil { hidden: 64, attention: 32, dropout: 0.25 },
        })
    },
    training: |preset, config| {
        if preset == Preset::Paper {
            config.learning_rate = 1e-4;
        }
    },
    with: with::<Abmil>,
    cases: || vec![Arc::new(Abmil { hidden: 7, attention: 5, dropout: 0.25 })],
};

impl Method for Abmil {
    fn check(&self) -> Result<()> {
        if [self.hidden, self.attention].contains(&0) {
            return Err(Error::Usage("hidden and attention are at least 1".into()));
        }
        check_dropout(self.dropout)
    }

    fn reads(&self, _: FeatureDims) -> Reads {
        Reads::GLOBAL
    }

    /// Parameters `embed.*`, `attention.v.*`, `attention.u.*`, `attention.w.weight`, `head.*`.
    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        self.check()?;
        let widths = [dims.features.global, self.hidden];
        let embedding = Embedding::new(b, |_| "embed".into(), &widths, self.dropout)?;
        let attention = b.scope("attention", |b| GatedAttention::new(b, self.hidden, self.attention))?;
        let head = b.scope("head", |b| Linear::new(b, self.hidden, dims.genes, HEAD_GAIN))?;
        Ok(Network::new(Input::of(Reads::GLOBAL), embedding, WeighedMean { attention, head }))
    }
}

struct WeighedMean {
    attention: GatedAttention,
    head: Linear,
}

impl Aggregator for WeighedMean {
    fn pool(&self, tokens: &Tensor, slides: &Sequences, _: &mut Mode) -> Result<Tensor> {
        let [pooled, _] = self.attention.forward(tokens, slides)?;
        self.head.forward(&pooled.widened()?)
    }

    /// The head is linear and the weights sum to one.
    fn contributions(&self, tokens: &Tensor) -> Result<Option<Tensor>> {
        let n = tokens.shape().rows();
        let weights = self.attention.weights(tokens, &Sequences::new(&[n], tokens.device())?)?;
        let weighed = tokens.widened()?.mul(&weights.scale(n as f64)?.reshape([n, 1])?)?;
        self.head.forward(&weighed).map(Some)
    }

    fn maps(&self, tokens: &Tensor) -> Result<Vec<PatchMap>> {
        let slide = Sequences::new(&[tokens.shape().rows()], tokens.device())?;
        let values = self.attention.weights(tokens, &slide)?.to_vec()?;
        Ok(vec![PatchMap { name: PatchMap::ATTENTION.into(), values }])
    }
}
