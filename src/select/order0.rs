//! Codec `order0`: the entropy of the predicted residuals, the cheapest score that still knows texture from flatness.
//!
//! The image is cut and predicted exactly as for `lz` (chunks of at most 16384 pixels, the median edge detector per channel).
//! A chunk with `N` samples in a channel, of which `c_r` have residual `r`, counts `N log2 N - sum over r of c_r log2 c_r`
//! bits in that channel; the score is the sum over channels and chunks, rounded up to whole bits. Logarithms are the integer
//! ones of `shannon::log2` (1/65536 bit), so the score is an integer sum and the same on every machine and in
//! every order. It is an estimate, not the length of a stream: no tables are paid for and no repeats are found. A
//! constant image scores next to nothing, white noise 24 bits per pixel.

use std::sync::LazyLock;

use super::shannon::{
    log2::log2_q16,
    predict::{self, CHUNK_BYTES, CHUNK_PIXELS, ChunkGrid},
};
use crate::image::RgbImage;

/// `n log2 n` in 1/65536 bit for every count that a channel of a chunk can have.
static N_LOG2_N: LazyLock<Vec<u64>> =
    LazyLock::new(|| (0..=CHUNK_PIXELS as u32).map(|n| u64::from(n) * u64::from(log2_q16(n.max(1)))).collect());

/// Bits of an image under the entropy of its residuals.
pub fn bits(image: &RgbImage) -> u64 {
    whole_bits(entropy_q16(image))
}

/// Rounds a sum in 1/65536 bit up to whole bits.
pub fn whole_bits(entropy_q16: u64) -> u64 {
    entropy_q16.div_ceil(1 << 16)
}

/// The same in 1/65536 bit.
pub fn entropy_q16(image: &RgbImage) -> u64 {
    if image.width_px == 0 || image.height_px == 0 {
        return 0;
    }
    let grid = ChunkGrid::new(image.width_px, image.height_px);
    let n_log2_n = &N_LOG2_N[..];
    let mut residuals = vec![0; CHUNK_BYTES];
    let mut total = 0;
    for index in 0..grid.len() {
        let area = grid.area(index);
        let residuals = &mut residuals[..area.bytes()];
        predict::residuals(image, area, residuals);
        for counts in channel_counts(residuals) {
            total += n_log2_n[area.bytes() / 3];
            total -= counts.iter().map(|&count| n_log2_n[usize::from(count)]).sum::<u64>();
        }
    }
    total
}

/// What each pixel costs under the statistics of its chunk, in bits, summed over channels: where the score comes from.
pub fn costs(image: &RgbImage) -> Vec<f32> {
    let mut costs = vec![0.0; image.width_px * image.height_px];
    if costs.is_empty() {
        return costs;
    }
    let grid = ChunkGrid::new(image.width_px, image.height_px);
    let mut residuals = vec![0; CHUNK_BYTES];
    for index in 0..grid.len() {
        let area = grid.area(index);
        let residuals = &mut residuals[..area.bytes()];
        predict::residuals(image, area, residuals);
        let pixels = (area.bytes() / 3) as f32;
        let cost =
            channel_counts(residuals).map(|counts| counts.map(|count| (pixels / f32::from(count.max(1))).log2()));
        for (i, residuals) in residuals.chunks_exact(3).enumerate() {
            let (x, y) = (area.x_px + i % area.width_px, area.y_px + i / area.width_px);
            costs[y * image.width_px + x] = (0..3).map(|c| cost[c][usize::from(residuals[c])]).sum();
        }
    }
    costs
}

/// Histograms of the three channels. Two are kept per channel, for even and odd pixels, so that equal neighbours do not
/// wait for each other.
fn channel_counts(residuals: &[u8]) -> [[u16; 256]; 3] {
    let mut counts = [[0u16; 256]; 6];
    let mut pairs = residuals.chunks_exact(6);
    for pair in &mut pairs {
        for (counts, &residual) in counts.iter_mut().zip(pair) {
            counts[usize::from(residual)] += 1;
        }
    }
    for (counts, &residual) in counts.iter_mut().zip(pairs.remainder()) {
        counts[usize::from(residual)] += 1;
    }
    std::array::from_fn(|channel| std::array::from_fn(|r| counts[channel][r] + counts[channel + 3][r]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_add_up_to_the_score() {
        let mut image = RgbImage::filled(200, 150, [200, 90, 160]);
        (0..30_000).for_each(|i| image.pixels[3 * i + i % 3] = ((i * 2654435761) >> 7) as u8 & 63);
        let total: f64 = costs(&image).iter().map(|&bits| f64::from(bits)).sum();
        assert!((total / bits(&image) as f64 - 1.0).abs() < 1e-3, "{total} {}", bits(&image));
        assert!(costs(&RgbImage::filled(0, 3, [0; 3])).is_empty());
    }

    #[test]
    fn known_entropies() {
        // 128 x 128 constant pixels: one residual differs (the first pixel), per channel.
        let constant = RgbImage::filled(128, 128, [200, 100, 50]);
        let n = 16384.0f64;
        let expected = 3.0 * (n * n.log2() - (n - 1.0) * (n - 1.0).log2());
        assert!((bits(&constant) as f64 - expected).abs() < 2.0, "{} {expected}", bits(&constant));
        assert_eq!(bits(&RgbImage::filled(1, 1, [1, 2, 3])), 0);
        assert_eq!(bits(&RgbImage::filled(0, 5, [0; 3])), 0);
        // Along one row the residual is the difference to the left: 0, 1, 1, 1 and then -1: entropies by hand.
        let mut row = RgbImage::filled(4, 1, [0; 3]);
        (0..4).for_each(|x| row.put(x, 0, [[0, 1, 2, 3][x]; 3]));
        let expected = 3.0 * (4.0 * 2.0 - 3.0 * 3.0f64.log2());
        assert_eq!(bits(&row), expected.ceil() as u64);
    }
}
