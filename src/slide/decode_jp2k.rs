//! JPEG 2000 tiles: codestreams and JP2 files with either wavelet, any precision up to 16 bits, subsampled components.
//!
//! Source: ITU-T T.800 (part 1). Why not a crate: pixels must equal OpenJPEG's, which OpenSlide, libtiff's readers and
//! tifffile use, and a decoder that rounds its 9/7 wavelet elsewhere differs in one sample of a thousand. Its price: 0.83 of
//! hayro-jpeg2000's speed on Aperio tiles (AMD EPYC, AVX-512; 0.88 on a Xeon); `cargo bench --bench slide`. Chroma of half
//! resolution is repeated, not filtered, as OpenSlide does. More than 8 bits keep the high byte.

use super::{
    failure::Failure,
    jp2k_blocks::BlockDecoder,
    jp2k_codestream::{Codestream, Size, TilePart, unwrap_boxes},
    jp2k_packets::{self as packets, Rect, Resolution, TileComponent},
    jp2k_wavelet::{self as wavelet, Lift, Plane},
};
use crate::{inlined, vectorised};

/// The most pixels one codestream may hold: its samples pass through 32-bit planes.
const MAX_PX: usize = 1 << 24;

/// Interleaved samples, `channels` per pixel.
pub struct Decoded {
    pub width_px: usize,
    pub height_px: usize,
    pub channels: usize,
    pub samples: Vec<u8>,
}

/// Decodes one codestream or JP2 file of at most `max_px` pixels (and at most [`MAX_PX`]). Errors are a clause about the
/// data.
pub fn decode(data: &[u8], max_px: usize) -> Result<Decoded, Failure> {
    let stream = Codestream::read(unwrap_boxes(data)?, max_px.min(MAX_PX))?;
    let size = &stream.size;
    let image = Rect { x0: size.x0, y0: size.y0, x1: size.x1, y1: size.y1 };
    let mut planes: Vec<(Rect, Vec<u8>)> = size
        .components
        .iter()
        .map(|c| {
            let area = image.shrunk(c.dx, c.dy);
            (area, vec![0; area.width() * area.height()])
        })
        .collect();
    let columns = (size.x1 - size.tile_x0).div_ceil(size.tile_width);
    let rows = (size.y1 - size.tile_y0).div_ceil(size.tile_height);
    if stream.tiles.len() < columns * rows {
        return Err("lacks JPEG 2000 tiles".into());
    }
    for tile in &stream.tiles {
        let (x, y) = (tile.index % columns * size.tile_width, tile.index / columns * size.tile_height);
        let area = Rect {
            x0: (size.tile_x0 + x).max(size.x0),
            y0: (size.tile_y0 + y).max(size.y0),
            x1: (size.tile_x0 + x + size.tile_width).min(size.x1),
            y1: (size.tile_y0 + y + size.tile_height).min(size.y1),
        };
        decode_tile(tile, area, size, &mut planes)?;
    }
    Ok(interleave(size, &image, &planes))
}

/// A component after its wavelet, in the arithmetic of that wavelet.
enum Samples {
    Real(Plane<f32>),
    Whole(Plane<i32>),
}

fn decode_tile(tile: &TilePart, area: Rect, size: &Size, planes: &mut [(Rect, Vec<u8>)]) -> Result<(), String> {
    let mut budget = packets::block_budget();
    let mut components = Vec::with_capacity(planes.len());
    for (coding, c) in tile.coding.components.iter().zip(&size.components) {
        let own = area.shrunk(c.dx, c.dy);
        components.push(TileComponent::new(own, coding, (c.dx, c.dy), c.precision, &mut budget)?);
    }
    packets::read(&tile.packets, area, &tile.coding, &mut components)?;
    let mut decoder = BlockDecoder::default();
    let mut samples: Vec<Samples> = components
        .iter()
        .zip(&tile.coding.components)
        .map(|(component, coding)| {
            if coding.reversible {
                // Whole values: the half bit of the reconstruction is cut off.
                Samples::Whole(transform(component, coding.style, &mut decoder, |value, _| value / 2))
            } else {
                Samples::Real(transform(component, coding.style, &mut decoder, |value, step| {
                    value as f32 * (0.5 * step)
                }))
            }
        })
        .collect();
    if tile.coding.colour_transform {
        undo_colour_transform(&mut samples)?;
    }
    for ((samples, c), (plane_area, plane)) in samples.iter().zip(&size.components).zip(planes) {
        let (most, shift) = ((1_i32 << c.precision) - 1, if c.signed { 0 } else { 1_i32 << (c.precision - 1) });
        match c.precision {
            8 => store(samples, plane_area, plane, inlined!(|v| v.saturating_add(shift).clamp(0, 255) as u8)),
            9.. => {
                let drop = c.precision - 8;
                store(samples, plane_area, plane, |v| (v.saturating_add(shift).clamp(0, most) >> drop) as u8);
            }
            _ => store(samples, plane_area, plane, |v| (v.saturating_add(shift).clamp(0, most) * 255 / most) as u8),
        }
    }
    Ok(())
}

/// Decodes the blocks of a component and undoes its wavelet, resolution by resolution.
fn transform<T: Lift>(
    component: &TileComponent,
    style: u8,
    decoder: &mut BlockDecoder,
    scale: impl Fn(i32, f32) -> T + Copy,
) -> Plane<T> {
    let mut low = Plane::default();
    for (r, resolution) in component.resolutions.iter().enumerate() {
        let mut bands = bands(resolution, style, decoder, scale).into_iter();
        low = match (r, bands.next(), bands.next(), bands.next()) {
            (0, Some(lowest), ..) => lowest,
            (_, Some(high_low), Some(low_high), Some(high_high)) => {
                let area = resolution.area;
                wavelet::compose(&low, &[high_low, low_high, high_high], [area.x0, area.y0, area.x1, area.y1])
            }
            _ => low,
        };
    }
    low
}

fn bands<T: Lift>(
    resolution: &Resolution,
    style: u8,
    decoder: &mut BlockDecoder,
    scale: impl Fn(i32, f32) -> T,
) -> Vec<Plane<T>> {
    let mut planes = Vec::with_capacity(resolution.bands.len());
    for band in &resolution.bands {
        let mut plane: Plane<T> = Plane::zeros(band.area.x0, band.area.y0, band.area.x1, band.area.y1);
        for block in band.precincts.iter().flat_map(|p| &p.blocks).filter(|b| b.included && b.bit_planes > 0) {
            let (width, height) = (block.area.width(), block.area.height());
            decoder.decode((width, height), band.kind, style, block.bit_planes, &block.segments);
            let (x, y) = (block.area.x0 - plane.x0, block.area.y0 - plane.y0);
            for (row, values) in decoder.values.chunks_exact(width).enumerate() {
                let start = (y + row) * plane.width + x;
                for (out, &value) in plane.samples[start..start + width].iter_mut().zip(values) {
                    *out = scale(value, band.step);
                }
            }
        }
        planes.push(plane);
    }
    planes
}

/// Luma and two differences back to red, green and blue, in the first three components.
fn undo_colour_transform(samples: &mut [Samples]) -> Result<(), String> {
    let apart = "transforms the colours of unlike JPEG 2000 components";
    let [first, second, third, ..] = samples else { return Err(apart.into()) };
    match (first, second, third) {
        (Samples::Real(a), Samples::Real(b), Samples::Real(c)) => {
            if a.samples.len() != b.samples.len() || a.samples.len() != c.samples.len() {
                return Err(apart.into());
            }
            vectorised!({
                for ((a, b), c) in a.samples.iter_mut().zip(&mut b.samples).zip(&mut c.samples) {
                    let (y, u, v) = (*a, *b, *c);
                    *a = y + v * 1.402;
                    *b = y - u * 0.34413 - v * 0.71414;
                    *c = y + u * 1.772;
                }
            });
        }
        (Samples::Whole(a), Samples::Whole(b), Samples::Whole(c)) => {
            if a.samples.len() != b.samples.len() || a.samples.len() != c.samples.len() {
                return Err(apart.into());
            }
            vectorised!({
                for ((a, b), c) in a.samples.iter_mut().zip(&mut b.samples).zip(&mut c.samples) {
                    let (y, u, v) = (*a, *b, *c);
                    let green = y.wrapping_sub(u.wrapping_add(v) >> 2);
                    (*a, *b, *c) = (v.wrapping_add(green), green, u.wrapping_add(green));
                }
            });
        }
        _ => return Err(apart.into()),
    }
    Ok(())
}

/// Copies a tile's samples, rounded to whole numbers, into the plane of the whole component.
fn store(from: &Samples, area: &Rect, plane: &mut [u8], to_byte: impl Fn(i32) -> u8 + Copy) {
    match from {
        Samples::Real(from) => store_plane(from, area, plane, inlined!(|v: f32| to_byte(v.round_ties_even() as i32))),
        Samples::Whole(from) => store_plane(from, area, plane, to_byte),
    }
}

fn store_plane<T: Copy>(from: &Plane<T>, area: &Rect, plane: &mut [u8], to_byte: impl Fn(T) -> u8 + Copy) {
    if from.width == 0 {
        return;
    }
    for (row, values) in from.samples.chunks_exact(from.width).enumerate() {
        let start = (from.y0 - area.y0 + row) * area.width() + from.x0 - area.x0;
        let out = &mut plane[start..start + from.width];
        vectorised!([to_byte], {
            for (out, &value) in out.iter_mut().zip(values) {
                *out = to_byte(value);
            }
        });
    }
}

fn interleave(size: &Size, image: &Rect, planes: &[(Rect, Vec<u8>)]) -> Decoded {
    let (width_px, height_px, channels) = (image.width(), image.height(), planes.len());
    let mut samples = vec![0; width_px * height_px * channels];
    for (k, (component, (area, plane))) in size.components.iter().zip(planes).enumerate() {
        if area.is_empty() {
            continue;
        }
        for (y, row) in samples.chunks_exact_mut(width_px * channels).enumerate() {
            let own_y = (y / component.dy).min(area.height() - 1);
            let source = &plane[own_y * area.width()..][..area.width()];
            let pixels = row.chunks_exact_mut(channels);
            if component.dx == 1 {
                pixels.zip(source).for_each(|(pixel, &v)| pixel[k] = v);
            } else {
                pixels.enumerate().for_each(|(x, pixel)| pixel[k] = source[(x / component.dx).min(source.len() - 1)]);
            }
        }
    }
    Decoded { width_px, height_px, channels, samples }
}
