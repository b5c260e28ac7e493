//! Selector `dog`: the energy of the difference of two Gaussians ([`super::gaussian`]).

use serde::{Deserialize, Serialize};

use super::{
    gaussian::{BandPass, BandPassScore},
    selector::{self, Flag, Parameters, Score, Selector, SelectorSpec},
};
use crate::{device::Device, error::Result};

pub static SPEC: SelectorSpec = SelectorSpec {
    name: "dog",
    title: "DoG",
    unit: "squared grey levels",
    counts_bits: false,
    flags: &[Flag {
        long: "blur",
        key: "sigma_px",
        value_name: Some("PX"),
        help: "dog, log: standard deviation of the (narrower) Gaussian [default: 1 for dog, 2 for log]",
    }],
    short_keys: &[],
    with: |parameters| selector::with::<Dog>("dog", parameters),
};

/// Difference of Gaussians.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dog {
    /// Standard deviation of the narrower Gaussian.
    pub sigma_px: f64,
}

impl Default for Dog {
    fn default() -> Dog {
        Dog { sigma_px: 1.0 }
    }
}

impl Dog {
    /// # Errors
    /// A standard deviation that cannot be.
    pub fn filter(&self) -> Result<BandPass> {
        BandPass::difference("dog", self.sigma_px)
    }
}

impl Selector for Dog {
    fn spec(&self) -> &'static SelectorSpec {
        &SPEC
    }

    fn key(&self) -> String {
        format!("dog {} px", self.sigma_px)
    }

    fn parameters(&self) -> Parameters {
        selector::parameters(self)
    }

    fn check(&self) -> Result<()> {
        self.filter().map(drop)
    }

    fn scorer(&self, device: &Device) -> Result<Box<dyn Score>> {
        Ok(Box::new(BandPassScore::new(self.filter()?, device)))
    }
}
