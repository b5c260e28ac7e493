//! The attention fusion block (paper §3.3, fig. 3b): the global vector of a patch gates its local cube (eq. 3-5), and the
//! local cube renews the global vector (eq. 6-8).
//!
//! As printed, equations 5 and 8 replace cube and vector by their updates. Deep stacks of that train badly, and the
//! authors' sibling model (EGN) puts a layer normalisation before and a residual path around the same block, so both are
//! switches, on by default; off is the paper to the letter.

use crate::{
    device::nvtx,
    error::Result,
    nn::{
        builder::{Builder, Init},
        mbconv::RESIDUAL_GAIN,
        norm::{LAYER_EPS, LayerNorm},
    },
    tensor::Tensor,
};

/// Sizes and form of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FusionConfig {
    /// d: features of a cell and of the global vector.
    pub width: usize,
    /// p/q: cells per side of a cube.
    pub grid: usize,
    /// Adds the updates to what was there.
    pub residual: bool,
    /// Normalises cube and vector before they enter the equations.
    pub norm: bool,
    /// Renews the vector too. A block whose vector nobody reads has no parameters for that.
    pub global_update: bool,
}

/// W_q, W_k, W_v, W_r of the local and W_z, W_p, W_f of the global updater.
pub struct Fusion {
    norms: Option<[LayerNorm; 2]>,
    w_q: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    w_r: Tensor,
    global: Option<GlobalUpdate>,
    residual: bool,
}

struct GlobalUpdate {
    w_z: Tensor,
    w_p: Tensor,
    w_f: Tensor,
}

/// Where a block looks, per patch.
pub struct FusionMaps {
    /// A of eq. 4, averaged over the channels: `[n, g, g]`.
    pub score: Tensor,
    /// Z of eq. 6, which sums to one over a patch: `[n, g, g]`; `None` where the vector is not renewed.
    pub weight: Option<Tensor>,
}

impl Fusion {
    /// Parameters `w_q`, `w_z` `[g², d]`, the others `[d, d]` (applied on the right), and with normalisation
    /// `norm_local.*` and `norm_global.*`; no `w_z`, `w_p`, `w_f` where the vector is not renewed.
    pub fn new(b: &mut Builder, config: FusionConfig) -> Result<Fusion> {
        let FusionConfig { width, grid, residual, norm, global_update } = config;
        let deviation = 1.0 / (width.max(1) as f64).sqrt();
        let last = if residual { RESIDUAL_GAIN * deviation } else { deviation };
        let norms = match norm {
            true => Some([
                b.scope("norm_local", |b| LayerNorm::new(b, width, 1.0, LAYER_EPS))?,
                b.scope("norm_global", |b| LayerNorm::new(b, width, 1.0, LAYER_EPS))?,
            ]),
            false => None,
        };
        let cells = [grid * grid, width];
        let square = [width, width];
        Ok(Fusion {
            norms,
            w_q: b.param("w_q", cells, Init::Normal(deviation))?,
            w_k: b.param("w_k", square, Init::Normal(deviation))?,
            w_v: b.param("w_v", square, Init::Normal(deviation))?,
            w_r: b.param("w_r", square, Init::Normal(last))?,
            global: match global_update {
                true => Some(GlobalUpdate {
                    w_z: b.param("w_z", cells, Init::Normal(deviation))?,
                    w_p: b.param("w_p", square, Init::Normal(deviation))?,
                    w_f: b.param("w_f", square, Init::Normal(last))?,
                }),
                false => None,
            },
            residual,
        })
    }

    /// Cube `[n, g, g, d]` and vector `[n, d]` to their updates, both computed from the values before; `None` where the
    /// vector is not renewed.
    pub fn forward(&self, cube: &Tensor, global: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let _range = nvtx::range("fusion");
        let (r, f) = self.normalised(cube, global)?;
        let [w_q, w_k, w_v, w_r] = [&self.w_q, &self.w_k, &self.w_v, &self.w_r].map(|w| w.matching(&r));
        let local = r.local_feature_updater(&f, &w_q?, &w_k?, &w_v?, &w_r?)?;
        let update = |GlobalUpdate { w_z, w_p, w_f }: &GlobalUpdate| {
            r.global_feature_updater(&f, &w_z.matching(&r)?, &w_p.matching(&r)?, &w_f.matching(&r)?)
        };
        let renewed = self.global.as_ref().map(update).transpose()?;
        match self.residual {
            true => Ok((cube.add(&local)?, renewed.map(|renewed| global.add(&renewed)).transpose()?)),
            false => Ok((local, renewed)),
        }
    }

    /// Where the block looks, given what [`Fusion::forward`] is given.
    pub fn maps(&self, cube: &Tensor, global: &Tensor) -> Result<FusionMaps> {
        let (r, f) = self.normalised(cube, global)?;
        let (n, g) = (r.shape()[0], r.shape()[1]);
        let score =
            r.local_score_map(&f, &self.w_q.matching(&r)?, &self.w_k.matching(&r)?)?.mean(&[3])?.reshape([n, g, g])?;
        let weight = |update: &GlobalUpdate| r.global_weight_map(&f, &update.w_z.matching(&r)?)?.reshape([n, g, g]);
        Ok(FusionMaps { score, weight: self.global.as_ref().map(weight).transpose()? })
    }

    fn normalised(&self, cube: &Tensor, global: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok(match &self.norms {
            Some([local, of_global]) => (local.forward(cube)?, of_global.forward(global)?),
            None => (cube.clone(), global.clone()),
        })
    }
}
