//! A vision transformer over the whole slide shrunk to one small square image: what is left when a slide is treated as a
//! photograph. The paper reports that it does not converge.
//!
//! A row of a bag is here a square of that image in place of a patch, so that the transformer is timm's with its names: patches
//! embedded by one linear layer, learned positions, a class token that the head reads.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    device::nvtx,
    error::{Error, Result},
    mil::{
        embedding::check_dropout,
        features::{FeatureDims, HostFeatures, PatchFeatures, PatchValues, Reads},
        method::{Method, MethodSpec, Rows, with},
        network::{Aggregator, Dims, Input, Mode, Network, PatchEncoder, Patches},
        transformer::HEAD_GAIN,
    },
    nn::{
        builder::{Builder, Init},
        linear::Linear,
        norm::{LAYER_EPS, LayerNorm},
        vit::{Drop, Sequences, VitBlock, VitConfig},
    },
    preset::Preset,
    tensor::Tensor,
};

/// `[train.image-vit]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageVit {
    /// Side of the image that the slide is shrunk to, on white where it is not square.
    pub image_px: usize,
    /// Side of the squares it is cut into; divides `image_px`.
    pub square_px: usize,
    pub vit_width: usize,
    pub vit_depth: usize,
    pub vit_heads: usize,
    /// Hidden width of the MLPs as a multiple of the width.
    pub vit_mlp_ratio: usize,
    /// Share of the values dropped in training: of the tokens, and of what each half of a block adds.
    pub dropout: f64,
}

impl ImageVit {
    /// ViT-S/16 at 384 px.
    pub fn paper() -> ImageVit {
        ImageVit {
            image_px: 384,
            square_px: 16,
            vit_width: 384,
            vit_depth: 12,
            vit_heads: 6,
            vit_mlp_ratio: 4,
            dropout: 0.1,
        }
    }

    /// For cohorts of tens of slides.
    pub fn small() -> ImageVit {
        ImageVit { image_px: 96, vit_width: 32, vit_depth: 1, vit_heads: 2, vit_mlp_ratio: 2, ..ImageVit::paper() }
    }

    /// Squares along a side of the image.
    fn side(&self) -> usize {
        self.image_px / self.square_px.max(1)
    }

    /// The network over images of so many squares. timm's parameters: `patch_embed.proj.weight` `[width, 3, px, px]`,
    /// `patch_embed.proj.bias`, `cls_token` `[1, 1, width]`, `pos_embed` `[1, 1 + squares, width]`, `blocks.{i}.*`, `norm.*`; then
    /// `head.*`.
    ///
    /// # Errors
    /// Sizes that cannot be, or stored weights that do not fit them.
    pub fn of_squares(&self, b: &mut Builder, squares: usize, genes: usize) -> Result<Network> {
        self.check()?;
        let (width, px) = (self.vit_width, self.square_px);
        let std = 1.0 / ((3 * px * px) as f64).sqrt();
        let encoder = SquareEmbedding {
            weight: b.param("patch_embed.proj.weight", [width, 3, px, px], Init::Normal(std))?,
            bias: b.param("patch_embed.proj.bias", [width], Init::Constant(0.0))?,
        };
        let block = VitConfig { width, heads: self.vit_heads, mlp: width * self.vit_mlp_ratio };
        let aggregator = ImageTransformer {
            class_token: b.param("cls_token", [1, 1, width], Init::Normal(0.02))?,
            positions: b.param("pos_embed", [1, 1 + squares, width], Init::Normal(0.02))?,
            blocks: (0..self.vit_depth)
                .map(|i| b.scope(&format!("blocks.{i}"), |b| VitBlock::timm(b, block)))
                .collect::<Result<_>>()?,
            norm: b.scope("norm", |b| LayerNorm::new(b, width, 1.0, LAYER_EPS))?,
            head: b.scope("head", |b| Linear::new(b, width, genes, HEAD_GAIN))?,
            dropout: self.dropout,
        };
        Ok(Network::new(Input::of(Reads::CUBE), encoder, aggregator))
    }
}

pub const SPEC: MethodSpec = MethodSpec {
    name: "image-vit",
    title: "ViT on the slide's image",
    cites: "Dosovitskiy et al.: An Image is Worth 16x16 Words. ICLR 2021",
    slide: (576, FeatureDims { global: 0, cell: 3, grid: 16 }),
    preset: |preset| {
        Arc::new(match preset {
            Preset::Paper => ImageVit::paper(),
            Preset::Small => ImageVit::small(),
        })
    },
    training: |_, _| {},
    with: with::<ImageVit>,
    cases: || {
        let small = ImageVit { image_px: 9, square_px: 3, vit_width: 8, ..ImageVit::small() };
        vec![Arc::new(small)]
    },
};

impl Method for ImageVit {
    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::Usage(what.to_string()));
        if self.square_px == 0 || self.image_px == 0 || !self.image_px.is_multiple_of(self.square_px) {
            return wrong("image_px and square_px are at least 1, and square_px divides image_px");
        }
        if self.vit_width == 0 || self.vit_heads == 0 || !self.vit_width.is_multiple_of(self.vit_heads) {
            return wrong("vit_width and vit_heads are at least 1, and vit_heads divides vit_width");
        }
        if self.vit_mlp_ratio == 0 {
            return wrong("vit_mlp_ratio is at least 1");
        }
        check_dropout(self.dropout)
    }

    /// Squares of the image, and of patches nothing.
    fn reads(&self, available: FeatureDims) -> Reads {
        Reads { cube: available == self.row_dims(available), ..Reads::default() }
    }

    fn network(&self, b: &mut Builder, dims: Dims) -> Result<Network> {
        self.of_squares(b, self.side().pow(2), dims.genes)
    }

    fn rows(&self, features: &dyn PatchFeatures) -> Result<Option<Rows>> {
        let (side, px) = (self.side(), self.square_px);
        let image = features.image(self.image_px)?;
        let squares = (0..side * side).map(|i| image.crop(i % side * px, i / side * px, px, px));
        let cube = squares.flat_map(|square| square.pixels).map(|v| f32::from(v) / 255.0).collect();
        let values = PatchValues { cube, ..PatchValues::default() };
        Ok(Some(Rows { features: HostFeatures { patches: side * side, values }, of_patch: Vec::new() }))
    }

    fn row_dims(&self, _: FeatureDims) -> FeatureDims {
        FeatureDims { global: 0, cell: 3, grid: self.square_px }
    }
}

/// A linear layer of each square's pixels.
struct SquareEmbedding {
    weight: Tensor,
    bias: Tensor,
}

impl PatchEncoder for SquareEmbedding {
    fn tokens(&self, patches: &Patches, _: &mut Mode) -> Result<Tensor> {
        let squares = patches.cube()?;
        let (n, width) = (squares.shape()[0], self.bias.shape().elems());
        let values = squares.shape().elems() / n.max(1);
        let weight = self.weight.permute(&[0, 2, 3, 1])?.reshape([width, values])?;
        squares.reshape([n, values])?.linear(&weight.cast(squares.dtype())?, Some(&self.bias.matching(squares)?))
    }
}

struct ImageTransformer {
    class_token: Tensor,
    positions: Tensor,
    blocks: Vec<VitBlock>,
    norm: LayerNorm,
    head: Linear,
    dropout: f64,
}

impl Aggregator for ImageTransformer {
    fn pool(&self, tokens: &Tensor, slides: &Sequences, mode: &mut Mode) -> Result<Tensor> {
        let _range = nvtx::range("image_vit");
        let [_, positions, width] = [0, 1, 2].map(|axis| self.positions.shape()[axis]);
        if let Some(squares) = slides.lengths().iter().find(|&&squares| squares >= positions) {
            let message = format!("an image of {squares} squares with {} positions", positions - 1);
            return Err(Error::shape("image_vit", message));
        }
        let longer = slides.with_class_token()?;
        let x = longer.prepend(&self.class_token.reshape([1, width])?, tokens)?;
        let places = &longer.sequences.row_numbers()?.places;
        let x = x.add(&self.positions.reshape([positions, width])?.gather_rows(places)?.cast(x.dtype())?)?;
        let mut x = mode.dropout(x, self.dropout)?;
        for block in &self.blocks {
            let mut drop = mode.drop_add(self.dropout);
            x = block.forward(&x, &longer.sequences, drop.as_mut().map(|drop| drop as Drop))?;
        }
        self.head.forward(&self.norm.forward(&longer.first_rows(&x)?)?.widened()?)
    }
}
