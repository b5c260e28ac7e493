//! Selector `log`: the energy of the Laplacian of Gaussian ([`super::gaussian`]).

use serde::{Deserialize, Serialize};

use super::{
    gaussian::{BandPass, BandPassScore},
    selector::{self, Flag, Parameters, Score, Selector, SelectorSpec},
};
use crate::{device::Device, error::Result};

pub static SPEC: SelectorSpec = SelectorSpec {
    name: "log",
    title: "LoG",
    unit: "squared grey levels",
    counts_bits: false,
    flags: &[Flag {
        long: "blur",
        key: "sigma_px",
        value_name: Some("PX"),
        help: "dog, log: standard deviation of the (narrower) Gaussian [default: 1 for dog, 2 for log]",
    }],
    short_keys: &[],
    with: |parameters| selector::with::<Log>("log", parameters),
};

/// Laplacian of Gaussian.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Standard deviation of the Gaussian.
    pub sigma_px: f64,
}

impl Default for Log {
    fn default() -> Log {
        Log { sigma_px: 2.0 }
    }
}

impl Log {
    /// # Errors
    /// A standard deviation that cannot be.
    pub fn filter(&self) -> Result<BandPass> {
        BandPass::laplacian("log", self.sigma_px)
    }
}

impl Selector for Log {
    fn spec(&self) -> &'static SelectorSpec {
        &SPEC
    }

    fn key(&self) -> String {
        format!("log {} px", self.sigma_px)
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
