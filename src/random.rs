//! Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, as Random123 and cuRAND compute it).
//!
//! A number is a function of (seed, stream, position) alone. Resuming needs no generator state, any number of threads
//! draws the same values, and the GPU kernels draw bit-identical ones. Where numbers are drawn one after the other and no
//! position matters, [`Philox::sequence`] is a generator that `rand`'s distributions work on.

use std::convert::Infallible;

use rand::TryRng;

/// The keyed generator of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Philox {
    key: [u32; 2],
    /// Upper half of the counter: cuRAND's subsequence.
    stream: u64,
}

impl Philox {
    pub fn new(seed: u64, stream: u64) -> Philox {
        Philox { key: [seed as u32, (seed >> 32) as u32], stream }
    }

    /// A stream named by a text, such as a parameter's or a stage's name, so that adding one never shifts another.
    pub fn named(seed: u64, name: &str) -> Philox {
        Philox::new(seed, fnv1a(name.as_bytes()))
    }

    /// Key and stream, low words first, as kernels take them.
    pub fn words(&self) -> [u32; 4] {
        [self.key[0], self.key[1], self.stream as u32, (self.stream >> 32) as u32]
    }

    /// The four words at one position of the stream.
    pub fn block(&self, position: u64) -> [u32; 4] {
        let counter = [position as u32, (position >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32];
        philox4x32_10(counter, self.key)
    }

    /// Four uniform numbers in (0, 1], as cuRAND maps words to floats.
    pub fn uniform4(&self, position: u64) -> [f64; 4] {
        self.block(position).map(|word| f64::from(word) * 2f64.powi(-32) + 2f64.powi(-33))
    }

    /// Four normal numbers by Box and Muller's transform.
    pub fn normal4(&self, position: u64) -> [f64; 4] {
        let [a, b, c, d] = self.uniform4(position);
        let pair = |u: f64, v: f64| {
            let radius = (-2.0 * u.ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * v).sin_cos();
            (radius * cos, radius * sin)
        };
        let ((w, x), (y, z)) = (pair(a, b), pair(c, d));
        [w, x, y, z]
    }

    /// The first `count` normal numbers of the stream.
    pub fn normals(&self, count: usize) -> Vec<f64> {
        (0..count.div_ceil(4)).flat_map(|i| self.normal4(i as u64)).take(count).collect()
    }

    /// The first `count` uniform numbers of the stream, in (0, 1].
    pub fn uniforms(&self, count: usize) -> Vec<f64> {
        (0..count.div_ceil(4)).flat_map(|i| self.uniform4(i as u64)).take(count).collect()
    }

    /// A number below `bound`, from one position: multiply-shift on 64 bits, bias below 2⁻³².
    pub fn below(&self, position: u64, bound: usize) -> usize {
        let [a, b, ..] = self.block(position);
        let word = u64::from(a) << 32 | u64::from(b);
        ((u128::from(word) * bound as u128) >> 64) as usize
    }

    /// The stream from its beginning, word after word.
    pub fn sequence(self) -> Sequence {
        Sequence { stream: self, position: 0, unread: None }
    }

    /// A random order of `0..count` (Fisher and Yates).
    pub fn permutation(&self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            order.swap(i, self.below(i as u64, i + 1));
        }
        order
    }
}

/// One stream read in order: a generator for [`rand`]. Two 64-bit words a block, the first words high.
#[derive(Clone, Debug)]
pub struct Sequence {
    stream: Philox,
    position: u64,
    /// The second half of the last block, if it is still to be used.
    unread: Option<u64>,
}

impl TryRng for Sequence {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.try_next_u64()? >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        if let Some(word) = self.unread.take() {
            return Ok(word);
        }
        let [a, b, c, d] = self.stream.block(self.position);
        self.position += 1;
        self.unread = Some(u64::from(c) << 32 | u64::from(d));
        Ok(u64::from(a) << 32 | u64::from(b))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.try_next_u64()?.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let product0 = u64::from(counter[0]) * 0xD251_1F53;
        let product1 = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (product1 >> 32) as u32 ^ counter[1] ^ key[0],
            product1 as u32,
            (product0 >> 32) as u32 ^ counter[3] ^ key[1],
            product0 as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// FNV-1a, 64 bits: turns names into streams.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use rand::{Rng, seq::SliceRandom};

    use super::*;

    /// Known answers published with Random123.
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32_10([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let (counter, key) = ([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(philox4x32_10(counter, key), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn a_sequence_reads_its_stream_in_order() {
        let stream = Philox::named(5, "sequence");
        let mut sequence = stream.sequence();
        let high_first = |[a, b, c, d]: [u32; 4]| [(a, b), (c, d)].map(|(h, l)| u64::from(h) << 32 | u64::from(l));
        let expected: Vec<u64> = (0..3).flat_map(|i| high_first(stream.block(i))).collect();
        assert_eq!((0..6).map(|_| sequence.next_u64()).collect::<Vec<_>>(), expected);
        let mut bytes = [0; 11];
        stream.sequence().fill_bytes(&mut bytes);
        assert_eq!(bytes[..8], expected[0].to_le_bytes());
        assert_eq!(bytes[8..], expected[1].to_le_bytes()[..3]);
    }

    /// Every order of four things is drawn equally often: 24 classes, 23 degrees of freedom, p = 0.001 at 49.7.
    #[test]
    fn shuffles_of_rand_are_uniform_on_it() {
        let mut sequence = Philox::named(1, "shuffles").sequence();
        let mut counts = std::collections::HashMap::new();
        let draws = 24_000;
        for _ in 0..draws {
            let mut order = [0, 1, 2, 3];
            order.shuffle(&mut sequence);
            *counts.entry(order).or_insert(0.0) += 1.0;
        }
        let expected = f64::from(draws) / 24.0;
        let chi_squared: f64 = counts.values().map(|n: &f64| (n - expected).powi(2) / expected).sum();
        assert!(counts.len() == 24 && chi_squared < 49.7, "{} orders, chi squared {chi_squared}", counts.len());
    }

    #[test]
    fn permutations_hold_every_index_once() {
        for count in [0, 1, 2, 17, 1000] {
            let mut order = Philox::named(3, "order").permutation(count);
            order.sort_unstable();
            assert_eq!(order, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn normals_have_the_moments_of_a_normal() {
        let x = Philox::named(7, "moments").normals(40_000);
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "mean {mean}, variance {variance}");
    }
}
