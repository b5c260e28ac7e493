//! Difference and Laplacian of Gaussian: how much of an image lies in one band of scales.
//!
//! Both are the sum of two separable filters on 8-bit grey taken as numbers from 0 to 255:
//!
//! - `dog`: `G(σ) - G(1.6 σ)`, 1.6 being the ratio at which it resembles the Laplacian most (Marr and Hildreth 1980);
//! - `log`: `∂²G(σ)/∂x² + ∂²G(σ)/∂y²`.
//!
//! Kernels, their radius `floor(4 σ + 0.5)` and the border are scipy.ndimage's (`gaussian_filter` and `gaussian_laplace` with `mode="reflect"`,
//! `truncate=4`): sampled, the Gaussian made to sum to one, and the image mirrored about its outer edges, over and over
//! where it is smaller than the kernel. Kernels are made in f64 and applied in f32, columns first. The score is the energy: the mean square, in
//! squared grey levels.

use super::{
    grey::GreyImage,
    kernels::{shannon::batch, texture::MAX_RADIUS},
    response::Response,
    selector::{self, Score, Work},
};
use crate::{
    device::Device,
    error::{Error, Result},
    image::RgbImage,
    vectorised,
};

/// Standard deviations from the centre at which kernels end, as scipy's default.
pub const TRUNCATE: f64 = 4.0;
/// The wider Gaussian's standard deviation in those of the narrower one.
pub const DOG_RATIO: f64 = 1.6;
/// Beyond this the kernel is wider than most patches.
const MAX_SIGMA_PX: f64 = 100.0;

fn check(name: &str, sigma_px: f64) -> Result<()> {
    if sigma_px > 0.0 && sigma_px <= MAX_SIGMA_PX {
        return Ok(());
    }
    Err(Error::Usage(format!("{name}: a sigma of {sigma_px} px; give one above 0 and at most {MAX_SIGMA_PX}")))
}

/// The taps from the centre outwards.
fn gaussian(sigma: f64) -> Vec<f64> {
    let radius = (TRUNCATE * sigma + 0.5) as usize;
    let weights: Vec<f64> = (0..=radius).map(|x| (-0.5 * (x * x) as f64 / (sigma * sigma)).exp()).collect();
    let total = 2.0 * weights[1..].iter().sum::<f64>() + weights[0];
    weights.iter().map(|w| w / total).collect()
}

fn second_derivative(sigma: f64) -> Vec<f64> {
    let square = sigma * sigma;
    let bend = |(x, g): (usize, f64)| g * ((x * x) as f64 / (square * square) - 1.0 / square);
    gaussian(sigma).into_iter().enumerate().map(bend).collect()
}

/// The sum of two separable symmetric filters.
#[derive(Clone, PartialEq, Debug)]
pub struct BandPass {
    /// Taps of both filters down the columns, from the centre outwards: `down[k][i]` is filter `i`'s.
    down: Vec<[f32; 2]>,
    /// And along the rows.
    along: Vec<[f32; 2]>,
}

/// Pixels whose sums are in registers at once.
const LANES: usize = 32;

impl BandPass {
    /// The difference of two Gaussians, the narrower of standard deviation `sigma_px`; `name` is for messages.
    ///
    /// # Errors
    /// A standard deviation that cannot be.
    pub fn difference(name: &str, sigma_px: f64) -> Result<BandPass> {
        check(name, sigma_px)?;
        let (narrow, wide) = (gaussian(sigma_px), gaussian(sigma_px * DOG_RATIO));
        let minus = wide.iter().map(|v| -v).collect();
        Ok(BandPass::new([narrow.clone(), wide], [narrow, minus]))
    }

    /// The Laplacian of a Gaussian.
    ///
    /// # Errors
    /// A standard deviation that cannot be.
    pub fn laplacian(name: &str, sigma_px: f64) -> Result<BandPass> {
        check(name, sigma_px)?;
        let (smooth, bend) = (gaussian(sigma_px), second_derivative(sigma_px));
        Ok(BandPass::new([smooth.clone(), bend.clone()], [bend, smooth]))
    }

    fn new(down: [Vec<f64>; 2], along: [Vec<f64>; 2]) -> BandPass {
        let interleaved = |[a, b]: [Vec<f64>; 2]| -> Vec<[f32; 2]> {
            let tap = |v: &[f64], k: usize| v.get(k).copied().unwrap_or(0.0) as f32;
            (0..a.len().max(b.len())).map(|k| [tap(&a, k), tap(&b, k)]).collect()
        };
        BandPass { down: interleaved(down), along: interleaved(along) }
    }

    /// Taps down the columns and along the rows, from the centre outwards, of both filters.
    pub fn taps(&self) -> [&[[f32; 2]]; 2] {
        [&self.down, &self.along]
    }

    pub fn radius(&self) -> usize {
        self.down.len() - 1
    }

    /// Mean square of the filtered image; 0 for an image without pixels.
    pub fn energy(&self, grey: &GreyImage) -> f64 {
        let mut total = 0.0;
        self.for_each_row(grey, |_, row| {
            let mut sums = [0.0f32; LANES];
            let mut parts = row.chunks_exact(LANES);
            vectorised!({
                for part in &mut parts {
                    for i in 0..LANES {
                        sums[i] += part[i] * part[i];
                    }
                }
            });
            let rest: f32 = parts.remainder().iter().map(|v| v * v).sum();
            total += sums.iter().map(|&s| f64::from(s)).sum::<f64>() + f64::from(rest);
        });
        total / grey.values.len().max(1) as f64
    }

    /// The filtered image, in grey levels.
    pub fn response(&self, grey: &GreyImage) -> Vec<f32> {
        let mut out = Vec::with_capacity(grey.values.len());
        self.for_each_row(grey, |_, row| out.extend_from_slice(row));
        out
    }

    fn for_each_row(&self, grey: &GreyImage, mut visit: impl FnMut(usize, &[f32])) {
        let (width, height, radius) = (grey.width_px, grey.height_px, self.radius());
        if grey.is_empty() {
            return;
        }
        let whole = width.next_multiple_of(LANES);
        // Rows as floats, each made once: those that a kernel reaches are in the ring at one time.
        let slots = height.min(2 * radius + 2);
        // Rows lie an odd number of vectors apart: at a power of two they would all fall into the same lines of the cache.
        let pitch = ((whole / LANES) | 1) * LANES;
        let mut ring = vec![0.0f32; slots * pitch];
        let mut loaded = 0;
        let mut columns = [(); 2].map(|()| vec![0.0f32; whole + 2 * radius]);
        let mut out = vec![0.0f32; whole];
        for y in 0..height {
            while loaded < height.min(y + radius + 1) {
                let row = &mut ring[loaded % slots * pitch..][..width];
                row.iter_mut().zip(grey.row(loaded)).for_each(|(to, &from)| *to = f32::from(from));
                loaded += 1;
            }
            let row = |at: isize| &ring[mirrored(at, height) % slots * pitch..][..whole];
            self.sum_columns(|k| [row(y as isize - k as isize), row((y + k) as isize)], &mut columns, whole);
            for padded in &mut columns {
                for i in 0..radius {
                    padded[radius - 1 - i] = padded[radius + mirrored(-1 - i as isize, width)];
                    padded[radius + width + i] = padded[radius + mirrored((width + i) as isize, width)];
                }
            }
            self.sum_row(&columns, &mut out);
            visit(y, &out[..width]);
        }
    }

    /// `columns[i][radius + x] = Σ_k down[k][i] (row[y - k][x] + row[y + k][x])`.
    fn sum_columns<'a>(&self, rows: impl Fn(usize) -> [&'a [f32]; 2], columns: &mut [Vec<f32>; 2], whole: usize) {
        let radius = self.radius();
        let pairs: Vec<([f32; 2], [&[f32]; 2])> =
            self.down.iter().enumerate().map(|(k, &taps)| (taps, rows(k))).collect();
        let [first, second] = columns;
        vectorised!({
            for start in (0..whole).step_by(LANES) {
                let (mut a, mut b) = ([0.0f32; LANES], [0.0f32; LANES]);
                for (k, (taps, [above, below])) in pairs.iter().enumerate() {
                    let (above, below) = (&above[start..start + LANES], &below[start..start + LANES]);
                    let [tap_a, tap_b] = *taps;
                    for i in 0..LANES {
                        let sum = if k == 0 { above[i] } else { above[i] + below[i] };
                        a[i] += tap_a * sum;
                        b[i] += tap_b * sum;
                    }
                }
                first[radius + start..][..LANES].copy_from_slice(&a);
                second[radius + start..][..LANES].copy_from_slice(&b);
            }
        });
    }

    /// `out[x] = Σ_i Σ_k along[k][i] (columns[i][x - k] + columns[i][x + k])`.
    fn sum_row(&self, columns: &[Vec<f32>; 2], out: &mut [f32]) {
        let radius = self.radius();
        let [first, second] = columns;
        vectorised!({
            for (block, out) in out.chunks_exact_mut(LANES).enumerate() {
                let centre = radius + block * LANES;
                let mut sums = [0.0f32; LANES];
                for (k, &[tap_a, tap_b]) in self.along.iter().enumerate() {
                    let (a0, a1) = (&first[centre - k..][..LANES], &first[centre + k..][..LANES]);
                    let (b0, b1) = (&second[centre - k..][..LANES], &second[centre + k..][..LANES]);
                    for i in 0..LANES {
                        let (a, b) = if k == 0 { (a0[i], b0[i]) } else { (a0[i] + a1[i], b0[i] + b1[i]) };
                        sums[i] += tap_a * a + tap_b * b;
                    }
                }
                out.copy_from_slice(&sums);
            }
        });
    }
}

/// The pixel that stands at `at` when an extent is mirrored about its outer edges without end: `c b a | a b c | c b a`.
#[inline]
pub fn mirrored(at: isize, extent: usize) -> usize {
    if (0..extent as isize).contains(&at) {
        return at as usize;
    }
    let within = at.rem_euclid(2 * extent as isize) as usize;
    if within < extent { within } else { 2 * extent - 1 - within }
}

/// Energies of a filter's images. Filters of a radius beyond [`MAX_RADIUS`] have no kernel: those are the CPU's everywhere.
pub(super) struct BandPassScore {
    filter: BandPass,
    device: Option<Device>,
}

impl BandPassScore {
    pub(super) fn new(filter: BandPass, device: &Device) -> BandPassScore {
        let device = selector::accelerator(device).filter(|_| filter.radius() <= MAX_RADIUS);
        BandPassScore { filter, device }
    }
}

impl Score for BandPassScore {
    fn work(&self, _: Option<u8>) -> Work<'_> {
        let filter = &self.filter;
        match &self.device {
            None => Work::Each(Box::new(|image| filter.energy(&GreyImage::of(image)))),
            Some(device) => Work::Queued(Box::new(|images| {
                let energies = batch(images, device)?.band_energy(filter)?;
                Ok(Box::new(move || energies.to_vec::<f64>()))
            })),
        }
    }

    fn response(&self, image: &RgbImage, _: Option<u8>) -> Result<Response> {
        let values = self.filter.response(&GreyImage::of(image));
        Ok(Response::of(image, values.into_iter().map(f32::abs).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::{dog::Dog, log::Log};

    #[test]
    fn mirrors_repeat_the_outer_pixels() {
        let seen: Vec<usize> = (-7..10).map(|at| mirrored(at, 3)).collect();
        assert_eq!(seen, [0, 0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1, 2, 2]);
        assert_eq!(mirrored(-5, 1), 0);
    }

    /// Against the definition, in f64, at sizes around the kernel and the vector width.
    #[test]
    fn equals_the_definition_at_every_size() -> Result<()> {
        for filter in [Dog::default().filter()?, Log::default().filter()?, Log { sigma_px: 0.1 }.filter()?] {
            for (width_px, height_px) in [(1, 1), (1, 40), (40, 1), (3, 2), (33, 9), (64, 31), (5, 70)] {
                let values = (0..width_px * height_px).map(|i| (i * 7919 % 251) as u8).collect();
                let grey = GreyImage { width_px, height_px, values };
                let radius = filter.radius() as isize;
                let tap = |taps: &[[f32; 2]], at: isize, i: usize| f64::from(taps[at.unsigned_abs()][i]);
                let exact = |x: isize, y: isize| -> f64 {
                    let mut sum = 0.0;
                    for (r, s) in (-radius..=radius).flat_map(|r| (-radius..=radius).map(move |s| (r, s))) {
                        let (row, column) = (mirrored(y + r, height_px), mirrored(x + s, width_px));
                        let weight: f64 = (0..2).map(|i| tap(&filter.down, r, i) * tap(&filter.along, s, i)).sum();
                        sum += weight * f64::from(grey.row(row)[column]);
                    }
                    sum
                };
                let found = filter.response(&grey);
                for (i, found) in found.iter().enumerate() {
                    let wanted = exact((i % width_px) as isize, (i / width_px) as isize);
                    assert!((f64::from(*found) - wanted).abs() < 2e-4, "{width_px} x {height_px}: {found} {wanted}");
                }
                let energy = found.iter().map(|v| f64::from(v * v)).sum::<f64>() / found.len() as f64;
                assert!((filter.energy(&grey) - energy).abs() <= 1e-5 * energy + 1e-9);
            }
        }
        assert!(Dog { sigma_px: 0.0 }.filter().is_err() && Log { sigma_px: f64::NAN }.filter().is_err());
        Ok(())
    }
}
