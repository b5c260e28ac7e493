//! Sequential draws from the counter-based generator, and smooth noise for textures.
//!
//! Every slide, patient and layer has a stream of its own and can be drawn in any order, on any number of threads, with
//! the same result. Textures hash lattice points with the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable
//! pseudorandom number generators", OOPSLA 2014), which is several times cheaper than a block of Philox.

use std::f64::consts::TAU;

use rand::RngExt;

use crate::random::{Philox, Sequence};

const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bijective scrambling of 64 bits.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One stream of random numbers, drawn one after the other.
#[derive(Clone, Debug)]
pub struct Stream(Sequence);

impl Stream {
    /// The stream named `name`, number `index`, of the run with this `seed`.
    pub fn new(seed: u64, name: &str, index: u64) -> Stream {
        Stream(Philox::named(seed, &format!("synth {name} {index}")).sequence())
    }

    pub fn bits(&mut self) -> u64 {
        self.0.random()
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        self.0.random()
    }

    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A direction in radians, uniform in [0, 2π).
    pub fn angle(&mut self) -> f32 {
        self.uniform(0.0, TAU) as f32
    }

    /// Uniform among `0..count`; 0 if `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        ((self.unit() * count as f64) as usize).min(count.saturating_sub(1))
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (TAU * self.unit()).cos()
    }
}

/// Smooth lattice noise with values in [0, 1]: bilinear blend, with eased weights, of random values on the integers.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    key: u64,
}

impl Noise {
    pub fn new(stream: &mut Stream) -> Noise {
        Noise { key: stream.bits() }
    }

    fn lattice(self, x: i64, y: i64) -> f32 {
        let word =
            mix(self.key ^ (x as u64).wrapping_mul(GOLDEN_RATIO) ^ (y as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f));
        (word >> 40) as f32 / (1u64 << 24) as f32
    }

    pub fn at(self, x: f32, y: f32) -> f32 {
        let (x0, y0) = (x.floor(), y.floor());
        let ease = |t: f32| t * t * (3.0 - 2.0 * t);
        let (tx, ty) = (ease(x - x0), ease(y - y0));
        let (ix, iy) = (x0 as i64, y0 as i64);
        let top = self.lattice(ix, iy) * (1.0 - tx) + self.lattice(ix + 1, iy) * tx;
        let bottom = self.lattice(ix, iy + 1) * (1.0 - tx) + self.lattice(ix + 1, iy + 1) * tx;
        top * (1.0 - ty) + bottom * ty
    }

    /// Sum of `octaves` octaves, each twice as fine and half as strong; centred on 0, within about ±1.
    pub fn fractal(self, x: f32, y: f32, octaves: u32) -> f32 {
        let (mut sum, mut weight, mut total, mut scale) = (0.0, 1.0, 0.0, 1.0);
        for octave in 0..octaves {
            // Octaves are shifted so that their lattices do not line up at the origin.
            let shift = 17.31 * octave as f32;
            sum += weight * (self.at(x * scale + shift, y * scale - shift) - 0.5);
            total += 0.5 * weight;
            weight *= 0.5;
            scale *= 2.0;
        }
        sum / total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_name_and_index_and_repeat() {
        let first = |seed, name, index| Stream::new(seed, name, index).bits();
        assert_eq!(first(1, "slide", 4), first(1, "slide", 4));
        let all = [first(1, "slide", 4), first(1, "slide", 5), first(1, "stain", 4), first(2, "slide", 4)];
        for i in 0..all.len() {
            for j in 0..i {
                assert_ne!(all[i], all[j]);
            }
        }
    }

    #[test]
    fn moments_are_right() {
        let mut stream = Stream::new(7, "moments", 0);
        let count = 40_000;
        let (mut sum, mut squares, mut uniform) = (0.0, 0.0, 0.0);
        for _ in 0..count {
            let value = stream.normal();
            sum += value;
            squares += value * value;
            uniform += stream.unit();
        }
        let n = f64::from(count);
        assert!((sum / n).abs() < 0.02 && (squares / n - 1.0).abs() < 0.03 && (uniform / n - 0.5).abs() < 0.01);
    }
}
