//! Slides on which it matters which patches are looked at: genes live in nests, beside large areas that mean nothing and that
//! each fool another rule of selection.
//!
//! | area | share of the tissue | fools |
//! |---|---|---|
//! | nests | 15 to 40 % | nobody: the genes are here |
//! | pools, smooth and dark | 0 to 25 % | whoever keeps what is dark (Otsu) |
//! | out of focus | 0 to 40 %, nests spared | the same |
//! | folds, sharp lines | 0 to 8 of them | gradients, Canny, DoG |
//! | dust on glass, noise | 0 to 60 % of the glass | LoG, and lossless codecs |
//! | decoys, nests without chromatin | 0 to 25 % | averages over everything |
//!
//! | gene | follows |
//! |---|---|
//! | NEST | size of the chromatin's clumps in the nests' nuclei |
//! | RATE | share of dividing cells among dividing and dying ones, whose number is constant per mm² of nest |
//! | MEAN | lymphocytes per mm² of tissue, those of decoys excepted |
//! | CONTEXT | share of those lymphocytes that lies in nests |
//! | NULL | nothing |
//! | SITE | the laboratory |
//!
//! All shares are drawn independently for every patient. NEST and RATE change where dark pixels lie and neither how many there
//! are nor how dark: statistics of colour see nothing of them (a test holds it). `patches.csv` says what every 128 px patch
//! holds, and gives it a random number: the selector `table` on the column `nest` is the oracle, on `random` it is chance, and every
//! other selector lies between them.

mod layout;
mod paint;
mod tables;

use super::{MPP, SynthOptions, appearance::Appearance, random::Stream};
use crate::image::RgbImage;
pub use layout::{Compartment, Layout, Truth};
pub use tables::generate;

pub const GENES: [&str; 6] = ["NEST", "RATE", "MEAN", "CONTEXT", "NULL", "SITE"];
/// Side of the patches that `patches.csv` describes.
pub const PATCH_PX: usize = 128;

const SITES: [&str; 12] = ["SA", "SB", "SC", "SD", "SE", "SF", "SG", "SH", "SI", "SJ", "SK", "SL"];
/// In standard deviations of the truth: it correlates with its gene at 0.894.
const NOISE: f64 = 0.5;
/// log10(1 + x) of an average patient, and its change for one standard deviation.
const LEVEL: f64 = 1.5;
const SLOPE: f64 = 0.35;

/// What a slide should show; every number is drawn independently.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Morphology {
    pub nest_share: f64,
    pub pool_share: f64,
    pub decoy_share: f64,
    pub blur_share: f64,
    pub folds: usize,
    pub dust_share: f64,
    /// NEST, from fine to coarse.
    pub texture: f64,
    /// RATE.
    pub dividing_share: f64,
    /// MEAN.
    pub lymphocyte_per_mm2: f64,
    /// CONTEXT.
    pub lymphocytes_in_nests: f64,
    pub decoy_lymphocyte_per_mm2: f64,
}

/// One patient and their slide.
#[derive(Clone, Debug)]
pub struct Plan {
    pub index: usize,
    pub barcode: String,
    pub site: usize,
    pub morphology: Morphology,
}

impl Plan {
    pub fn slide(&self) -> String {
        format!("{}-01Z-00-DX1", self.barcode)
    }

    pub fn draw(seed: u64, index: usize) -> Plan {
        let mut stream = Stream::new(seed, "modules patient", index as u64);
        let site = stream.below(SITES.len());
        let mut uniform = |low, high| stream.uniform(low, high);
        let morphology = Morphology {
            nest_share: uniform(0.15, 0.4),
            pool_share: uniform(0.0, 0.25),
            decoy_share: uniform(0.0, 0.25),
            blur_share: uniform(0.0, 0.4),
            folds: uniform(0.0, 9.0) as usize,
            dust_share: uniform(0.0, 0.6),
            texture: uniform(0.0, 1.0),
            dividing_share: uniform(0.0, 1.0),
            lymphocyte_per_mm2: uniform(200.0, 1000.0),
            lymphocytes_in_nests: uniform(0.15, 0.85),
            decoy_lymphocyte_per_mm2: uniform(0.0, 2500.0),
        };
        Plan { index, barcode: format!("TCGA-{}-{:04}", SITES[site], index + 1), site, morphology }
    }

    pub fn layout(&self, options: &SynthOptions) -> (Layout, Truth) {
        let mut stream = Stream::new(options.seed, "modules layout", self.index as u64);
        Layout::plan((options.size_px as f64 * MPP) as f32, &self.morphology, &mut stream)
    }

    pub fn paint(&self, layout: &Layout, options: &SynthOptions) -> (RgbImage, Appearance) {
        let mut site = Stream::new(options.seed, "modules site", self.site as u64);
        let mut slide = Stream::new(options.seed, "modules appearance", self.index as u64);
        let appearance = Appearance::draw(layout.size_um, &mut site, &mut slide);
        let mut stream = Stream::new(options.seed, "modules paint", self.index as u64);
        let texture = self.morphology.texture as f32;
        (paint::paint(layout, texture, &appearance, options.size_px, MPP as f32, &mut stream), appearance)
    }

    /// log10(1 + x) of the genes, standardised by the population's constants, before noise.
    pub fn signals(&self, truth: &Truth, seed: u64) -> [f64; GENES.len()] {
        let standard = |value: f64, low: f64, high: f64| (value - 0.5 * (low + high)) / ((high - low) / 12f64.sqrt());
        let lymphocytes = truth.lymphocytes[0] + truth.lymphocytes[1];
        let figures = (truth.dividing + truth.dying).max(1) as f64;
        let mut stream = Stream::new(seed, "modules null", self.index as u64);
        [
            standard(self.morphology.texture, 0.0, 1.0),
            standard(truth.dividing as f64 / figures, 0.0, 1.0),
            standard(lymphocytes as f64 / truth.tissue_mm2, 200.0, 1000.0),
            standard(truth.lymphocytes[0] as f64 / lymphocytes.max(1) as f64, 0.15, 0.85),
            stream.normal(),
            Stream::new(seed, "modules site value", self.site as u64).normal(),
        ]
    }

    /// FPKM-like expression.
    pub fn expression(&self, truth: &Truth, seed: u64) -> [f64; GENES.len()] {
        let mut stream = Stream::new(seed, "modules expression", self.index as u64);
        self.signals(truth, seed).map(|signal| {
            let noisy = signal + NOISE * stream.normal().clamp(-4.0, 4.0);
            10f64.powf((LEVEL + SLOPE * noisy).max(0.01)) - 1.0
        })
    }
}
