//! What published networks are, and what their files do not say: heads, input statistics, pooling, terms of use.
//!
//! Sizes, statistics and pooling after the models' own cards and TRIDENT's encoders (2026-06). Weights are not part of this
//! program: whoever uses them has accepted their publisher's terms, of which [`Preset::licence`] reminds.

use super::{
    super::tiles::{IMAGENET, Normalisation},
    Keys, Mlp, TokenPool, VitConfig,
    positions::Positions,
};
use crate::error::{Error, Result};

pub struct Preset {
    pub name: &'static str,
    /// Of the published file; what is drawn where weights are random.
    pub sizes: VitConfig,
    /// Whether files of other widths and patches go by this name too.
    family: bool,
    pub normalisation: Normalisation,
    /// One sentence.
    pub licence: &'static str,
}

const HALF: Normalisation = Normalisation { mean: [0.5; 3], sd: [0.5; 3] };
const H_OPTIMUS: Normalisation =
    Normalisation { mean: [0.707223, 0.578729, 0.703617], sd: [0.211883, 0.230117, 0.177517] };
const LUNIT: Normalisation =
    Normalisation { mean: [0.703_229_89, 0.536_064_87, 0.660_966_31], sd: [0.217_165_36, 0.260_815_74, 0.207_234_64] };

/// A network of timm with GELU, class token and one position per token, at 224 px.
const fn plain(width: usize, depth: usize, patch_px: usize) -> VitConfig {
    VitConfig {
        keys: Keys::Timm,
        width,
        depth,
        heads: width / 64,
        patch_px,
        mlp: Mlp::Gelu,
        mlp_width: 4 * width,
        registers: 0,
        layer_scale: false,
        positions: Positions::ClsPatches,
        stored_grid: [224 / patch_px; 2],
        pool: TokenPool::Cls,
    }
}

/// One of timm's DINOv2 giants: SwiGLU and LayerScale.
const fn giant(width: usize, depth: usize, patch_px: usize, mlp_width: usize, registers: usize) -> VitConfig {
    let positions = if registers > 0 { Positions::Patches } else { Positions::ClsPatches };
    VitConfig { mlp: Mlp::SwiGlu, mlp_width, registers, layer_scale: true, positions, ..plain(width, depth, patch_px) }
}

pub const PRESETS: [Preset; 9] = [
    Preset {
        name: "uni",
        sizes: VitConfig { layer_scale: true, ..plain(1024, 24, 16) },
        family: false,
        normalisation: IMAGENET,
        licence: "UNI's weights are licensed CC BY-NC-ND 4.0 by Mahmood Lab: non-commercial research, no derivatives passed on",
    },
    Preset {
        name: "uni2-h",
        sizes: giant(1536, 24, 14, 4096, 8),
        family: false,
        normalisation: IMAGENET,
        licence: "UNI2-h's weights are licensed CC BY-NC-ND 4.0 by Mahmood Lab: non-commercial research, no derivatives passed on",
    },
    Preset {
        name: "virchow2",
        sizes: VitConfig {
            heads: 16,
            positions: Positions::All,
            pool: TokenPool::ClsMean,
            ..giant(1280, 32, 14, 3416, 4)
        },
        family: false,
        normalisation: IMAGENET,
        licence: "Virchow2's weights are licensed CC BY-NC-ND 4.0 by Paige: non-commercial research, no derivatives passed on",
    },
    Preset {
        name: "h-optimus-0",
        sizes: giant(1536, 40, 14, 4096, 4),
        family: false,
        normalisation: H_OPTIMUS,
        licence: "H-optimus-0's weights are licensed Apache 2.0 by Bioptimus; read the terms that came with the file",
    },
    Preset {
        name: "h-optimus-1",
        sizes: giant(1536, 40, 14, 4096, 4),
        family: false,
        normalisation: H_OPTIMUS,
        licence: "H-optimus-1's weights are licensed CC BY-NC-ND 4.0 by Bioptimus: non-commercial research, no derivatives passed on",
    },
    Preset {
        name: "gigapath",
        sizes: giant(1536, 40, 16, 4096, 0),
        family: false,
        normalisation: IMAGENET,
        licence: "Prov-GigaPath's weights are released by Microsoft and Providence for research use; read the terms that came with the file",
    },
    Preset {
        name: "phikon-v2",
        sizes: VitConfig { layer_scale: true, ..plain(1024, 24, 16) },
        family: false,
        normalisation: IMAGENET,
        licence: "Phikon-v2's weights come under Owkin's non-commercial licence; read the terms that came with the file",
    },
    Preset {
        name: "lunit-s8",
        sizes: plain(384, 12, 8),
        family: false,
        normalisation: LUNIT,
        licence: "Lunit's weights come under its own non-commercial licence; read the terms that came with the file",
    },
    Preset {
        name: "kaiko",
        sizes: plain(768, 12, 16),
        family: true,
        normalisation: HALF,
        licence: "kaiko.ai's weights come under its own non-commercial licence; read the terms that came with the file",
    },
];

impl Preset {
    /// Heads of a file of this width.
    pub fn heads(&self, width: usize) -> usize {
        if width == self.sizes.width { self.sizes.heads } else { (width / 64).max(1) }
    }

    /// What a file of other sizes is, in words.
    ///
    /// # Errors
    /// The words.
    pub fn check(&self, found: &VitConfig) -> Result<(), String> {
        let sizes = |v: &VitConfig| (v.width, v.depth, v.patch_px, v.mlp == Mlp::SwiGlu, v.mlp_width, v.registers);
        if self.family || sizes(found) == sizes(&self.sizes) {
            return Ok(());
        }
        let words = |v: &VitConfig| {
            let mlp = if v.mlp == Mlp::SwiGlu { "SwiGLU" } else { "GELU" };
            let VitConfig { width, depth, patch_px, mlp_width, registers, .. } = v;
            format!("{width} wide, {depth} blocks, patches of {patch_px} px, {mlp} {mlp_width}, {registers} registers")
        };
        Err(format!("holds a network {}; {} is {}", words(found), self.name, words(&self.sizes)))
    }
}

/// The preset of this name.
///
/// # Errors
/// Another name.
pub fn named(name: &str) -> Result<&'static Preset> {
    let found = PRESETS.iter().find(|preset| preset.name == name);
    found.ok_or_else(|| Error::Usage(format!("encoder.preset = \"{name}\": unknown; known are {}", names())))
}

/// The names of all presets, with commas.
pub fn names() -> String {
    PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ")
}
