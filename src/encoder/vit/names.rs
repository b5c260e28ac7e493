//! What the tensors of a file say about the network they are of.

use std::path::Path;

use super::{Keys, Mlp, StateDict, TokenPool, VitConfig, positions::Positions};
use crate::{
    error::{Error, Result},
    io::array::NamedArray,
};

const PATCHES: &str = "patch_embed.proj.weight";
const TRANSFORMERS_PATCHES: &str = "embeddings.patch_embeddings.projection.weight";
/// Classifiers, what pretraining masks with, and the pooler of transformers' models.
const IGNORED: [&str; 4] = ["head", "mask_token", "embeddings.mask_token", "pooler."];

/// Heads of nearly every vision transformer are as wide as this.
const HEAD_WIDTH: usize = 64;

/// A file's tensors by timm's or DINOv2's names; those of transformers' Dinov2Model are renamed to timm's.
///
/// # Errors
/// The file cannot be read, or is of another network.
pub fn read(path: &Path) -> Result<StateDict> {
    let weights = StateDict::read(path, &[PATCHES, TRANSFORMERS_PATCHES], &IGNORED)?;
    if weights.holds(TRANSFORMERS_PATCHES) { from_transformers(weights) } else { Ok(weights) }
}

/// Sizes as the tensors have them. Heads are taken to be 64 wide.
///
/// # Errors
/// A tensor that is not there, or positions of no square grid.
pub fn sizes(weights: &StateDict) -> Result<VitConfig> {
    let &[width, 3, patch_px, patch_px_too] = weights.shape(PATCHES)? else {
        return Err(weights.unusable(&format!("`{PATCHES}` is no convolution of RGB")));
    };
    let depth = (0..).take_while(|i| weights.holds(&format!("blocks.{i}.norm1.weight"))).count();
    let rows = |name: &str| weights.shape(name).map(|shape| shape.first().copied().unwrap_or(0));
    let w12 = weights.holds("blocks.0.mlp.w12.weight");
    let (up, down) = if w12 { ("w12", "w3") } else { ("fc1", "fc2") };
    let (hidden, down) = (rows(&format!("blocks.0.mlp.{up}.weight"))?, weights.shape(&format!("blocks.0.mlp.{down}.weight"))?);
    let mlp_width = down.get(1).copied().unwrap_or(0);
    let keys = if w12 || weights.holds("register_tokens") { Keys::Dinov2 } else { Keys::Timm };
    let tokens = ["reg_token", "register_tokens"].into_iter().find(|name| weights.holds(name));
    let middle = |name: &str| weights.shape(name).map(|shape| shape.get(1).copied().unwrap_or(0));
    let registers = tokens.map_or(Ok(0), middle)?;
    let stored = middle("pos_embed")?;
    // Without registers the first two say the same.
    let kinds = [Positions::ClsPatches, Positions::All, Positions::Patches];
    let grid = |kind: &Positions| {
        let patches = stored.checked_sub(kind.before_patches(registers))?;
        let side = patches.isqrt();
        (side > 0 && side * side == patches).then_some((*kind, side))
    };
    let Some((positions, side)) = kinds.iter().find_map(grid) else {
        return Err(weights.unusable(&format!("`pos_embed` has {stored} positions, of no square grid")));
    };
    if patch_px != patch_px_too || depth == 0 || width == 0 {
        return Err(weights.unusable("has patches that are not square, or no blocks"));
    }
    Ok(VitConfig {
        keys,
        width,
        depth,
        heads: (width / HEAD_WIDTH).max(1),
        patch_px,
        mlp: if hidden == 2 * mlp_width { Mlp::SwiGlu } else { Mlp::Gelu },
        mlp_width,
        registers,
        layer_scale: weights.holds("blocks.0.ls1.gamma"),
        positions,
        stored_grid: [side; 2],
        pool: TokenPool::Cls,
    })
}

/// Names of transformers' Dinov2Model and timm's for the same, outside blocks.
const OUTER: [(&str, &str); 7] = [
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.register_tokens", "reg_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    (TRANSFORMERS_PATCHES, PATCHES),
    ("embeddings.patch_embeddings.projection.bias", "patch_embed.proj.bias"),
    ("layernorm.weight", "norm.weight"),
    ("layernorm.bias", "norm.bias"),
];

/// The same within a block, without `.weight` and `.bias`.
const INNER: [(&str, &str); 9] = [
    ("norm1", "norm1"),
    ("norm2", "norm2"),
    ("attention.output.dense", "attn.proj"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
    ("mlp.weights_in", "mlp.fc1"),
    ("mlp.weights_out", "mlp.fc2"),
];

/// timm's names; queries, keys and values, three tensors there, are one here.
fn from_transformers(mut weights: StateDict) -> Result<StateDict> {
    for (theirs, ours) in OUTER {
        rename(&mut weights, theirs, ours);
    }
    let depth = (0..).take_while(|i| weights.holds(&format!("encoder.layer.{i}.norm1.weight"))).count();
    for i in 0..depth {
        let (from, to) = (format!("encoder.layer.{i}"), format!("blocks.{i}"));
        for (theirs, ours) in INNER {
            for end in ["", ".weight", ".bias"] {
                rename(&mut weights, &format!("{from}.{theirs}{end}"), &format!("{to}.{ours}{end}"));
            }
        }
        for end in ["weight", "bias"] {
            let parts = ["query", "key", "value"].map(|part| format!("{from}.attention.attention.{part}.{end}"));
            let parts = parts.map(|name| {
                let missing = weights.unusable(&format!("holds no tensor `{name}`"));
                weights.arrays.remove(&name).ok_or(missing)
            });
            let [query, key, value] = parts;
            let joined = joined(&format!("{to}.attn.qkv.{end}"), &[query?, key?, value?])?;
            weights.arrays.insert(joined.name.clone(), joined);
        }
    }
    Ok(weights)
}

fn rename(weights: &mut StateDict, from: &str, to: &str) {
    if let Some(array) = weights.arrays.remove(from) {
        weights.arrays.insert(to.to_string(), NamedArray { name: to.to_string(), ..array });
    }
}

/// One after the other along the first axis.
fn joined(name: &str, parts: &[NamedArray]) -> Result<NamedArray> {
    let first = &parts[0];
    if parts.iter().any(|part| part.shape != first.shape || part.element != first.element || part.shape.is_empty()) {
        return Err(Error::shape("vit", format!("{name}: queries, keys and values of several sizes")));
    }
    let mut shape = first.shape.clone();
    shape[0] *= parts.len();
    let bytes = parts.iter().flat_map(|part| part.bytes.iter().copied()).collect();
    NamedArray::new(name, &shape, first.element, bytes)
}
