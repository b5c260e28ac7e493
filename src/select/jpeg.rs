//! Codec `jpeg`: the size of a baseline JPEG at a quality, because a threshold in bits such as the paper's 1.6e6 only means
//! something for a named compressor, and JPEG files are what its figures look like.
//!
//! The size is computed, no file is made. Everything is integer arithmetic, so the number is the same on every machine:
//! 1. Edges are repeated to whole 16 x 16 units. Y, Cb, Cr are JFIF's, in 16-bit fixed point; Cb and Cr are averaged over 2 x 2
//!    pixels (4:2:0), all rounded to nearest, halves up.
//! 2. 8 x 8 blocks, less 128, are transformed by the DCT-II with factors in 1/8192, columns after rows; three bits behind the
//!    point are kept between and after the passes.
//! 3. Coefficients are divided by Annex K's tables, scaled to the quality as the Independent JPEG Group does (quality 50 is the
//!    table itself), and rounded to nearest, halves away from zero.
//! 4. The entropy-coded bits are counted with Annex K's Huffman tables: differences of DC per component in the order of the
//!    units, runs and sizes of AC, end of block; then rounded up to bytes.
//! 5. 625 bytes of markers are added: the start and end, one JFIF header, two quantisation tables, the frame, four Huffman
//!    tables, the scan.
//!
//! Left out, because it depends on where every bit falls: the zero that follows each byte 0xFF in a file's scan (on tissue
//! 0.2 to 0.5 percent). A flat image costs six bits per block, 0.14 bits per pixel.

use std::sync::LazyLock;

use crate::image::RgbImage;

/// Quality where none is given.
pub const DEFAULT_QUALITY: u8 = 75;
const MARKER_BYTES: u64 = 625;

/// Annex K.1, in zigzag order: luminance, chrominance.
const QUANTISATION: [[u16; 64]; 2] = [
    [
        16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51,
        61, 60, 57, 51, 56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77,
        113, 121, 112, 100, 120, 92, 101, 103, 99,
    ],
    [
        17, 18, 18, 24, 21, 24, 47, 26, 26, 47, 99, 66, 56, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
        99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
        99, 99, 99, 99, 99, 99, 99, 99,
    ],
];

/// Annex K.3: code lengths of the DC sizes 0 to 11.
const DC_LENGTHS: [[u8; 12]; 2] = [[2, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9], [2, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]];

/// Annex K.3: how many AC code words have 1, 2 ... 16 bits.
const AC_WORDS: [[u8; 16]; 2] =
    [[0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125], [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119]];

/// Annex K.3: the AC symbols (run << 4 | size) by length of their word; those not named follow in ascending order.
const AC_SYMBOLS: [&[u8]; 2] = [
    &[
        0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71,
        0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0, 0x24, 0x33, 0x62, 0x72,
        0x82,
    ],
    &[
        0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22,
        0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0, 0x15, 0x62, 0x72, 0xd1,
        0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1,
    ],
];

/// Bits of every AC symbol: its code word and, for a coefficient, its `size` further bits.
static AC_BITS: LazyLock<[[u8; 256]; 2]> = LazyLock::new(|| [0, 1].map(ac_bits));

fn ac_bits(component: usize) -> [u8; 256] {
    let named = AC_SYMBOLS[component];
    let coefficient = (0..=255u8).filter(|s| (1..=10).contains(&(s & 15)));
    let mut others: Vec<u8> = coefficient.chain([0x00, 0xf0]).filter(|s| !named.contains(s)).collect();
    others.sort_unstable();
    let lengths = (1u8..).zip(AC_WORDS[component]).flat_map(|(length, words)| (0..words).map(move |_| length));
    let mut bits = [0; 256];
    for (&symbol, length) in named.iter().chain(&others).zip(lengths) {
        bits[usize::from(symbol)] = length + (symbol & 15);
    }
    bits
}

/// Where the coefficients of a block stand in zigzag order.
const ZIGZAG: [u8; 64] = zigzag();

const fn zigzag() -> [u8; 64] {
    let mut order = [0; 64];
    let (mut x, mut y) = (0usize, 0usize);
    let mut i = 0;
    while i < 64 {
        order[i] = (8 * y + x) as u8;
        // Even diagonals run up to the right, odd ones down to the left.
        if (x + y) % 2 == 0 {
            if x == 7 {
                y += 1;
            } else if y == 0 {
                x += 1;
            } else {
                x += 1;
                y -= 1;
            }
        } else if y == 7 {
            x += 1;
        } else if x == 0 {
            y += 1;
        } else {
            x -= 1;
            y += 1;
        }
        i += 1;
    }
    order
}

/// `8192 x c(u)/2 x cos((2x + 1) u pi / 16)`, rounded; rows `u`.
const DCT: [[i32; 8]; 8] = [
    [2896, 2896, 2896, 2896, 2896, 2896, 2896, 2896],
    [4017, 3406, 2276, 799, -799, -2276, -3406, -4017],
    [3784, 1567, -1567, -3784, -3784, -1567, 1567, 3784],
    [3406, -799, -4017, -2276, 2276, 4017, 799, -3406],
    [2896, -2896, -2896, 2896, 2896, -2896, -2896, 2896],
    [2276, -4017, 799, 3406, -3406, -799, 4017, -2276],
    [1567, -3784, 3784, -1567, -1567, 3784, -3784, 1567],
    [799, -2276, 3406, -4017, 4017, -3406, 2276, -799],
];

/// Coefficients in 1/8 of a block of samples less 128, in natural order.
fn transform(block: &[i32; 64]) -> [i32; 64] {
    let mut rows = [0i32; 64];
    for y in 0..8 {
        for (x, factors) in DCT_COLUMNS.iter().enumerate() {
            let sample = block[8 * y + x];
            for u in 0..8 {
                rows[8 * y + u] += factors[u] * sample;
            }
        }
    }
    // From 1/8192 to 1/8.
    rows.iter_mut().for_each(|r| *r = (*r + (1 << 9)) >> 10);
    let mut out = [0i32; 64];
    for v in 0..8 {
        let row = &mut out[8 * v..8 * v + 8];
        for y in 0..8 {
            let factor = DCT[v][y];
            for u in 0..8 {
                row[u] += factor * rows[8 * y + u];
            }
        }
        row.iter_mut().for_each(|r| *r = (*r + (1 << 12)) >> 13);
    }
    out
}

/// [`DCT`] with rows `x`.
const DCT_COLUMNS: [[i32; 8]; 8] = {
    let mut columns = [[0; 8]; 8];
    let mut i = 0;
    while i < 64 {
        columns[i % 8][i / 8] = DCT[i / 8][i % 8];
        i += 1;
    }
    columns
};

/// How much of Annex K's tables a quality takes, in percent, as the Independent JPEG Group has it.
pub fn table_percent(quality: u8) -> u32 {
    match u32::from(quality.clamp(1, 100)) {
        quality @ ..50 => 5000 / quality,
        quality => 200 - 2 * quality,
    }
}

/// A quantiser in natural order: reciprocals for coefficients in 1/8.
struct Quantiser {
    divisor: [i32; 64],
    /// `2^32 / divisor`, rounded up: exact for every coefficient there is (see `reciprocals_divide_exactly`).
    reciprocal: [u64; 64],
}

impl Quantiser {
    fn new(component: usize, quality: u8) -> Quantiser {
        let scale = table_percent(quality);
        let mut divisor = [0; 64];
        for (&at, &table) in ZIGZAG.iter().zip(&QUANTISATION[component]) {
            divisor[usize::from(at)] = 8 * ((u32::from(table) * scale + 50) / 100).clamp(1, 255) as i32;
        }
        Quantiser { divisor, reciprocal: divisor.map(|d| (1u64 << 32).div_ceil(d as u64)) }
    }

    fn quantise(&self, coefficients: &[i32; 64]) -> [i32; 64] {
        let mut out = [0; 64];
        for i in 0..64 {
            let size = coefficients[i].unsigned_abs() + self.divisor[i] as u32 / 2;
            let quotient = ((u64::from(size) * self.reciprocal[i]) >> 32) as i32;
            out[i] = if coefficients[i] < 0 { -quotient } else { quotient };
        }
        out
    }
}

/// Bits needed for a number's size: 0 for 0, 1 for +-1, 2 for +-2 and +-3 ...
fn size_bits(value: i32) -> u32 {
    32 - value.unsigned_abs().leading_zeros()
}

/// Entropy-coded bits of one quantised block; `dc` is the component's last DC value.
fn block_bits(quantised: &[i32; 64], component: usize, ac_bits: &[u8; 256], dc: &mut i32) -> u64 {
    let size = size_bits(quantised[0] - *dc).min(11);
    *dc = quantised[0];
    let mut bits = u64::from(u32::from(DC_LENGTHS[component][size as usize]) + size);
    let mut coded = 0u64;
    for (i, &at) in ZIGZAG.iter().enumerate().skip(1) {
        coded |= u64::from(quantised[usize::from(at)] != 0) << i;
    }
    let mut last = 0;
    while coded != 0 {
        let at = coded.trailing_zeros();
        coded &= coded - 1;
        let run = at - last - 1;
        last = at;
        let size = size_bits(quantised[usize::from(ZIGZAG[at as usize])]).min(10);
        bits += u64::from(run / 16) * u64::from(ac_bits[0xf0]);
        bits += u64::from(ac_bits[((run % 16) << 4 | size) as usize]);
    }
    if last != 63 {
        bits += u64::from(ac_bits[0x00]);
    }
    bits
}

/// Bits of a baseline 4:2:0 JPEG of the image, `quality` 1 to 100 (values outside are moved in). An image without pixels: 0.
pub fn bits(image: &RgbImage, quality: u8) -> u64 {
    if image.width_px == 0 || image.height_px == 0 {
        return 0;
    }
    file_bits(coded_bits(image, quality))
}

/// Bits of a file with so many bits of entropy-coded blocks.
pub fn file_bits(coded_bits: u64) -> u64 {
    8 * (MARKER_BYTES + coded_bits.div_ceil(8))
}

/// Bits of the entropy-coded blocks.
pub fn coded_bits(image: &RgbImage, quality: u8) -> u64 {
    let quantisers = [Quantiser::new(0, quality), Quantiser::new(1, quality)];
    let ac_bits = &*AC_BITS;
    let mut dc = [0; 3];
    let mut total = 0;
    let mut code = |block: &[i32; 64], component: usize| {
        let table = component.min(1);
        let quantised = quantisers[table].quantise(&transform(block));
        total += block_bits(&quantised, table, &ac_bits[table], &mut dc[component]);
    };
    for unit_y in (0..image.height_px).step_by(16) {
        for unit_x in (0..image.width_px).step_by(16) {
            let unit = Unit::read(image, unit_x, unit_y);
            unit.luma.iter().for_each(|block| code(block, 0));
            code(&unit.cb, 1);
            code(&unit.cr, 2);
        }
    }
    total
}

/// 16 x 16 pixels as four blocks of Y and one each of Cb and Cr, all less 128.
struct Unit {
    luma: [[i32; 64]; 4],
    cb: [i32; 64],
    cr: [i32; 64],
}

impl Unit {
    fn read(image: &RgbImage, x0: usize, y0: usize) -> Unit {
        let (mut red, mut green, mut blue) = ([[0i32; 16]; 16], [[0i32; 16]; 16], [[0i32; 16]; 16]);
        for y in 0..16 {
            let row = (y0 + y).min(image.height_px - 1) * image.width_px;
            for x in 0..16 {
                let at = 3 * (row + (x0 + x).min(image.width_px - 1));
                red[y][x] = i32::from(image.pixels[at]);
                green[y][x] = i32::from(image.pixels[at + 1]);
                blue[y][x] = i32::from(image.pixels[at + 2]);
            }
        }
        let mut unit = Unit { luma: [[0; 64]; 4], cb: [0; 64], cr: [0; 64] };
        // Sums over 2 x 2 pixels of Cb and Cr.
        let (mut cb, mut cr) = ([0i32; 64], [0i32; 64]);
        for y in 0..16 {
            for x in 0..16 {
                let (r, g, b) = (red[y][x], green[y][x], blue[y][x]);
                let luma = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16;
                unit.luma[2 * (y / 8) + x / 8][8 * (y % 8) + x % 8] = luma - 128;
                let quarter = 8 * (y / 2) + x / 2;
                cb[quarter] += (-11059 * r - 21709 * g + 32768 * b + (128 << 16) + 32767) >> 16;
                cr[quarter] += (32768 * r - 27439 * g - 5329 * b + (128 << 16) + 32767) >> 16;
            }
        }
        for i in 0..64 {
            unit.cb[i] = ((cb[i] + 2) >> 2) - 128;
            unit.cr[i] = ((cr[i] + 2) >> 2) - 128;
        }
        unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_complete_prefix_codes_less_one_word() {
        for component in 0..2 {
            let space: f64 = (1..).zip(AC_WORDS[component]).map(|(l, n)| f64::from(n) / f64::from(1 << l)).sum();
            assert_eq!(space, 1.0 - 1.0 / 65536.0);
            assert_eq!(AC_BITS[component].iter().filter(|b| **b > 0).count(), 162);
            assert_eq!(AC_WORDS[component].iter().map(|n| usize::from(*n)).sum::<usize>(), 162);
        }
        assert_eq!(AC_BITS[0][0x00], 4);
        assert_eq!(AC_BITS[0][0xf0], 11);
        assert_eq!(AC_BITS[1][0x01], 2 + 1);
        assert_eq!(AC_BITS[1][0xfa], 16 + 10);
    }

    #[test]
    fn the_transform_is_the_cosine_transform() {
        let mut block = [0i32; 64];
        let mut state = 3u32;
        for sample in &mut block {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            *sample = (state >> 24) as i32 - 128;
        }
        let found = transform(&block);
        for v in 0..8 {
            for u in 0..8 {
                let mut sum = 0.0;
                for y in 0..8 {
                    for x in 0..8 {
                        let angle = |n: usize, k: usize| ((2 * n + 1) * k) as f64 * std::f64::consts::PI / 16.0;
                        sum += f64::from(block[8 * y + x]) * angle(x, u).cos() * angle(y, v).cos();
                    }
                }
                let norm = |k: usize| if k == 0 { 0.5f64.sqrt() } else { 1.0 };
                let exact = 8.0 * 0.25 * norm(u) * norm(v) * sum;
                assert!((f64::from(found[8 * v + u]) - exact).abs() < 2.0, "{u} {v}: {} {exact}", found[8 * v + u]);
            }
        }
    }

    #[test]
    fn reciprocals_divide_exactly() {
        for divisor in (1..=255u64).map(|d| 8 * d) {
            let reciprocal = (1u64 << 32).div_ceil(divisor);
            for size in 0..=(8 * 2048 + 1024) {
                assert_eq!((size * reciprocal) >> 32, size / divisor);
            }
        }
    }

    #[test]
    fn flat_blocks_cost_six_bits() {
        // DC of the first block of each component, then no difference and an end of block each.
        let grey = RgbImage::filled(32, 16, [128; 3]);
        let end_of_block = [2 + 4, 2 + 2];
        let unit = 4 * end_of_block[0] + 2 * end_of_block[1];
        assert_eq!(bits(&grey, 75), 8 * (MARKER_BYTES + (2 * unit as u64).div_ceil(8)));
    }
}
