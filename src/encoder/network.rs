//! A network as a patch encoder: images in batches through tiles and a forward pass.

use super::{
    PatchEncoder,
    tiles::{self, Normalisation},
};
use crate::{
    device::Device, error::Result, image::RgbImage, io::checksum::Digest, nn::precision::ComputePrecision,
    tensor::Tensor,
};

/// Pixels of one forward pass: bounds its memory, and is enough for GEMMs to be efficient.
const PIXELS_A_PASS: usize = 1 << 20;

/// A forward pass, `[n, h, w, 3]` to `[n, d]`.
pub type Forward = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// Images of any size to vectors.
pub struct Network {
    pub d: usize,
    pub tile_px: usize,
    pub normalisation: Normalisation,
    /// Spread each tile's channels over 0 to 255 before anything else.
    pub stretch: bool,
    /// Of images and of what becomes of them.
    pub precision: ComputePrecision,
    pub device: Device,
    pub digest: Digest,
    pub forward: Forward,
}

impl PatchEncoder for Network {
    fn d(&self) -> usize {
        self.d
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn encode(&self, images: &[RgbImage]) -> Result<Vec<f32>> {
        let _precision = self.precision.enter(&self.device);
        let a_pass = (PIXELS_A_PASS / (self.tile_px * self.tile_px)).clamp(1, 256);
        let mut vectors = Vec::with_capacity(images.len() * self.d);
        let prepare: fn(&mut RgbImage) = if self.stretch { tiles::stretch } else { |_| {} };
        for part in images.chunks(a_pass) {
            let tiles =
                tiles::batch(part, self.tile_px, prepare, &self.normalisation, self.precision.dtype(), &self.device)?;
            vectors.extend((self.forward)(&tiles)?.to_vec::<f32>()?);
        }
        Ok(vectors)
    }
}
