//! What the extractor is trained on: patches from anywhere, resized, shuffled, augmented, made ready ahead of time.
//!
//! Which patches a step sees, in which order and how they are turned, is a function of (seed, step) alone, so a resumed
//! run sees what an uninterrupted one would have seen.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::{
    error::{Error, Result},
    extractor::config::{AugmentConfig, ExtractorConfig},
    image::RgbImage,
    io::checksum::Digest,
    random::Philox,
};

/// Patches by number. `load` is called from several threads at once.
pub trait PatchSource: Sync {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The patch at its own size; it is resized to the network's.
    fn load(&self, index: usize) -> Result<RgbImage>;

    /// Of everything that decides the patches: sources of one digest give the same patches in the same order.
    fn digest(&self) -> Result<Digest>;
}

/// Patches that are in memory already.
pub struct MemoryPatches(pub Vec<RgbImage>);

impl PatchSource for MemoryPatches {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn load(&self, index: usize) -> Result<RgbImage> {
        self.0.get(index).cloned().ok_or_else(|| Error::internal(format_args!("patch {index} of {}", self.0.len())))
    }

    fn digest(&self) -> Result<Digest> {
        let image = |image: &RgbImage| (image.width_px, image.height_px, Digest::of_bytes(&image.pixels));
        Ok(Digest::of("patches in memory", &self.0.iter().map(image).collect::<Vec<_>>()))
    }
}

/// Makes the batches of a training run, one step after another.
pub(super) struct BatchLoader<'a> {
    source: &'a dyn PatchSource,
    augment: AugmentConfig,
    image_px: usize,
    batch: usize,
    seed: u64,
    /// Resized patches by number, as many as `room_bytes` still allowed.
    cache: HashMap<usize, Vec<u8>>,
    room_bytes: u64,
    /// The shuffled order of one pass over the source.
    order: Option<(u64, Vec<usize>)>,
}

impl<'a> BatchLoader<'a> {
    pub fn new(source: &'a dyn PatchSource, config: &ExtractorConfig) -> BatchLoader<'a> {
        BatchLoader {
            source,
            augment: config.augment.clone(),
            image_px: config.image_px,
            batch: config.batch,
            seed: config.seed,
            cache: HashMap::new(),
            room_bytes: config.cache_bytes,
            order: None,
        }
    }

    /// The images of `step` (from 1): `[batch, px, px, 3]` in [-1, 1].
    pub fn batch(&mut self, step: u64) -> Result<Vec<f32>> {
        let first = (step - 1) * self.batch as u64;
        let places: Vec<(u64, usize)> = (first..first + self.batch as u64).map(|at| (at, self.index_at(at))).collect();
        let mut missing: Vec<usize> =
            places.iter().map(|&(_, index)| index).filter(|index| !self.cache.contains_key(index)).collect();
        missing.sort_unstable();
        missing.dedup();
        let resized = |index: usize| Ok((index, squared(&self.source.load(index)?, self.image_px)?.pixels));
        let fresh: HashMap<usize, Vec<u8>> = missing.into_par_iter().map(resized).collect::<Result<_>>()?;
        let image_values = self.image_px * self.image_px * 3;
        let mut out = vec![0.0; self.batch * image_values];
        out.par_chunks_mut(image_values).zip(&places).for_each(|(out, &(at, index))| {
            let pixels = fresh.get(&index).unwrap_or_else(|| &self.cache[&index]);
            augmented(pixels, out, self.image_px, &self.augment, &Philox::named(self.seed, "extractor.augment"), at);
        });
        for (index, pixels) in fresh {
            let bytes = pixels.len() as u64;
            if bytes <= self.room_bytes {
                self.room_bytes -= bytes;
                self.cache.insert(index, pixels);
            }
        }
        Ok(out)
    }

    /// The patch at one place of the endless sequence of shuffled passes.
    fn index_at(&mut self, at: u64) -> usize {
        let count = self.source.len() as u64;
        let pass = at / count;
        if self.order.as_ref().is_none_or(|(known, _)| *known != pass) {
            let shuffle = Philox::named(self.seed, &format!("extractor.order.{pass}"));
            self.order = Some((pass, shuffle.permutation(count as usize)));
        }
        self.order.as_ref().map_or(0, |(_, order)| order[(at % count) as usize])
    }
}

/// The image at `image_px` squared; errors where it has no pixels.
pub(super) fn squared(image: &RgbImage, image_px: usize) -> Result<RgbImage> {
    if image.width_px == 0 || image.height_px == 0 || image.pixels.len() != image.width_px * image.height_px * 3 {
        return Err(Error::shape("extractor", format!("a patch of {}x{} px", image.width_px, image.height_px)));
    }
    Ok(image.resize_bilinear(image_px, image_px))
}

/// One of the eight symmetries of the square, then brightness, contrast and colour, by chance.
fn augmented(pixels: &[u8], out: &mut [f32], px: usize, augment: &AugmentConfig, chance: &Philox, at: u64) {
    let [bits, ..] = chance.block(2 * at);
    let (mirror, upside_down) = (augment.flips && bits & 1 == 1, augment.flips && bits & 2 == 2);
    let transpose = augment.rotations && bits & 4 == 4;
    // A transposition makes a rotation only together with a mirror image: where flips are off, it takes its own.
    let (mirror, upside_down) = if augment.rotations && !augment.flips {
        let half_turn = bits & 1 == 1;
        (half_turn ^ transpose, half_turn)
    } else {
        (mirror, upside_down)
    };
    let jitter = colour_curves(pixels, augment.colour_jitter, chance.uniform4(2 * at + 1));
    for (y, row) in out.chunks_exact_mut(px * 3).enumerate() {
        for (x, value) in row.chunks_exact_mut(3).enumerate() {
            let (x, y) = (if mirror { px - 1 - x } else { x }, if upside_down { px - 1 - y } else { y });
            let from = if transpose { (x * px + y) * 3 } else { (y * px + x) * 3 };
            for (channel, value) in value.iter_mut().enumerate() {
                let stored = pixels[from + channel];
                *value = match &jitter {
                    None => scaled(f32::from(stored)),
                    Some(curves) => curves[channel][usize::from(stored)],
                };
            }
        }
    }
}

/// A byte to [-1, 1].
pub(super) fn scaled(byte: f32) -> f32 {
    byte / 127.5 - 1.0
}

/// Per channel, what each byte becomes: a gain per channel, then contrast about the image's mean, clamped.
fn colour_curves(pixels: &[u8], strength: f64, uniforms: [f64; 4]) -> Option<[[f32; 256]; 3]> {
    if strength == 0.0 {
        return None;
    }
    let factor = uniforms.map(|u| 1.0 + strength * (2.0 * u - 1.0));
    let mean = pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / pixels.len().max(1) as f64;
    Some(std::array::from_fn(|channel| {
        std::array::from_fn(|byte| {
            let gained = byte as f64 * factor[channel];
            scaled((mean + (gained - mean) * factor[3]).clamp(0.0, 255.0) as f32)
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(px: usize) -> Vec<u8> {
        (0..px * px * 3).map(|i| (i % 251) as u8).collect()
    }

    fn turned(flips: bool, rotations: bool, at: u64) -> Vec<f32> {
        let augment = AugmentConfig { flips, rotations, ..ExtractorConfig::small().augment };
        let mut out = vec![0.0; 4 * 4 * 3];
        augmented(&numbered(4), &mut out, 4, &augment, &Philox::named(5, "t"), at);
        out
    }

    fn distinct(flips: bool, rotations: bool) -> usize {
        let mut seen: Vec<Vec<u32>> =
            (0..200).map(|at| turned(flips, rotations, at).into_iter().map(f32::to_bits).collect()).collect();
        seen.sort();
        seen.dedup();
        seen.len()
    }

    #[test]
    fn flips_and_rotations_give_their_groups() {
        assert_eq!((distinct(false, false), distinct(true, false)), (1, 4));
        assert_eq!((distinct(false, true), distinct(true, true)), (4, 8));
    }

    #[test]
    fn every_patch_is_seen_once_a_pass_whatever_the_cache() -> Result<()> {
        let images = (0..7).map(|i| RgbImage::filled(9, 9, [i * 30, 0, 0])).collect();
        let source = MemoryPatches(images);
        let mut config = ExtractorConfig { batch: 7, image_px: 8, ..ExtractorConfig::small() };
        let mut means = Vec::new();
        for cache_bytes in [0, 3 * 8 * 8 * 3, 1 << 20] {
            config.cache_bytes = cache_bytes;
            let mut loader = BatchLoader::new(&source, &config);
            let reds = |batch: Vec<f32>| batch.chunks(8 * 8 * 3).map(|image| image[0].to_bits()).collect::<Vec<_>>();
            means.push((reds(loader.batch(1)?), reds(loader.batch(2)?)));
        }
        assert!(means.iter().all(|m| *m == means[0]), "a cache changes nothing");
        let (mut first, mut second) = means.swap_remove(0);
        assert_ne!(first, second, "passes are shuffled anew");
        first.sort_unstable();
        second.sort_unstable();
        assert_eq!(first, second);
        first.dedup();
        assert_eq!(first.len(), 7);
        Ok(())
    }
}
