//! The decoder D of paper §3.2: StyleGAN2's generator (Karras et al. 2020) as S2FGAN uses it, without mapping network and
//! without noise. From a learned 4x4 constant, each resolution has two modulated convolutions (the first doubles the size;
//! 4x4 has one), all driven by the one code; every resolution adds its red, green and blue to the upsampled image so far.

use crate::{
    device::nvtx,
    error::Result,
    nn::{
        builder::{Builder, Init},
        equalized::{ModulatedConv, doubled, doubling, plain},
        precision::ComputePrecision,
    },
    ops::upfirdn2d::Filter,
    tensor::Tensor,
};

pub struct Generator {
    constant: Tensor,
    first: ModulatedConv,
    first_rgb: ModulatedConv,
    blocks: Vec<Block>,
    filter: Filter,
    precision: ComputePrecision,
}

struct Block {
    double: ModulatedConv,
    refine: ModulatedConv,
    to_rgb: ModulatedConv,
}

impl Generator {
    /// `channels` at 4, 8, 16, ... pixels; as many as the image size has doublings, plus one.
    pub fn new(
        b: &mut Builder,
        channels: &[usize],
        d: usize,
        filter: &Filter,
        precision: ComputePrecision,
    ) -> Result<Generator> {
        let constant = b.param("constant", [1, 4, 4, channels[0]], Init::Normal(1.0))?;
        let first = b.scope("first", |b| ModulatedConv::styled(b, d, [channels[0]; 2], plain(filter)))?;
        let first_rgb = b.scope("first_rgb", |b| ModulatedConv::to_rgb(b, d, channels[0], filter))?;
        let blocks = (channels.windows(2).enumerate())
            .map(|(i, pair)| {
                let (c, k) = (pair[0], pair[1]);
                b.scope(&format!("block.{i}"), |b| {
                    Ok(Block {
                        double: b.scope("double", |b| ModulatedConv::styled(b, d, [c, k], doubling(filter)))?,
                        refine: b.scope("refine", |b| ModulatedConv::styled(b, d, [k, k], plain(filter)))?,
                        to_rgb: b.scope("to_rgb", |b| ModulatedConv::to_rgb(b, d, k, filter))?,
                    })
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let precision = precision.on(b.device());
        Ok(Generator { constant, first, first_rgb, blocks, filter: filter.clone(), precision })
    }

    /// `[n, d]` to images `[n, h, w, 3]`, about [-1, 1] but not clamped.
    pub fn forward(&self, code: &Tensor) -> Result<Tensor> {
        let _range = nvtx::range("generator");
        let (n, c) = (code.shape()[0], self.constant.shape().last());
        let constant = self.precision.narrowed(&self.constant)?.broadcast_to([n, 4, 4, c])?;
        let mut x = self.first.forward(&constant, code)?;
        let mut image = self.first_rgb.forward(&x, code)?.widened()?;
        for block in &self.blocks {
            x = block.refine.forward(&block.double.forward(&x, code)?, code)?;
            let upsampled = doubled(&image, &self.filter)?;
            // The image is f32, as in StyleGAN: every resolution adds to it.
            image = match x.dtype() == upsampled.dtype() {
                true => block.to_rgb.forward_add_residual(&x, code, Some(&upsampled))?,
                false => upsampled.add(&block.to_rgb.forward(&x, code)?.widened()?)?,
            };
        }
        Ok(image)
    }
}
