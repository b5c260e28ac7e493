//! A cohort of bags whose genes need different things of a model: who must predict a gene, and who must not, is written down
//! before any model is trained.
//!
//! Bags of patch features, drawn without pixels: a patch has a coarse vector, a cube of 4 x 4 fine vectors, and a place. Each
//! gene follows one thing that is in the bag, and everything simpler is held constant: the sums that a model of means sees are
//! the same for every patient, to the last cell.
//!
//! | gene | follows | to be seen by |
//! |---|---|---|
//! | MEAN | share of lymphocytes | anything that averages |
//! | FOCUS | their share in the hottest 5 % of patches, the mean drawn independently | pooling that weighs patches |
//! | CONTEXT | plasma cells of gland patches less those of stroma patches; both marginals constant | coarse and fine vectors of one patch together |
//! | SPOT | whether a patch's four granulocytes stand together | convolution over the cube |
//! | PAIR | the smaller of the shares of A and B patches, whose sum is constant | what is no sum over patches |
//! | NEAR | share of tumour patches within 300 µm of an aggregate; all shares constant | places |
//! | NULL | nothing | nobody |
//! | SITE | the site | whoever is tested on the sites it has seen |
//!
//! Plasma cells and granulocytes are too small for the coarse vector: a model of coarse vectors alone sees neither. A target is
//! its truth, standardised over the cohort, plus noise of half a standard deviation: the truth itself correlates at 0.894.

mod bag;
mod features;

pub use bag::{Cells, Context, GRID, PITCH_UM, Patch, REACH_UM, Region, Tissue};
pub use features::{Features, WIDTH};

use super::random::Stream;

pub const GENES: [&str; 8] = ["MEAN", "FOCUS", "CONTEXT", "SPOT", "PAIR", "NEAR", "NULL", "SITE"];

/// In standard deviations of the truth.
pub const NOISE: f64 = 0.5;
/// Each of an equal part of the patients.
pub const SITES: usize = 20;

/// What must come out where methods are compared on a gene, by the names of their registry.
#[derive(Clone, Copy, Debug)]
pub struct Expectation {
    pub gene: &'static str,
    /// Must predict it, and better than each in `fail`: the paired interval of the difference lies above zero.
    pub win: &'static [&'static str],
    /// Miss what it follows. Where nobody wins, they see nothing at all.
    pub fail: &'static [&'static str],
}

/// Written down before any of these was trained. A method that a row does not name may do either.
pub const EXPECTED: [Expectation; 8] = [
    Expectation { gene: "MEAN", win: &["isg", "vit-s", "he2rna", "abmil", "mean-mlp", "ridge"], fail: &["mean"] },
    Expectation { gene: "FOCUS", win: &["he2rna", "abmil", "isg"], fail: &["ridge", "mean-mlp", "mean"] },
    Expectation {
        gene: "CONTEXT",
        win: &["isg"],
        fail: &["vit-s", "vit-mb", "he2rna", "abmil", "mean-mlp", "ridge", "mean"],
    },
    Expectation {
        gene: "SPOT",
        win: &["isg", "vit-mb", "cyclemlp", "mpvit"],
        fail: &["vit-s", "he2rna", "abmil", "mean-mlp", "ridge", "mean"],
    },
    Expectation { gene: "PAIR", win: &["isg", "vit-s", "mean-mlp"], fail: &["he2rna", "ridge", "mean"] },
    Expectation { gene: "NEAR", win: &[], fail: &["isg", "vit-s", "he2rna", "abmil", "mean-mlp", "ridge", "mean"] },
    Expectation { gene: "NULL", win: &[], fail: &["isg", "vit-s", "he2rna", "abmil", "mean-mlp", "ridge", "mean"] },
    Expectation { gene: "SITE", win: &["ridge", "mean-mlp"], fail: &["mean"] },
];

/// One patient: one bag.
#[derive(Clone, Debug, PartialEq)]
pub struct Patient {
    pub name: String,
    /// Place of the site, below [`SITES`].
    pub site: usize,
    pub tissue: Tissue,
    pub features: Features,
    /// What each gene follows, standardised over the cohort.
    pub truth: [f64; GENES.len()],
    pub targets: [f64; GENES.len()],
}

/// Draws the cohort of this seed. Each patient is a function of the seed and of their number, but for the standardisation.
pub fn draw(patients: usize, seed: u64) -> Vec<Patient> {
    let scanner = features::Scanner::draw(seed);
    let of_site: Vec<f64> = (0..SITES).map(|site| Stream::new(seed, "design site", site as u64).normal()).collect();
    let mut cohort: Vec<Patient> = (0..patients)
        .map(|index| {
            let mut stream = Stream::new(seed, "design patient", index as u64);
            let (site, tissue) = (index % SITES, Tissue::draw(&mut stream));
            let features = scanner.features(&tissue, site, &mut stream);
            let statistics = tissue.statistics();
            let truth = [
                statistics.mean,
                statistics.focus,
                statistics.context,
                statistics.spot,
                statistics.pair,
                statistics.near,
                stream.normal(),
                of_site[site],
            ];
            let targets = std::array::from_fn(|_| NOISE * stream.normal());
            Patient { name: format!("D{index:04}"), site, tissue, features, truth, targets }
        })
        .collect();
    for gene in 0..GENES.len() {
        let n = patients.max(1) as f64;
        let mean = cohort.iter().map(|p| p.truth[gene]).sum::<f64>() / n;
        let deviation = (cohort.iter().map(|p| (p.truth[gene] - mean).powi(2)).sum::<f64>() / n).sqrt();
        for patient in &mut cohort {
            patient.truth[gene] = (patient.truth[gene] - mean) / deviation.max(1e-12);
            patient.targets[gene] += patient.truth[gene];
        }
    }
    cohort
}
