//! Tiles and strips without an image codec: none, LZW (both bit orders), deflate, PackBits; the horizontal predictor;
//! 1 to 16 bits; chunky and planar; grey, RGB, palette, CMYK, full-resolution YCbCr, with or without alpha.
//!
//! Source: TIFF 6.0. Samples of more than 8 bits keep their high byte; fewer than 8 are stretched to 0..255. Alpha is
//! composed over white, the colour of everything outside the slide. CMYK becomes RGB without a profile, as libtiff's
//! RGBA interface does.

use std::io::Read;

use super::page::{Alpha, Compression, Page, Photometric};

/// One plane's bytes, decompressed to exactly `rows` rows of the chunk. Errors are a clause about the data.
pub fn decompress(page: &Page, mut bytes: Vec<u8>, rows: u64) -> Result<Vec<u8>, String> {
    let row_bytes = page.row_bytes() as usize;
    let wanted = row_bytes * rows as usize;
    if page.lsb_first {
        bytes.iter_mut().for_each(|b| *b = b.reverse_bits());
    }
    let mut out = match page.compression {
        Compression::None => bytes,
        Compression::PackBits => unpack_bits(&bytes, wanted)?,
        Compression::Lzw => unpack_lzw(&bytes, wanted)?,
        _ => {
            let mut out = Vec::new();
            let read = flate2::read::ZlibDecoder::new(&bytes[..]).take(wanted as u64).read_to_end(&mut out);
            match read {
                Err(e) if out.len() < wanted => return Err(format!("holds broken deflate data ({e})")),
                _ => out,
            }
        }
    };
    if out.len() < wanted {
        return Err(format!("decodes to {} bytes where {wanted} are needed", out.len()));
    }
    out.truncate(wanted);
    if page.horizontal_predictor {
        let samples = if page.planar { 1 } else { page.samples };
        undo_predictor(&mut out, row_bytes, samples, page.bits, page.big_endian);
    }
    Ok(out)
}

fn unpack_bits(bytes: &[u8], wanted: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut at = 0;
    while out.len() < wanted {
        let Some(&control) = bytes.get(at) else { break };
        at += 1;
        match control as i8 {
            -128 => {}
            n if n >= 0 => {
                let count = n as usize + 1;
                let run = bytes.get(at..at + count).ok_or("holds broken PackBits data")?;
                out.extend_from_slice(run);
                at += count;
            }
            n => {
                let value = *bytes.get(at).ok_or("holds broken PackBits data")?;
                out.resize(out.len() + 1 + usize::from(n.unsigned_abs()), value);
                at += 1;
            }
        }
    }
    Ok(out)
}

fn unpack_lzw(bytes: &[u8], wanted: usize) -> Result<Vec<u8>, String> {
    // Files from before TIFF 6.0 pack codes from the low bit and widen them one code later.
    let old_style = matches!(bytes, [0, second, ..] if second & 1 == 1);
    let mut decoder = if old_style {
        weezl::decode::Decoder::new(weezl::BitOrder::Lsb, 8)
    } else {
        weezl::decode::Decoder::with_tiff_size_switch(weezl::BitOrder::Msb, 8)
    };
    let mut out = Vec::new();
    let (mut input, mut buffer) = (bytes, vec![0; wanted.clamp(1, 1 << 16)]);
    while out.len() < wanted {
        let step = decoder.decode_bytes(input, &mut buffer);
        input = &input[step.consumed_in..];
        out.extend_from_slice(&buffer[..step.consumed_out]);
        match step.status {
            Ok(weezl::LzwStatus::Ok) if step.consumed_in > 0 || step.consumed_out > 0 => {}
            Ok(_) => break,
            // Whatever came before the damage is enough, or the length check says so.
            Err(_) if out.len() >= wanted => break,
            Err(e) => return Err(format!("holds broken LZW data ({e})")),
        }
    }
    Ok(out)
}

fn undo_predictor(bytes: &mut [u8], row_bytes: usize, samples: usize, bits: u32, big_endian: bool) {
    for row in bytes.chunks_exact_mut(row_bytes.max(1)) {
        if bits == 8 {
            for i in samples..row.len() {
                row[i] = row[i].wrapping_add(row[i - samples]);
            }
        } else {
            let get = |row: &[u8], i: usize| {
                let pair = [row[2 * i], row[2 * i + 1]];
                if big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
            };
            for i in samples..row.len() / 2 {
                let sum = get(row, i).wrapping_add(get(row, i - samples));
                let pair = if big_endian { sum.to_be_bytes() } else { sum.to_le_bytes() };
                row[2 * i..2 * i + 2].copy_from_slice(&pair);
            }
        }
    }
}

/// The chunk's planes (one if chunky), rows `row_bytes` apart, as RGB of `width_px x height_px`, the valid part of the
/// chunk. The planes hold at least that many rows and columns.
pub fn to_rgb(page: &Page, planes: &[Vec<u8>], row_bytes: usize, width_px: usize, height_px: usize) -> Vec<u8> {
    let samples = page.samples;
    let mut rgb = vec![0; width_px * height_px * 3];
    let whole_rgb = page.bits == 8 && samples == 3 && !page.planar && page.photometric == Photometric::Rgb;
    // One sample a pixel: a table of 256 colours says it all.
    let table: Option<Vec<[u8; 3]>> = (samples == 1).then(|| (0..=255).map(|v| colour(page, &[v])).collect());
    let (mut row, mut one) = (vec![0_u8; width_px * samples], vec![0_u8; width_px]);
    for (y, out) in rgb.chunks_exact_mut(width_px * 3).enumerate() {
        if whole_rgb {
            out.copy_from_slice(&planes[0][y * row_bytes..][..width_px * 3]);
            continue;
        }
        if page.planar {
            for (s, plane) in planes.iter().enumerate() {
                unpack_row(page, &plane[y * row_bytes..][..row_bytes], &mut one);
                one.iter().enumerate().for_each(|(x, &v)| row[x * samples + s] = v);
            }
        } else {
            unpack_row(page, &planes[0][y * row_bytes..][..row_bytes], &mut row);
        }
        let (out, _) = out.as_chunks_mut::<3>();
        match &table {
            Some(table) => out.iter_mut().zip(&row).for_each(|(o, &v)| *o = table[usize::from(v)]),
            None => out.iter_mut().zip(row.chunks_exact(samples)).for_each(|(o, pixel)| *o = colour(page, pixel)),
        }
    }
    rgb
}

/// Samples of any depth as bytes; palette indices stay as they are.
fn unpack_row(page: &Page, bytes: &[u8], out: &mut [u8]) {
    let bits = page.bits as usize;
    let is_index = matches!(page.photometric, Photometric::Palette(_));
    match bits {
        8 => out.copy_from_slice(&bytes[..out.len()]),
        16 => {
            let high = usize::from(!page.big_endian);
            out.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(o, pair)| *o = pair[high]);
        }
        1 | 2 | 4 => {
            let (top, per_byte) = ((1_u8 << bits) - 1, 8 / bits);
            let stretch = if is_index { 1 } else { 255 / top };
            for (values, &byte) in out.chunks_mut(per_byte).zip(bytes) {
                for (k, value) in values.iter_mut().enumerate() {
                    *value = (byte >> (8 - bits * (k + 1)) & top) * stretch;
                }
            }
        }
        _ => {
            let top = (1_u32 << bits) - 1;
            for (i, o) in out.iter_mut().enumerate() {
                let value = (i * bits..(i + 1) * bits)
                    .fold(0_u32, |sum, bit| sum << 1 | u32::from(bytes[bit / 8] >> (7 - bit % 8) & 1));
                *o = match bits {
                    _ if is_index => value as u8,
                    ..8 => (value * 255 / top) as u8,
                    _ => (value >> (bits - 8)) as u8,
                };
            }
        }
    }
}

fn colour(page: &Page, pixel: &[u8]) -> [u8; 3] {
    let (rgb, colours) = match &page.photometric {
        Photometric::WhiteIsZero => ([255 - pixel[0]; 3], 1),
        Photometric::BlackIsZero => ([pixel[0]; 3], 1),
        Photometric::Rgb => ([pixel[0], pixel[1], pixel[2]], 3),
        Photometric::Palette(map) => (map.get(usize::from(pixel[0])).copied().unwrap_or_default(), 1),
        Photometric::Cmyk => {
            let black = 255 - u32::from(pixel[3]);
            ([0, 1, 2].map(|i| (black * (255 - u32::from(pixel[i])) / 255) as u8), 4)
        }
        Photometric::YCbCr => (super::colour::ycbcr_to_rgb(pixel[0], pixel[1], pixel[2]), 3),
    };
    match (page.alpha, pixel.get(colours)) {
        (Alpha::Associated, Some(&a)) => rgb.map(|c| c.saturating_add(255 - a)),
        (Alpha::Unassociated, Some(&a)) => {
            let a = u32::from(a);
            rgb.map(|c| ((u32::from(c) * a + 255 * (255 - a) + 127) / 255) as u8)
        }
        _ => rgb,
    }
}
