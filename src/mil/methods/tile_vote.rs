//! Votes of tiles: every tile is called by itself, trained with its patient's label, and a slide's score is the share of its tiles
//! that are called positive, as MSIfromHE does over a ResNet18.
//!
//! Here the network under the votes is the run's encoder, which stays as it is, and layers on its vectors learn; the authors tune
//! the last ten layers of the ResNet itself.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    mil::{
        embedding::{Embedding, check_dropout},
        features::{FeatureDims, Reads},
        method::{ISG_SLIDE, Method, MethodSpec, with},
        network::{Aggregator, Dims, Input, Mode, Network},
        transformer::HEAD_GAIN,
    },
    nn::{Builder, linear::Linear, vit::Sequences},
    preset::Preset,
    tensor::Tensor,
};

/// `[train.tile-vote]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TileVote {
    /// Widths of hidden layers; none: one linear layer on the vectors.
    pub hidden: Vec<usize>,
    /// Share of each hidden layer dropped in training.
    pub dropout: f64,
}

pub const SPEC: MethodSpec = MethodSpec {
    name: "tile-vote",
    title: "Votes of tiles",
    cites: "Kather et al.: Deep learning can predict microsatellite instability directly from histology. Nature Medicine 2019",
    slide: ISG_SLIDE,
    preset: |preset| {
        Arc::new(match preset {
            Preset::Paper => TileVote { hidden: vec![256], dropout: 0.25 },
            Preset::Small => TileVote { hidden: vec![32], dropout: 0.25 },
        })
    },
    training: |_, train| train.members = 1,
    with: with::<TileVote>,
    cases: || {
        vec![Arc::new(TileVote { hidden: vec![6], dropout: 0.25 }), Arc::new(TileVote { hidden: vec![], dropout: 0.0 })]
    },
};

impl Method for TileVote {
    fn check(&self) -> Result<()> {
        if self.hidden.contains(&0) {
            return Err(Error::Usage("hidden holds widths of at least 1".into()));
        }
        check_dropout(self.dropout)
    }

    fn reads(&self, _: FeatureDims) -> Reads {
        Reads::GLOBAL
    }

    fn wants_labels(&self) -> bool {
        true
    }

    /// Parameters `hidden.{i}.*`, `head.*`.
    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        self.check()?;
        let widths: Vec<usize> = [dims.features.global].into_iter().chain(self.hidden.iter().copied()).collect();
        let embedding = Embedding::new(b, |i| format!("hidden.{i}"), &widths, self.dropout)?;
        let head = b.scope("head", |b| Linear::new(b, widths[widths.len() - 1], dims.genes, HEAD_GAIN))?;
        let network = Network::new(Input::of(Reads::GLOBAL), embedding, Votes { head });
        Ok(Network { patchwise: true, ..network })
    }
}

struct Votes {
    head: Linear,
}

/// Keeps the logit of a share finite: one tile in a thousand more of either kind.
const PRIOR: f64 = 1e-3;

impl Aggregator for Votes {
    /// In training a logit for every tile; else the logit of the share of tiles whose own is above 0.
    fn pool(&self, tokens: &Tensor, slides: &Sequences, mode: &mut Mode) -> Result<Tensor> {
        let logits = self.head.forward(&tokens.widened()?)?;
        if mode.is_training() {
            return Ok(logits);
        }
        let share = logits.sign()?.segment_mean(slides.offsets())?.affine(0.5, 0.5)?;
        let share = share.affine(1.0 - 2.0 * PRIOR, PRIOR)?;
        share.log()?.sub(&share.affine(-1.0, 1.0)?.log()?)
    }
}
