//! Ridge regression on the mean colours of a slide's patches: what every method has to be better than, whatever encoder it is given.
//!
//! It reads the patches themselves, not their features: seventeen statistics of stain each ([`crate::encoder::colour`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ridge::Ridge;
use crate::{
    encoder::colour::{self, WIDTH},
    error::Result,
    mil::{
        features::{FeatureDims, HostFeatures, PatchFeatures, PatchValues, Reads},
        method::{ClosedForm, Fit, ISG_SLIDE, Method, MethodSpec, Rows, TrainingData, with},
        network::{Dims, Network},
    },
    nn::builder::Builder,
    shape::Shape,
};

/// It has no keys.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Colour {}

pub const SPEC: MethodSpec = MethodSpec {
    name: "colour",
    title: "ridge regression on mean colours",
    cites: "stains after Macenko et al. 2009",
    preset: |_| Arc::new(Colour {}),
    slide: ISG_SLIDE,
    training: |_, train| train.members = 1,
    with: with::<Colour>,
    cases: || vec![Arc::new(Colour {})],
};

/// Patches whose pixels are held at a time.
const PATCHES_A_READ: usize = 16;

impl Method for Colour {
    /// The statistics, and of patches' features nothing.
    fn reads(&self, available: FeatureDims) -> Reads {
        Reads { global: available == self.row_dims(available), ..Reads::default() }
    }

    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        Ridge {}.network(b, dims)
    }

    fn fit(&self) -> Fit<'_> {
        Fit::Closed(self)
    }

    fn rows(&self, features: &dyn PatchFeatures) -> Result<Option<Rows>> {
        let patches: Vec<usize> = (0..features.patches()).collect();
        let mut global = Vec::with_capacity(patches.len() * WIDTH);
        for part in patches.chunks(PATCHES_A_READ) {
            global.extend(colour::of_images(&features.pixels(part)?)?);
        }
        let values = PatchValues { global, ..PatchValues::default() };
        Ok(Some(Rows { features: HostFeatures { patches: patches.len(), values }, of_patch: patches }))
    }

    fn row_dims(&self, _: FeatureDims) -> FeatureDims {
        FeatureDims { global: WIDTH, cell: 0, grid: 0 }
    }
}

impl ClosedForm for Colour {
    fn solve(&self, data: &TrainingData) -> Result<Vec<(String, Shape, Vec<f64>)>> {
        Ridge {}.solve(data)
    }
}
