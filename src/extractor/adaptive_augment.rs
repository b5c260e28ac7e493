//! Adaptive discriminator augmentation (Karras et al. 2020b, "Training generative adversarial networks with limited
//! data"), which S2FGAN trains with: the critic sees real and generated images through random transforms, each applied
//! with a probability p that rises while the critic is too sure of the training images and falls otherwise.
//!
//! Of the paper's transforms these are pixel blitting (mirror image, quarter turns, whole-pixel shifts by up to an eighth,
//! reflected at the border) and the colour group's brightness, contrast and saturation; its fractional geometry is left
//! out. All of them are differentiable: pixels are gathered, colours multiplied by a matrix.

use serde::{Deserialize, Serialize};

use crate::{
    device::{Device, host::HostBuffer},
    dtype::DType,
    error::Result,
    random::Philox,
    tensor::Tensor,
};

/// Steps between two changes of p.
const INTERVAL_STEPS: u64 = 4;
/// Largest shift, as a fraction of the image side.
const LARGEST_SHIFT: f64 = 0.125;
/// Weight of red, green and blue in what saturation keeps: their common axis.
const LUMA: f64 = 1.0 / 3.0;

/// The probability and what it is steered by. Part of a checkpoint.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Strength {
    pub p: f64,
    sign_sum: f64,
    logits: u64,
    steps: u64,
}

impl Strength {
    /// Takes in the critic's logits at real images. Where more than `target` of them (as positive minus negative share)
    /// are positive, p rises, at a speed that takes it from 0 to 1 within `length_images`.
    pub fn steer(&mut self, real_logits: &Tensor, target: f64, length_images: f64) -> Result<()> {
        let logits = real_logits.to_vec::<f64>()?;
        self.sign_sum += logits.iter().filter(|l| **l != 0.0).map(|l| l.signum()).sum::<f64>();
        self.logits += logits.len() as u64;
        self.steps += 1;
        if self.steps == INTERVAL_STEPS {
            let direction = if self.sign_sum > target * self.logits as f64 { 1.0 } else { -1.0 };
            let p = (self.p + direction * self.logits as f64 / length_images).clamp(0.0, 1.0);
            *self = Strength { p, ..Strength::default() };
        }
        Ok(())
    }
}

/// One image's transform.
struct Transform {
    mirror: bool,
    quarter_turns: usize,
    shift_px: [i64; 2],
    /// Row-major, applied to red, green and blue as a row vector.
    colour: [f64; 9],
    brightness: f64,
}

/// The transforms of a batch of `n` images as numbers, each image's drawn for itself.
pub struct Drawn {
    /// For every pixel of the transformed images the pixel of the originals that it shows.
    rows: Vec<i32>,
    colours: Vec<f64>,
    brightness: Vec<f64>,
}

impl Drawn {
    /// From `chance` at positions of `place` onward; none where `p` is 0.
    pub fn new([n, px]: [usize; 2], p: f64, chance: &Philox, place: u64) -> Option<Drawn> {
        if p == 0.0 {
            return None;
        }
        let drawn: Vec<Transform> = (0..n as u64).map(|i| draw(p, chance, (place + i) * 4, px)).collect();
        let rows = |(i, t)| sources(t, px).map(move |row| (i * px * px + row) as i32);
        Some(Drawn {
            rows: drawn.iter().enumerate().flat_map(rows).collect(),
            colours: drawn.iter().flat_map(|t| t.colour).collect(),
            brightness: drawn.iter().map(|t| t.brightness).collect(),
        })
    }

    /// For images of type `dtype` on `device`.
    pub fn into_tensors(self, dtype: DType, device: &Device) -> Result<Transforms> {
        let (pixels, n) = (self.rows.len(), self.brightness.len());
        Ok(Transforms {
            rows: Tensor::from_vec(self.rows, [pixels], device)?,
            colours: Tensor::from_f64(&self.colours, [n, 3, 3], dtype, device)?,
            brightness: Tensor::from_f64(&self.brightness, [n, 1, 1], dtype, device)?,
        })
    }
}

/// The transforms of a batch where its images are.
pub struct Transforms {
    rows: Tensor,
    colours: Tensor,
    brightness: Tensor,
}

impl Transforms {
    /// Another batch's, in the same memory.
    pub fn overwrite(&mut self, drawn: Drawn) -> Result<()> {
        let dtype = self.colours.dtype();
        self.rows.overwrite(HostBuffer::I32(drawn.rows))?;
        self.colours.overwrite(HostBuffer::F64(drawn.colours).cast(dtype))?;
        self.brightness.overwrite(HostBuffer::F64(drawn.brightness).cast(dtype))
    }

    /// `images` `[n, px, px, 3]`, each under its transform.
    pub fn apply(&self, images: &Tensor) -> Result<Tensor> {
        let [n, px, _, c] = images.shape().nhwc().unwrap_or_default();
        let pixels = images.reshape([n * px * px, c])?;
        let moved = pixels.gather_rows(&self.rows)?.reshape([n, px * px, c])?;
        moved.matmul(&self.colours, false, false)?.add(&self.brightness)?.reshape(images.shape())
    }
}

/// Four blocks of random numbers make one transform; each part happens with probability `p`.
fn draw(p: f64, chance: &Philox, at: u64, px: usize) -> Transform {
    let happens = chance.uniform4(at).map(|u| u <= p);
    let more = chance.uniform4(at + 1).map(|u| u <= p);
    let [side, turn, right, down] = chance.uniform4(at + 2);
    let [brightness, contrast, saturation, _] = chance.normal4(at + 3);
    let largest = (px as f64 * LARGEST_SHIFT).floor();
    let shift = |u: f64| ((2.0 * u - 1.0) * largest).round() as i64;
    let contrast = if more[0] { (0.5 * contrast).exp2() } else { 1.0 };
    let saturation = if more[1] { saturation.exp2() } else { 1.0 };
    // Along the grey axis colours keep their length, across it they are stretched by the saturation.
    let entry = |at: usize| {
        let identity = if at.is_multiple_of(4) { 1.0 } else { 0.0 };
        contrast * (LUMA + (identity - LUMA) * saturation)
    };
    Transform {
        mirror: happens[0] && side > 0.5,
        quarter_turns: if happens[1] { (turn * 4.0).ceil() as usize % 4 } else { 0 },
        shift_px: if happens[2] { [shift(right), shift(down)] } else { [0, 0] },
        colour: std::array::from_fn(entry),
        brightness: if happens[3] { 0.2 * brightness } else { 0.0 },
    }
}

/// For every pixel of the transformed image, row after row, the pixel of the original that it shows.
fn sources(t: &Transform, px: usize) -> impl Iterator<Item = usize> + '_ {
    let reflected = move |at: i64| {
        let period = 2 * px as i64;
        let at = at.rem_euclid(period);
        (if at < px as i64 { at } else { period - 1 - at }) as usize
    };
    (0..px * px).map(move |i| {
        let (x, y) = (reflected((i % px) as i64 - t.shift_px[0]), reflected((i / px) as i64 - t.shift_px[1]));
        let (x, y) = (0..t.quarter_turns).fold((x, y), |(x, y), _| (y, px - 1 - x));
        y * px + if t.mirror { px - 1 - x } else { x }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tape;

    #[test]
    fn pixels_move_within_the_image_and_gradients_flow_back() -> Result<()> {
        let device = Device::cpu();
        let values: Vec<f64> = (0..6 * 8 * 8 * 3).map(|i| (i as f64 * 0.37).sin()).collect();
        let x = Tensor::from_f64(&values, [6, 8, 8, 3], DType::F64, &device)?;
        let chance = Philox::named(3, "t");
        assert!(Drawn::new([6, 8], 0.0, &chance, 0).is_none());
        let drawn = || Drawn::new([6, 8], 1.0, &chance, 0).expect("p is 1");
        let transforms = drawn().into_tensors(DType::F64, &device)?;
        let tape = Tape::start();
        tape.watch([&x]);
        let y = transforms.apply(&x)?;
        assert_ne!(y.to_vec::<f64>()?, values);
        let grads = tape.backward(&y.square()?.sum_all()?)?;
        let dx = grads.get(&x).expect("watched").to_vec::<f64>()?;
        // The map is affine, so along any direction the gradient predicts the change exactly up to second order.
        let step = 1e-4;
        let nudge: Vec<f64> = (0..values.len()).map(|i| step * (i as f64 * 1.7).cos()).collect();
        let loss = |sign: f64| -> Result<f64> {
            let moved: Vec<f64> = values.iter().zip(&nudge).map(|(v, n)| v + sign * n).collect();
            let x = Tensor::from_f64(&moved, [6, 8, 8, 3], DType::F64, &device)?;
            transforms.apply(&x)?.square()?.sum_all()?.item()
        };
        let predicted: f64 = dx.iter().zip(&nudge).map(|(d, n)| d * n).sum();
        let measured = (loss(1.0)? - loss(-1.0)?) / 2.0;
        assert!((predicted - measured).abs() < 1e-8 * predicted.abs().max(1.0), "{predicted} {measured}");
        let mut others = Drawn::new([6, 8], 1.0, &chance, 6).expect("p is 1").into_tensors(DType::F64, &device)?;
        assert_ne!(others.apply(&x)?.to_vec::<f64>()?, y.to_vec::<f64>()?);
        others.overwrite(drawn())?;
        assert_eq!(others.apply(&x)?.to_vec::<f64>()?, y.to_vec::<f64>()?);
        Ok(())
    }

    #[test]
    fn turns_and_mirrors_are_permutations() {
        for quarter_turns in 0..4 {
            for mirror in [false, true] {
                let t = Transform { mirror, quarter_turns, shift_px: [0, 0], colour: [0.0; 9], brightness: 0.0 };
                let mut seen: Vec<usize> = sources(&t, 5).collect();
                assert_eq!(seen[0] == 0, (quarter_turns, mirror) == (0, false) || (quarter_turns, mirror) == (3, true));
                seen.sort_unstable();
                assert_eq!(seen, (0..25).collect::<Vec<_>>());
            }
        }
        let t = Transform { mirror: false, quarter_turns: 0, shift_px: [1, 0], colour: [0.0; 9], brightness: 0.0 };
        assert_eq!(sources(&t, 3).take(3).collect::<Vec<_>>(), [0, 0, 1], "reflected at the border");
    }

    #[test]
    fn p_follows_the_critic() -> Result<()> {
        let device = Device::cpu();
        let (sure, unsure) =
            (Tensor::full(1.0, [5, 1], DType::F32, &device)?, Tensor::full(-1.0, [5, 1], DType::F32, &device)?);
        let mut strength = Strength::default();
        (0..40).try_for_each(|_| strength.steer(&sure, 0.6, 1000.0))?;
        assert!((strength.p - 0.2).abs() < 1e-12, "{strength:?}");
        (0..80).try_for_each(|_| strength.steer(&unsure, 0.6, 1000.0))?;
        assert_eq!(strength.p, 0.0);
        Ok(())
    }
}
