//! Draws a slide of the modules design.
//!
//! What NEST and RATE follow must not be seen in colours: the chromatin of a nest's nucleus has the same values at every setting,
//! in another order. A smooth field of the wanted grain ranks the nucleus's pixels, and the values are dealt out by rank, after
//! the optics have spread everything else; dividing and dying cells have the same area, outline and darkness.

use super::{
    super::{
        anatomy::Anatomy,
        appearance::Appearance,
        fibres::Grid,
        paint::{self, Stains, ramp},
        random::{Noise, Stream, mix},
    },
    layout::{Cell, CellKind, Compartment, Layout},
};
use crate::image::RgbImage;

/// Haematoxylin of a nest's nucleus on average, and how far its chromatin departs from it.
const NUCLEUS: f32 = 0.95;
const CHROMATIN: f32 = 0.5;
/// Size of the chromatin's clumps at the two ends of NEST.
const CLUMP_UM: (f32, f32) = (1.0, 4.2);
const FIGURE: f32 = 1.75;
/// Two plates: 2 x 7.0 x 1.6 µm; four fragments of radius 1.34 µm. Area 22.4 and 22.6 µm², outline 34.4 and 33.7 µm.
const PLATE_UM: (f32, f32) = (3.5, 0.8);
const FRAGMENT_UM: f32 = 1.34;
/// Sensor noise over dust, in standard deviations of the slide's.
const DUST_NOISE: f32 = 4.0;

/// `texture` is NEST's, from 0 to 1.
pub fn paint(
    layout: &Layout,
    texture: f32,
    appearance: &Appearance,
    side: usize,
    mpp: f32,
    stream: &mut Stream,
) -> RgbImage {
    let mut stains = Stains::new(side, mpp);
    // The anatomy of plain stroma: what else there is, is painted over it.
    let stroma = Anatomy::of_stroma(layout.size_um, layout.depth.clone(), layout.flow.clone());
    paint::paint_stroma(&mut stains, &stroma, stream);
    compartments(&mut stains, layout, stream);
    let chromatin = Noise::new(stream);
    for cell in &layout.cells {
        flat_nucleus(&mut stains, cell);
    }
    layout.nuclei.iter().for_each(|nucleus| paint::paint_nucleus(&mut stains, nucleus, chromatin));
    stains.spread();
    let clump_um = CLUMP_UM.0 * (CLUMP_UM.1 / CLUMP_UM.0).powf(texture);
    for cell in layout.cells.iter().filter(|c| c.kind == CellKind::Nest) {
        textured_nucleus(&mut stains, cell, clump_um, chromatin);
    }
    let mut light = paint::expose(&stains, appearance, stream);
    layout.blur.iter().for_each(|spot| paint::defocus(&mut light, side, mpp, spot));
    layout.folds.iter().for_each(|fold| paint::ink(&mut light, side, mpp, fold, stream));
    dust(&mut light, layout, side, mpp, appearance.noise, stream);
    paint::digitise(&light, side, appearance.noise, stream)
}

/// Cytoplasm of nests and of decoys, and pools, smooth as glass.
fn compartments(stains: &mut Stains, layout: &Layout, stream: &mut Stream) {
    let grain = Noise::new(stream);
    let pool = (stream.uniform(0.45, 0.6) as f32, stream.uniform(0.65, 0.85) as f32);
    let membership = |wanted: &[Compartment]| {
        let is = |c: &Compartment| f32::from(u8::from(wanted.contains(c)));
        Grid {
            side: layout.compartments.side,
            cell_um: layout.compartments.cell_um,
            values: layout.compartments.values.iter().map(is).collect(),
        }
    };
    let cellular = membership(&[Compartment::Nest, Compartment::Decoy]);
    let pools = membership(&[Compartment::Pool]);
    let half = layout.size_um / 2.0;
    for (at, x, y) in stains.around(half, half, half) {
        let cover = ramp(cellular.smooth(x, y), 0.3, 0.7);
        if cover > 0.0 {
            let speckle = grain.at(x / 1.2, y / 1.2) - 0.5;
            stains.over(at, cover, 0.17 + 0.05 * speckle, 0.4 + 0.1 * speckle);
        }
        let cover = ramp(pools.smooth(x, y), 0.3, 0.7);
        if cover > 0.0 {
            stains.over(at, cover, pool.0, pool.1);
        }
    }
}

/// A nucleus without chromatin, or the figure of a dividing or a dying cell.
fn flat_nucleus(stains: &mut Stains, cell: &Cell) {
    let angle = (cell.seed & 0xffff) as f32 / 65536.0 * std::f32::consts::TAU;
    let (s, c) = angle.sin_cos();
    for (at, x, y) in stains.around(cell.x_um, cell.y_um, cell.radius_um + 2.0) {
        let (dx, dy) = (x - cell.x_um, y - cell.y_um);
        let (u, v) = (dx * c + dy * s, dy * c - dx * s);
        let (inside_um, density) = match cell.kind {
            CellKind::Nest | CellKind::Decoy => (cell.radius_um - u.hypot(v), NUCLEUS),
            CellKind::Dividing => {
                let plate = |centre: f32| (PLATE_UM.0 - u.abs()).min(PLATE_UM.1 - (v - centre).abs());
                (plate(-1.9).max(plate(1.9)), FIGURE)
            }
            CellKind::Dying => {
                let fragment = |a: f32, b: f32| FRAGMENT_UM - (u - a).hypot(v - b);
                let all = [fragment(-2.2, -0.4), fragment(0.3, 2.2), fragment(2.3, 0.2), fragment(-0.2, -2.4)];
                (all.into_iter().fold(f32::MIN, f32::max), FIGURE)
            }
        };
        stains.over(at, 0.97 * ramp(inside_um, -0.35, 0.35), density, 0.18);
    }
}

/// Deals the chromatin's values to the pixels well inside a nucleus, in the order of a field with clumps of this size.
fn textured_nucleus(stains: &mut Stains, cell: &Cell, clump_um: f32, chromatin: Noise) {
    let part = |shift: u32| (cell.seed >> shift & 0xfff) as f32 / 16.0;
    let offset = (part(16), part(28));
    let mut pixels: Vec<(f32, usize)> = stains
        .around(cell.x_um, cell.y_um, cell.radius_um)
        .filter(|(_, x, y)| (x - cell.x_um).hypot(y - cell.y_um) < cell.radius_um - 0.8)
        .map(|(at, x, y)| (chromatin.at((x + offset.0) / clump_um, (y + offset.1) / clump_um), at))
        .collect();
    pixels.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let n = pixels.len() as f32;
    for (rank, (_, at)) in pixels.into_iter().enumerate() {
        let value = CHROMATIN * (2.0 * (rank as f32 + 0.5) / n - 1.0);
        stains.add_haematoxylin(at, value);
    }
}

/// Dust on the glass: noise far stronger than the sensor's.
fn dust(light: &mut [f32], layout: &Layout, side: usize, mpp: f32, noise: f32, stream: &mut Stream) {
    let key = stream.bits();
    for (at, rgb) in light.chunks_exact_mut(3).enumerate() {
        let (x, y) = ((at % side) as f32 * mpp, (at / side) as f32 * mpp);
        if layout.dust.nearest(x, y) > 0.0 {
            let word = mix(key ^ (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let triangle = ((word & 0xff) + (word >> 8 & 0xff)) as f32 / 104.5 - 2.44;
            rgb.iter_mut().for_each(|v| *v += DUST_NOISE * noise * triangle);
        }
    }
}
