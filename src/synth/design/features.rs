//! What an encoder would make of the patches: coarse and fine vectors that mix what is there with what means nothing.
//!
//! What is there enters a vector's numbers by a random matrix, beside nuisances of the patch and of the cell and the stain of
//! the site, through a hyperbolic tangent. Lymphocytes, which the hottest patches have many of, enter beside it: a mean over
//! patches then holds their number and not how it is spread.

use super::{
    super::random::Stream,
    SITES,
    bag::{Context, GRID, Patch, Region, Tissue},
};

/// Numbers of a vector.
pub const WIDTH: usize = 16;

const NUISANCES: usize = 4;
/// One-hot contexts and regions (`Other` is none).
const COARSE: usize = 3 + 4;
/// Plasma cell, granulocyte.
const FINE: usize = 2;
/// How far sites' stains, and slides' of one site, are apart, before the hyperbolic tangent.
const SITE_SHIFT: f64 = 0.2;
const SLIDE_SHIFT: f64 = 0.03;
const NUISANCE: f64 = 0.3;
const NOISE: f64 = 0.1;

/// A bag as models take it.
#[derive(Clone, PartialEq, Debug)]
pub struct Features {
    /// `[patches, d]`
    pub coarse: Vec<f32>,
    /// `[patches, g, g, d]`
    pub fine: Vec<f32>,
}

/// How the things of a cohort become numbers: the same for all patients, but for their site's stain.
pub(super) struct Scanner {
    coarse: Mix,
    fine: Mix,
}

impl Scanner {
    pub fn draw(seed: u64) -> Scanner {
        Scanner { coarse: Mix::draw(seed, "coarse", COARSE), fine: Mix::draw(seed, "fine", FINE) }
    }

    pub fn features(&self, tissue: &Tissue, site: usize, stream: &mut Stream) -> Features {
        let (coarse_stain, fine_stain) = (self.coarse.stain(site, stream), self.fine.stain(site, stream));
        let mut out = Features { coarse: Vec::new(), fine: Vec::new() };
        for patch in &tissue.patches {
            let nuisance: [f64; NUISANCES] = std::array::from_fn(|_| stream.normal());
            self.coarse.vector(
                &coarse_inputs(patch),
                patch.lymphocyte_share(),
                &nuisance,
                &coarse_stain,
                stream,
                &mut out.coarse,
            );
            for cell in 0..GRID * GRID {
                let inputs =
                    [patch.cells.plasma[cell], patch.cells.granulocyte[cell]].map(|is| f64::from(u8::from(is)));
                let lymphocyte = f64::from(u8::from(patch.cells.lymphocyte[cell]));
                let own = nuisance.map(|of_patch| 0.7 * of_patch + 0.7 * stream.normal());
                self.fine.vector(&inputs, lymphocyte, &own, &fine_stain, stream, &mut out.fine);
            }
        }
        out
    }
}

fn coarse_inputs(patch: &Patch) -> [f64; COARSE] {
    let contexts = [Context::Gland, Context::Nest, Context::Stroma].map(|c| c == patch.context);
    let regions = [Region::A, Region::B, Region::Tumour, Region::Aggregate].map(|r| r == patch.region);
    let mut inputs = [0.0; COARSE];
    inputs.iter_mut().zip(contexts.into_iter().chain(regions)).for_each(|(v, is)| *v = f64::from(u8::from(is)));
    inputs
}

/// The random matrices of one scale.
struct Mix {
    /// `[d, inputs]`
    things: Vec<Vec<f64>>,
    /// `[d]`
    lymphocytes: Vec<f64>,
    /// `[d, nuisances]`
    nuisances: Vec<Vec<f64>>,
    /// `[sites, d]`
    stains: Vec<Vec<f64>>,
}

impl Mix {
    fn draw(seed: u64, scale: &str, inputs: usize) -> Mix {
        let mut stream = Stream::new(seed, &format!("design {scale}"), 0);
        let mut matrix = |rows: usize, columns: usize, size: f64| -> Vec<Vec<f64>> {
            (0..rows).map(|_| (0..columns).map(|_| size * stream.normal()).collect()).collect()
        };
        Mix {
            things: matrix(WIDTH, inputs, 0.8),
            lymphocytes: matrix(1, WIDTH, 0.8).concat(),
            nuisances: matrix(WIDTH, NUISANCES, NUISANCE),
            stains: matrix(SITES, WIDTH, SITE_SHIFT),
        }
    }

    /// A slide's shift of every number.
    fn stain(&self, site: usize, stream: &mut Stream) -> Vec<f64> {
        self.stains[site].iter().map(|shift| shift + SLIDE_SHIFT * stream.normal()).collect()
    }

    fn vector(
        &self,
        things: &[f64],
        lymphocytes: f64,
        nuisance: &[f64; NUISANCES],
        stain: &[f64],
        stream: &mut Stream,
        out: &mut Vec<f32>,
    ) {
        let dot = |weights: &[f64], values: &[f64]| weights.iter().zip(values).map(|(w, v)| w * v).sum::<f64>();
        let rows = self.things.iter().zip(&self.nuisances).zip(self.lymphocytes.iter().zip(stain));
        out.extend(rows.map(|((of_things, of_nuisances), (of_lymphocytes, stain))| {
            let inside = dot(of_things, things) + dot(of_nuisances, nuisance) + stain;
            (inside.tanh() + of_lymphocytes * lymphocytes + NOISE * stream.normal()) as f32
        }));
    }
}
