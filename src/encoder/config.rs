//! `[encoder]` of a run: which encoder, with which settings, and what a run makes of it.
//!
//! ```toml
//! [encoder]
//! kind = "resnet50"           # one of the list
//! weights = "resnet50.pth"    # .pth or safetensors; "random" draws
//! tile_px = 224               # side that patches are resized to
//! cells = true                # cubes too, of the same encoder on every fine patch
//! pool = "mean_sd"            # or "patch": the global vector is that of the whole patch
//! ```

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ENCODERS, Encoder, Parameters, named};
use crate::error::{Error, Result};

/// What the global vector of a patch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// That of the patch as one image.
    #[default]
    Patch,
    /// Mean and standard deviation over its cells of each of the encoder's numbers, `[2 d]`: small cells see nuclei that
    /// a whole patch, resized, has lost.
    MeanSd,
}

/// The encoder of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Parameters", into = "Parameters")]
pub struct EncoderConfig {
    pub encoder: Arc<dyn Encoder>,
    /// µm per pixel at which patches are cut, where `[select]` does not say; 0 for level-0 pixels.
    pub mpp: Option<f64>,
    pub pool: Pool,
    /// Whether patches also get a cube, their fine patches encoded one by one.
    pub cells: bool,
}

impl EncoderConfig {
    /// The encoder with what goes with it by default.
    pub fn of(encoder: Arc<dyn Encoder>) -> EncoderConfig {
        let cells = encoder.cells_by_default();
        EncoderConfig { encoder, mpp: None, pool: Pool::default(), cells }
    }

    /// Whether any fine patch is encoded: for cubes, or for global vectors pooled from them.
    pub fn encodes_cells(&self) -> bool {
        self.cells || self.pool == Pool::MeanSd
    }

    /// Whether any whole patch is encoded.
    pub fn encodes_patches(&self) -> bool {
        self.pool == Pool::Patch
    }

    /// Makes every path of the encoder's what `settle` makes of it.
    pub fn resolve(&mut self, settle: &dyn Fn(&Path) -> PathBuf) {
        if let Some(resolved) = self.encoder.resolved(settle) {
            self.encoder = resolved;
        }
    }
}

impl Default for EncoderConfig {
    fn default() -> EncoderConfig {
        // The first of the list has a default for all of its settings.
        let first = (ENCODERS[0].with)(Parameters::new());
        EncoderConfig::of(first.unwrap_or_else(|_| Arc::new(super::isg::Isg {})))
    }
}

impl PartialEq for EncoderConfig {
    fn eq(&self, other: &EncoderConfig) -> bool {
        *self.encoder == *other.encoder && (self.mpp, self.pool, self.cells) == (other.mpp, other.pool, other.cells)
    }
}

impl From<EncoderConfig> for Parameters {
    fn from(config: EncoderConfig) -> Parameters {
        let mut table = config.encoder.parameters();
        table.insert("kind".into(), config.encoder.name().into());
        if let Some(mpp) = config.mpp {
            table.insert("mpp".into(), mpp.into());
        }
        table.insert("pool".into(), serde_json::to_value(config.pool).unwrap_or(Value::Null));
        table.insert("cells".into(), config.cells.into());
        table
    }
}

impl TryFrom<Parameters> for EncoderConfig {
    type Error = Error;

    fn try_from(mut table: Parameters) -> Result<EncoderConfig> {
        let mut taken = |key: &str| table.remove(key);
        let kind = match taken("kind") {
            None => ENCODERS[0].name.to_string(),
            Some(Value::String(kind)) => kind,
            Some(other) => return Err(Error::Usage(format!("kind = {other}: the name of an encoder is wanted"))),
        };
        let wrong = |key: &str, wanted: &str| Error::Usage(format!("{key}: {wanted} is wanted"));
        let mpp = taken("mpp").map(|v| v.as_f64().ok_or_else(|| wrong("mpp", "a number"))).transpose()?;
        let pool = taken("pool").map(serde_json::from_value).transpose();
        let pool = pool.map_err(|_| wrong("pool", "\"patch\" or \"mean_sd\""))?.unwrap_or_default();
        let cells = taken("cells").map(|v| v.as_bool().ok_or_else(|| wrong("cells", "true or false"))).transpose()?;
        let encoder = named(&kind, table)?;
        encoder.check()?;
        let cells = cells.unwrap_or_else(|| encoder.cells_by_default());
        Ok(EncoderConfig { encoder, mpp, pool, cells })
    }
}
