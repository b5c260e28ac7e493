//! How often each of a few hundred small patterns occurs in a patch: a bag of visual words, as texture was told apart before
//! networks learned to (Varma and Zisserman 2009 on raw pixels; Csurka et al. 2004 for the histogram).
//!
//! Words are centres of k-means over raw pieces of 6 x 6 px, three channels, drawn from the run's own patches. A patch's vector is
//! the share of its pieces, taken every third pixel, that lie nearest to each word, each share as its square root (Hellinger's
//! distance between histograms). It sees nuclei at the patch's own resolution, and nothing larger.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Encoder, EncoderSpec, Parameters, PatchEncoder, Site, registry};
use crate::{
    device::Device,
    dtype::DType,
    error::{Error, Fault, Result},
    extractor::patches::PatchSource,
    image::RgbImage,
    io::{checkpoint, checksum::Digest, safetensors::SafetensorsFile},
    kmeans,
    progress::Progress,
    random::Philox,
    tensor::Tensor,
};

pub const SPEC: EncoderSpec = EncoderSpec {
    name: "texture-words",
    title: "texture words",
    cites: "Varma and Zisserman 2009; Csurka et al. 2004",
    with: |parameters| registry::with::<TextureWords>(SPEC.name, parameters),
    cases: || vec![Arc::new(TextureWords::default())],
};

/// Side of a piece in pixels of the patch.
const PIECE_PX: usize = 6;
const PIECE: usize = 3 * PIECE_PX * PIECE_PX;
/// From one piece to the next.
const STRIDE_PX: usize = 3;
/// Pieces that the words are learned from: thirty for each of 256.
const PIECES: usize = 8192;
/// At least so many of a patch; more where patches are few.
const PIECES_A_PATCH: usize = 8;
const FILE: &str = "words.safetensors";

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextureWords {
    /// How many there are; the length of a vector.
    pub words: usize,
    pub seed: u64,
}

impl Default for TextureWords {
    fn default() -> TextureWords {
        TextureWords { words: 256, seed: 0 }
    }
}

fn file(site: Site) -> PathBuf {
    site.dir.join(FILE)
}

impl Encoder for TextureWords {
    fn spec(&self) -> &'static EncoderSpec {
        &SPEC
    }

    fn parameters(&self) -> Parameters {
        registry::parameters(self)
    }

    fn check(&self) -> Result<()> {
        match self.words {
            2..=4096 => Ok(()),
            words => Err(Error::Usage(format!("texture-words: words = {words}; from 2 to 4096"))),
        }
    }

    fn differs_by_scale(&self) -> bool {
        true
    }

    fn learns(&self) -> bool {
        true
    }

    fn probe(&self, _: Site) -> Result<usize> {
        Ok(self.words)
    }

    fn learn(&self, site: Site, source: &dyn PatchSource, _: &Device, progress: &dyn Progress) -> Result<()> {
        if self.has_learned(site, source)? {
            return Ok(());
        }
        let pieces = self.draw(source, progress)?;
        let count = pieces.len() / PIECE;
        if count < self.words {
            return Err(Error::Usage(format!(
                "texture-words: {} words cannot be learned from {count} pieces of {} patches; lower encoder.words",
                self.words,
                source.len()
            )));
        }
        let first = kmeans::plus_plus(&pieces, PIECE, self.words, Philox::named(self.seed, "first words"))?;
        let words = kmeans::lloyd(&pieces, PIECE, first)?.centres;
        let words = Tensor::from_f64(&words, [self.words, PIECE], DType::F32, &Device::cpu())?;
        std::fs::create_dir_all(site.dir).map_err(|e| Error::io(site.dir, e))?;
        let metadata = BTreeMap::from([("key".to_string(), self.key(source)?)]);
        checkpoint::write_tensors(&file(site), &[("words".to_string(), words)], &metadata).map(drop)
    }

    fn has_learned(&self, site: Site, source: &dyn PatchSource) -> Result<bool> {
        let path = file(site);
        match SafetensorsFile::open_own(&path) {
            Ok(stored) => Ok(stored.metadata_value("key") == Some(&self.key(source)?)),
            Err(error) if error.fault() == Fault::Input || !path.exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn digest(&self, site: Site) -> Result<Digest> {
        let stored = SafetensorsFile::open_own(file(site))?;
        Ok(Digest::of("texture words", &stored.checksum()))
    }

    fn load(&self, site: Site, device: &Device) -> Result<Box<dyn PatchEncoder>> {
        let path = file(site);
        let words = checkpoint::read_tensors(&path, device)?.remove("words");
        let words = words.filter(|words| words.shape()[..] == [self.words, PIECE]).ok_or_else(|| {
            Error::input(&path, format!("holds no {} words", self.words), "run the same command again")
        })?;
        // |x − w|² is least where x·w − |w|²/2 is greatest.
        let halves = words.square()?.sum(&[1])?.scale(-0.5)?.reshape([self.words])?;
        Ok(Box::new(Words { digest: self.digest(site)?, words, halves }))
    }
}

impl TextureWords {
    /// Of all that the words follow from.
    fn key(&self, source: &dyn PatchSource) -> Result<String> {
        Ok(Digest::of("texture words", &(self.parameters(), source.digest()?)).to_string())
    }

    /// Pieces of patches drawn at random, in patch after patch.
    fn draw(&self, source: &dyn PatchSource, progress: &dyn Progress) -> Result<Vec<f64>> {
        let mut order = Philox::named(self.seed, "patches of words").permutation(source.len());
        order.truncate(PIECES / PIECES_A_PATCH);
        let each = PIECES_A_PATCH.max(PIECES.div_ceil(order.len().max(1))) as u64;
        progress.begin("texture words", order.len() as u64, "patches");
        let of_patch = |&patch: &usize| -> Result<Vec<f64>> {
            progress.check()?;
            let image = source.load(patch)?;
            let places = corners(&image);
            let random = Philox::named(self.seed, &format!("pieces {patch}"));
            let some = (0..each).filter(|_| !places.is_empty()).map(|i| places[random.below(i, places.len())]);
            let pieces = some.flat_map(|place| piece(&image, place).map(f64::from)).collect();
            progress.advance(1);
            Ok(pieces)
        };
        let pieces = order.par_iter().map(of_patch).collect::<Result<Vec<_>>>()?.concat();
        progress.end();
        Ok(pieces)
    }
}

/// Upper left corners of an image's pieces.
fn corners(image: &RgbImage) -> Vec<[usize; 2]> {
    let along = |px: usize| (0..(px + 1).saturating_sub(PIECE_PX)).step_by(STRIDE_PX);
    along(image.height_px).flat_map(|y| along(image.width_px).map(move |x| [x, y])).collect()
}

/// Values from 0 to 1, row by row.
fn piece(image: &RgbImage, [x, y]: [usize; 2]) -> [f32; PIECE] {
    let mut values = [0.0; PIECE];
    for (row, values) in values.chunks_exact_mut(3 * PIECE_PX).enumerate() {
        let first = 3 * ((y + row) * image.width_px + x);
        let pixels = &image.pixels[first..first + 3 * PIECE_PX];
        values.iter_mut().zip(pixels).for_each(|(v, &byte)| *v = f32::from(byte) / 255.0);
    }
    values
}

struct Words {
    digest: Digest,
    words: Tensor,
    halves: Tensor,
}

impl PatchEncoder for Words {
    fn d(&self) -> usize {
        self.words.shape()[0]
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn encode(&self, images: &[RgbImage]) -> Result<Vec<f32>> {
        let mut vectors = Vec::with_capacity(images.len() * self.d());
        for image in images {
            vectors.extend(self.histogram(image)?);
        }
        Ok(vectors)
    }
}

impl Words {
    fn histogram(&self, image: &RgbImage) -> Result<Vec<f32>> {
        let places = corners(image);
        if places.is_empty() {
            let size = format!("an image of {}x{} px holds no piece of {PIECE_PX} px", image.width_px, image.height_px);
            return Err(Error::shape("texture-words", size));
        }
        let pieces: Vec<f32> = places.par_iter().flat_map_iter(|&place| piece(image, place)).collect();
        let x = Tensor::from_vec(pieces, [places.len(), PIECE], self.words.device())?;
        let closeness = x.linear(&self.words, Some(&self.halves))?.to_vec::<f32>()?;
        let nearest: Vec<usize> = closeness
            .par_chunks_exact(self.d())
            .map(|row| row.iter().enumerate().fold(0, |best, (i, v)| if *v > row[best] { i } else { best }))
            .collect();
        let mut counts = vec![0u32; self.d()];
        nearest.into_iter().for_each(|word| counts[word] += 1);
        Ok(counts.into_iter().map(|n| (f64::from(n) / places.len() as f64).sqrt() as f32).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        extractor::{config::ExtractorConfig, patches::MemoryPatches},
        preset::Preset,
        progress::Silent,
    };

    /// Stripes of a width: textures of equal colour statistics.
    fn stripes(width: usize) -> RgbImage {
        let mut image = RgbImage::filled(48, 48, [230; 3]);
        for (i, pixel) in image.pixels.chunks_exact_mut(3).enumerate() {
            if (i % 48 / width).is_multiple_of(2) {
                pixel.fill(40);
            }
        }
        image
    }

    #[test]
    fn words_tell_textures_of_equal_colour_apart() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("temporary", e))?;
        let extractor = ExtractorConfig::preset(Preset::Small);
        let site = Site { dir: folder.path(), extractor: &extractor, precision: extractor.precision };
        let encoder = TextureWords { words: 12, seed: 3 };
        let images: Vec<RgbImage> = (0..40).map(|i| stripes(if i % 2 == 0 { 1 } else { 4 })).collect();
        encoder.learn(site, &MemoryPatches(images), &Device::cpu(), &Silent)?;
        let words = encoder.load(site, &Device::cpu())?;
        let vectors = words.encode(&[stripes(1), stripes(4), stripes(1)])?;
        let (fine, rest) = vectors.split_at(12);
        let (coarse, again) = rest.split_at(12);
        assert_eq!(fine, again);
        let overlap: f32 = fine.iter().zip(coarse).map(|(a, b)| a * b).sum();
        assert!(overlap < 0.2, "{overlap}");
        for vector in [fine, coarse] {
            assert!((vector.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5, "shares sum to one: {vector:?}");
        }
        Ok(())
    }
}
