//! HE2RNA: every tile is scored for every gene by itself, and a gene's expression is the mean of its highest scores. How many
//! count, k, is drawn anew at every step of the training; a prediction is the mean over all of them.
//!
//! A whole cancer's slides are learned from super-tiles, means over clusters of neighbouring tiles; a gene group is then tuned
//! on the tiles themselves, with a k for their larger number.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    mil::{
        clusters::{By, clustered},
        embedding::{Embedding, check_dropout},
        features::{FeatureDims, PatchFeatures, Reads},
        method::{Method, MethodSpec, Rows, with},
        network::{Aggregator, Dims, Input, Mode, Network},
        transformer::HEAD_GAIN,
    },
    nn::{Builder, linear::Linear, vit::Sequences},
    preset::Preset,
    tensor::Tensor,
};

/// `[train.he2rna]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct He2rna {
    /// Widths of the two hidden layers.
    pub hidden: [usize; 2],
    /// Clusters of a slide's tiles, by their places, whose means stand for them; 0: the tiles themselves.
    pub supertiles: usize,
    /// How many scores count: one of these at every step. More than there are rows means all of them.
    pub ks: Vec<usize>,
    /// The same for tiles, to which tuning goes over.
    pub tile_ks: Vec<usize>,
    /// Share of each hidden layer dropped in training.
    pub dropout: f64,
}

impl He2rna {
    /// As published.
    pub fn paper() -> He2rna {
        He2rna {
            hidden: [256, 256],
            supertiles: 100,
            ks: vec![1, 2, 5, 10, 20, 50, 100],
            tile_ks: vec![10, 20, 50, 100, 200, 500, 1000, 2000, 5000],
            dropout: 0.25,
        }
    }

    /// For slides of tens of patches.
    pub fn small() -> He2rna {
        He2rna {
            hidden: [64, 64],
            supertiles: 16,
            ks: vec![1, 2, 5, 10],
            tile_ks: vec![2, 5, 10, 20, 50],
            ..He2rna::paper()
        }
    }
}

pub const SPEC: MethodSpec = MethodSpec {
    name: "he2rna",
    title: "HE2RNA",
    cites: "Schmauch et al.: A deep learning model to predict RNA-Seq expression of tumours from whole slide images. \
            Nature Communications 2020",
    slide: (100, FeatureDims { global: 2048, cell: 0, grid: 0 }),
    preset: |preset| {
        Arc::new(match preset {
            Preset::Paper => He2rna::paper(),
            Preset::Small => He2rna::small(),
        })
    },
    training: |preset, config| {
        if preset == Preset::Paper {
            config.max_patches = 0;
            config.learning_rate = 3e-4;
            config.weight_decay = 0.0;
            config.batch_slides = 16;
            config.epochs = 200;
            config.patience = 50;
            config.fine_tune.epochs = 100;
            config.fine_tune.patience = 30;
        }
    },
    with: with::<He2rna>,
    cases: || {
        let tiles = He2rna { hidden: [6, 5], supertiles: 0, ks: vec![1, 3, 40], ..He2rna::small() };
        vec![Arc::new(He2rna { supertiles: 3, ..tiles.clone() }), Arc::new(tiles)]
    },
};

impl Method for He2rna {
    fn check(&self) -> Result<()> {
        if self.hidden.contains(&0) {
            return Err(Error::Usage("hidden holds two widths of at least 1".into()));
        }
        for (key, ks) in [("ks", &self.ks), ("tile_ks", &self.tile_ks)] {
            if ks.is_empty() || ks.contains(&0) {
                return Err(Error::Usage(format!("{key} holds at least one k, each at least 1")));
            }
        }
        check_dropout(self.dropout)
    }

    /// Places too, by which tiles are clustered.
    fn reads(&self, _: FeatureDims) -> Reads {
        Reads { coords: self.supertiles > 0, ..Reads::GLOBAL }
    }

    /// Parameters `hidden.0.*`, `hidden.1.*`, `head.*`.
    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        self.check()?;
        let widths = [dims.features.global, self.hidden[0], self.hidden[1]];
        let embedding = Embedding::new(b, |i| format!("hidden.{i}"), &widths, self.dropout)?;
        let head = b.scope("head", |b| Linear::new(b, self.hidden[1], dims.genes, HEAD_GAIN))?;
        let network = Network::new(Input::of(Reads::GLOBAL), embedding, TopK { head, ks: self.ks.clone() });
        Ok(Network { variants: self.ks.len(), ..network })
    }

    fn rows(&self, features: &dyn PatchFeatures) -> Result<Option<Rows>> {
        match self.supertiles {
            0 => Ok(None),
            count => clustered(features, By::Places, count).map(Some),
        }
    }

    fn tuned(&self) -> Option<Arc<dyn Method>> {
        let ks = self.tile_ks.clone();
        (self.supertiles > 0).then(|| Arc::new(He2rna { supertiles: 0, ks, ..self.clone() }) as Arc<dyn Method>)
    }
}

/// A score per row and gene; per gene the mean of the k highest of a slide.
struct TopK {
    head: Linear,
    ks: Vec<usize>,
}

impl Aggregator for TopK {
    fn pool(&self, tokens: &Tensor, slides: &Sequences, mode: &mut Mode) -> Result<Tensor> {
        let scores = self.head.forward(&tokens.widened()?)?;
        let mean = |k: usize| scores.segment_topk_mean(slides.offsets(), k);
        match mode.variant() {
            Some(drawn) => mean(self.ks[drawn]),
            None => {
                let mut sum = mean(self.ks[0])?;
                for &k in &self.ks[1..] {
                    sum = sum.add(&mean(k)?)?;
                }
                sum.scale(1.0 / self.ks.len() as f64)
            }
        }
    }

    /// A row counts with its score as often as it is among the k highest.
    fn contributions(&self, tokens: &Tensor) -> Result<Option<Tensor>> {
        let scores = self.head.forward(&tokens.widened()?)?;
        let (n, genes) = (scores.shape().rows(), scores.shape().last());
        let mut values = scores.to_vec::<f64>()?;
        // Of the row at each rank: the share of the means that it is in, times the number of rows, whose mean is taken.
        let share = |k: usize, rank: usize| if rank < k { 1.0 / k.min(n) as f64 } else { 0.0 };
        let weight =
            |rank: usize| n as f64 / self.ks.len() as f64 * self.ks.iter().map(|&k| share(k, rank)).sum::<f64>();
        let weights: Vec<f64> = (0..n).map(weight).collect();
        for gene in 0..genes {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| values[b * genes + gene].total_cmp(&values[a * genes + gene]));
            order.iter().zip(&weights).for_each(|(&row, weight)| values[row * genes + gene] *= weight);
        }
        Tensor::from_f64(&values, [n, genes], scores.dtype(), scores.device()).map(Some)
    }
}
