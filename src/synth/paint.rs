//! Draws an anatomy as light through stained tissue.
//!
//! Two fields of stain concentration (haematoxylin and eosin) are painted layer over layer with analytic anti-aliasing,
//! then turned into colour by the law of Beer and Lambert: intensity = glass * exp(-(H * h + E * e)). Defocus and pen ink
//! act on the light, sensor noise comes last.

use super::{
    anatomy::{Anatomy, Gland, Vessel},
    appearance::{Appearance, BlurSpot, PenStroke},
    fibres,
    nuclei::{Nucleus, NucleusKind},
    random::{Noise, Stream, mix},
};
use crate::image::RgbImage;

/// Concentrations of the two stains, one value a pixel.
pub(super) struct Stains {
    side: usize,
    mpp: f32,
    haematoxylin: Vec<f32>,
    eosin: Vec<f32>,
}

/// 0 below `low`, 1 above `high`, smooth between.
pub(super) fn ramp(value: f32, low: f32, high: f32) -> f32 {
    let t = ((value - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

impl Stains {
    pub fn new(side: usize, mpp: f32) -> Stains {
        Stains { side, mpp, haematoxylin: vec![0.0; side * side], eosin: vec![0.0; side * side] }
    }

    pub fn add_haematoxylin(&mut self, at: usize, value: f32) {
        self.haematoxylin[at] += value;
    }

    /// The optics spread every point a little.
    pub fn spread(&mut self) {
        spread(&mut self.haematoxylin, self.side);
        spread(&mut self.eosin, self.side);
    }

    /// Blends a colour of stain over what is there.
    pub fn over(&mut self, at: usize, cover: f32, haematoxylin: f32, eosin: f32) {
        self.haematoxylin[at] += cover * (haematoxylin - self.haematoxylin[at]);
        self.eosin[at] += cover * (eosin - self.eosin[at]);
    }

    /// Index and position in micrometres of every pixel whose centre lies in the box around a point.
    pub fn around(&self, x_um: f32, y_um: f32, reach_um: f32) -> impl Iterator<Item = (usize, f32, f32)> + use<> {
        let (side, mpp) = (self.side, self.mpp);
        let low = |v: f32| (((v - reach_um) / mpp).floor().max(0.0) as usize).min(side);
        let high = |v: f32| (((v + reach_um) / mpp).ceil().max(0.0) as usize).min(side);
        let (columns, rows) = (low(x_um)..high(x_um), low(y_um)..high(y_um));
        rows.flat_map(move |y| {
            columns.clone().map(move |x| (y * side + x, (x as f32 + 0.5) * mpp, (y as f32 + 0.5) * mpp))
        })
    }
}

/// Draws a square slide of `side` pixels at `mpp` micrometres per pixel.
pub fn paint(anatomy: &Anatomy, appearance: &Appearance, side: usize, mpp: f32, stream: &mut Stream) -> RgbImage {
    let mut stains = Stains::new(side, mpp);
    paint_stroma(&mut stains, anatomy, stream);
    for gland in &anatomy.glands {
        paint_gland(&mut stains, gland, stream);
    }
    for vessel in &anatomy.vessels {
        paint_vessel(&mut stains, vessel);
    }
    let chromatin = Noise::new(stream);
    for nucleus in &anatomy.nuclei {
        paint_nucleus(&mut stains, nucleus, chromatin);
    }
    stains.spread();

    let mut light = expose(&stains, appearance, stream);
    for spot in &appearance.blur {
        defocus(&mut light, side, mpp, spot);
    }
    for stroke in &appearance.pen {
        ink(&mut light, side, mpp, stroke, stream);
    }
    digitise(&light, side, appearance.noise, stream)
}

/// Collagen: streaks of two widths along the fibres, looser and denser regions, clefts, a ragged edge.
pub(super) fn paint_stroma(stains: &mut Stains, anatomy: &Anatomy, stream: &mut Stream) {
    let size_um = anatomy.size_um;
    let lattice = |cell_um: f32| (size_um / cell_um).ceil().max(1.0) as usize;
    let fine = fibres::streaks(&anatomy.flow, lattice(1.0), 1.0, 16, stream);
    let coarse = fibres::streaks(&anatomy.flow, lattice(2.0), 2.0, 22, stream);
    let (region, grain) = (Noise::new(stream), Noise::new(stream));
    let looseness = stream.uniform(-0.15, 0.35) as f32;
    let base = stream.uniform(0.46, 0.6) as f32;
    for y in 0..stains.side {
        let y_um = (y as f32 + 0.5) * stains.mpp;
        for x in 0..stains.side {
            let x_um = (x as f32 + 0.5) * stains.mpp;
            let inside = ramp(anatomy.depth.smooth(x_um, y_um), -1.0, 1.5);
            if inside <= 0.0 {
                continue;
            }
            let (thin, thick) = (fine.smooth(x_um, y_um), coarse.smooth(x_um, y_um));
            let loose = region.fractal(x_um / 95.0, y_um / 95.0, 3) + looseness;
            let speckle = grain.at(x_um / 0.9, y_um / 0.9) - 0.5;
            let cleft = ramp(-thick - 0.35 * thin + 1.3 * loose, 1.05, 1.75);
            let eosin = base + 0.075 * thin + 0.11 * thick - 0.16 * loose + 0.1 * speckle;
            let eosin = eosin.max(0.08) * (1.0 - 0.93 * cleft);
            let haematoxylin = (0.075 + 0.018 * thick + 0.05 * speckle).max(0.0) * (1.0 - 0.9 * cleft);
            let at = y * stains.side + x;
            stains.haematoxylin[at] = inside * haematoxylin;
            stains.eosin[at] = inside * eosin;
        }
    }
}

/// Cytoplasm in a ring of cells with their borders and mucin, a lumen, a basement membrane.
fn paint_gland(stains: &mut Stains, gland: &Gland, stream: &mut Stream) {
    let (granules, wisps) = (Noise::new(stream), Noise::new(stream));
    let cytoplasm = stream.uniform(0.3, 0.46) as f32;
    let blueness = stream.uniform(0.1, 0.24) as f32;
    for (at, x, y) in stains.around(gland.x_um, gland.y_um, gland.reach_um + 3.0) {
        let (dx, dy) = (x - gland.x_um, y - gland.y_um);
        let (radius_um, angle) = (dx.hypot(dy), dy.atan2(dx));
        let outer_um = gland.outer(angle);
        let inside_um = outer_um - radius_um;
        if inside_um < -3.0 {
            continue;
        }
        // A thin pale gap, then the membrane, then the cells.
        stains.over(at, 0.45 * ramp(inside_um, -3.0, -1.6), 0.03, 0.14);
        stains.over(at, ramp(inside_um, -1.3, -0.6), 0.1, 0.72);
        let lumen_um = gland.lumen(angle);
        let wall_um = (outer_um - lumen_um).max(0.5);
        // 0 at the lumen, 1 at the base.
        let height = ((radius_um - lumen_um) / wall_um).clamp(0.0, 1.0);
        let speckle = granules.fractal(x / 1.6, y / 1.6, 2);
        let mut haematoxylin = blueness * (0.7 + 0.6 * height) + 0.05 * speckle;
        let mut eosin = cytoplasm * (1.1 - 0.25 * height) + 0.09 * speckle;
        let (border_um, goblet, across) = cell_at(gland, angle, radius_um);
        if goblet {
            // A vacuole of pale bluish mucin above the nucleus.
            let (u, v) = (across / 0.42, (height - 0.33) / 0.3);
            let vacuole = ramp(1.0 - u.hypot(v), 0.0, 0.25);
            haematoxylin += vacuole * (0.13 - haematoxylin);
            eosin += vacuole * (0.03 - eosin);
        }
        eosin += 0.16 * ramp(0.7 - border_um, 0.0, 0.5) * ramp(radius_um, 2.0, 6.0);
        eosin += 0.22 * ramp(1.6 - (radius_um - lumen_um), 0.0, 1.0);
        stains.over(at, ramp(inside_um, -0.4, 0.4), haematoxylin.max(0.0), eosin.max(0.0));
        let open = ramp(lumen_um - radius_um, -0.4, 0.5);
        if open > 0.0 {
            let wisp = ramp(wisps.fractal(x / 11.0, y / 11.0, 3) + 0.9 * gland.secretion - 0.55, 0.0, 0.5);
            stains.over(at, open, 0.015 + 0.04 * wisp, 0.02 + 0.3 * wisp * gland.secretion);
        }
    }
}

/// For a direction in a gland: micrometres to the nearest cell border, whether the cell there is a goblet cell, and the
/// position across the cell from -1/2 to 1/2.
fn cell_at(gland: &Gland, angle: f32, radius_um: f32) -> (f32, bool, f32) {
    let turn = std::f32::consts::TAU;
    let count = gland.borders.len();
    if count == 0 {
        return (f32::MAX, false, 0.0);
    }
    let angle = angle.rem_euclid(turn);
    let after = gland.borders.partition_point(|b| *b <= angle);
    let cell = (after + count - 1) % count;
    let from_start = (angle - gland.borders[cell]).rem_euclid(turn);
    let to_end = (gland.borders[after % count] - angle).rem_euclid(turn);
    let across = from_start / (from_start + to_end).max(1e-6) - 0.5;
    (radius_um * from_start.min(to_end), gland.goblet[cell], across)
}

fn paint_vessel(stains: &mut Stains, vessel: &Vessel) {
    let (s, c) = vessel.angle.sin_cos();
    for (at, x, y) in stains.around(vessel.x_um, vessel.y_um, vessel.half_long_um + 3.0) {
        let (dx, dy) = (x - vessel.x_um, y - vessel.y_um);
        let (u, v) = (dx * c + dy * s, dy * c - dx * s);
        let inside_um = (1.0 - (u / vessel.half_long_um).hypot(v / vessel.half_short_um)) * vessel.half_short_um;
        stains.over(at, ramp(inside_um, -1.6, -0.9), 0.12, 0.6);
        stains.over(at, ramp(inside_um, -0.3, 0.4), 0.01, 0.03);
    }
    for &(cx, cy) in &vessel.red_cells {
        for (at, x, y) in stains.around(cx, cy, 3.6) {
            let radius_um = (x - cx).hypot(y - cy);
            // Biconcave: paler in the middle.
            let eosin = 0.92 - 0.22 * ramp(1.6 - radius_um, 0.0, 1.4);
            stains.over(at, ramp(2.8 - radius_um, -0.3, 0.3), 0.02, eosin);
        }
    }
}

pub(super) fn paint_nucleus(stains: &mut Stains, nucleus: &Nucleus, chromatin: Noise) {
    let (s, c) = nucleus.angle.sin_cos();
    let part = |shift: u32| (nucleus.seed >> shift & 0xff) as f32 / 255.0;
    let (phase, dent) = ((6.3 * part(0), 6.3 * part(8)), 0.03 + 0.07 * part(16));
    let offset = (200.0 * part(24), 200.0 * part(32));
    // (base, rim, clump, clump size in µm, halo of pale cytoplasm in µm)
    let (base, rim, clump, clump_um, halo_um) = match nucleus.kind {
        NucleusKind::Lymphocyte => (1.5, 0.1, 0.4, 1.1, 1.0),
        NucleusKind::Epithelial => (0.74, 0.34, 0.3, 1.3, 0.0),
        NucleusKind::Fibroblast => (1.1, 0.1, 0.22, 1.2, 0.0),
        NucleusKind::Stromal => (0.62, 0.32, 0.28, 1.3, 1.3),
    };
    let nucleoli: &[(f32, f32)] = match nucleus.kind {
        NucleusKind::Epithelial | NucleusKind::Stromal if part(40) > 0.35 => {
            &[(0.6 * part(48) - 0.3, 0.6 * part(56) - 0.3)]
        }
        _ => &[],
    };
    for (at, x, y) in stains.around(nucleus.x_um, nucleus.y_um, nucleus.half_long_um + 2.5) {
        let (dx, dy) = (x - nucleus.x_um, y - nucleus.y_um);
        let (u, mut v) = (dx * c + dy * s, dy * c - dx * s);
        if nucleus.kind == NucleusKind::Fibroblast {
            // Spindles are slightly bent.
            v += (part(16) - 0.5) * 0.05 * u * u;
        }
        let (p, q) = (u / nucleus.half_long_um, v / nucleus.half_short_um);
        let turn = q.atan2(p);
        let wobble = 1.0 + dent * ((2.0 * turn + phase.0).cos() + 0.6 * (3.0 * turn + phase.1).cos());
        let mut radius = p.hypot(q) / wobble;
        if nucleus.kind == NucleusKind::Fibroblast {
            // Pointed ends.
            radius += 0.22 * (p.abs() * p.abs()) * (1.0 - q.abs()).max(0.0);
        }
        let inside_um = (1.0 - radius) * nucleus.half_short_um;
        if halo_um > 0.0 {
            stains.over(at, 0.4 * ramp(inside_um, -halo_um - 0.5, -0.5 * halo_um), 0.12, 0.3);
        }
        let cover = ramp(inside_um, -0.35, 0.35);
        if cover <= 0.0 {
            continue;
        }
        let texture = chromatin.fractal((x + offset.0) / clump_um, (y + offset.1) / clump_um, 2);
        let mut density = base + rim * ramp(0.9 - inside_um, 0.0, 0.7) + clump * texture;
        for (nu, nv) in nucleoli {
            let distance_um = (u - nu * nucleus.half_long_um).hypot(v - nv * nucleus.half_short_um);
            density += 0.55 * ramp(1.0 - distance_um, 0.0, 0.5);
        }
        stains.over(at, 0.96 * cover, (nucleus.tone * density).max(0.15), 0.16 + 0.1 * texture.abs());
    }
}

/// A small separable blur, weights 1/5, 3/5, 1/5.
fn spread(field: &mut [f32], side: usize) {
    let mut line = vec![0.0; side];
    let mut pass = |start: usize, step: usize| {
        line.iter_mut().enumerate().for_each(|(i, v)| *v = field[start + i * step]);
        for i in 0..side {
            let (before, after) = (line[i.saturating_sub(1)], line[(i + 1).min(side - 1)]);
            field[start + i * step] = 0.6 * line[i] + 0.2 * (before + after);
        }
    };
    (0..side).for_each(|row| pass(row * side, 1));
    (0..side).for_each(|column| pass(column, side));
}

/// Stain to light, with the lamp slightly uneven.
pub(super) fn expose(stains: &Stains, appearance: &Appearance, stream: &mut Stream) -> Vec<f32> {
    let side = stains.side;
    let (tilt_x, tilt_y) = (stream.uniform(-0.008, 0.008) as f32, stream.uniform(-0.008, 0.008) as f32);
    let mut light = Vec::with_capacity(side * side * 3);
    for y in 0..side {
        for x in 0..side {
            let at = y * side + x;
            let lamp = 1.0 + tilt_x * (x as f32 / side as f32 - 0.5) + tilt_y * (y as f32 / side as f32 - 0.5);
            let (h, e) = (stains.haematoxylin[at], stains.eosin[at]);
            for channel in 0..3 {
                let density = h * appearance.haematoxylin[channel] + e * appearance.eosin[channel];
                light.push(lamp * appearance.glass[channel] * (-density).exp());
            }
        }
    }
    light
}

/// Blends towards a Gaussian blur (three box passes) inside a soft disc.
pub(super) fn defocus(light: &mut [f32], side: usize, mpp: f32, spot: &BlurSpot) {
    let reach_px = spot.radius_um / mpp;
    // Three boxes of this half width have about the variance asked for.
    let half = (((12.0 * (spot.sigma_um / mpp).powi(2) / 3.0 + 1.0).sqrt() - 1.0) / 2.0).round().max(1.0) as usize;
    let margin = reach_px + 3.0 * half as f32;
    let low = |v: f32| ((v / mpp - margin).max(0.0) as usize).min(side);
    let high = |v: f32| ((v / mpp + margin).max(0.0) as usize).min(side);
    let (x0, x1, y0, y1) = (low(spot.x_um), high(spot.x_um), low(spot.y_um), high(spot.y_um));
    let (width, height) = (x1 - x0, y1 - y0);
    if width == 0 || height == 0 {
        return;
    }
    for channel in 0..3 {
        let mut plane = Vec::with_capacity(width * height);
        for y in y0..y1 {
            plane.extend((x0..x1).map(|x| light[(y * side + x) * 3 + channel]));
        }
        for _ in 0..3 {
            (0..height).for_each(|row| box_mean(&mut plane, row * width, 1, width, half));
            (0..width).for_each(|column| box_mean(&mut plane, column, width, height, half));
        }
        for y in y0..y1 {
            for x in x0..x1 {
                let distance_px = (x as f32 + 0.5 - spot.x_um / mpp).hypot(y as f32 + 0.5 - spot.y_um / mpp);
                let share = ramp(1.0 - distance_px / reach_px, 0.0, 0.35);
                let value = &mut light[(y * side + x) * 3 + channel];
                *value += share * (plane[(y - y0) * width + x - x0] - *value);
            }
        }
    }
}

/// Mean over `2 * half + 1` values along a line, edges repeated.
fn box_mean(plane: &mut [f32], start: usize, step: usize, count: usize, half: usize) {
    let line: Vec<f32> = (0..count).map(|i| plane[start + i * step]).collect();
    let value = |i: isize| line[i.clamp(0, count as isize - 1) as usize];
    let half = half as isize;
    let mut sum: f32 = (-half..=half).map(value).sum();
    for i in 0..count as isize {
        plane[start + i as usize * step] = sum / (2 * half + 1) as f32;
        sum += value(i + half + 1) - value(i - half);
    }
}

/// Multiplies the light by the ink of one stroke; its edge is uneven and it is denser at the rim, as ink dries.
pub(super) fn ink(light: &mut [f32], side: usize, mpp: f32, stroke: &PenStroke, stream: &mut Stream) {
    let noise = Noise::new(stream);
    let reach_um = stroke.half_width_um + 4.0;
    let mut nearest_um = vec![f32::MAX; side * side];
    for pair in stroke.points_um.windows(2) {
        let ((ax, ay), (bx, by)) = (pair[0], pair[1]);
        let (ex, ey) = (bx - ax, by - ay);
        let length = (ex * ex + ey * ey).max(1e-6);
        let low = |a: f32, b: f32| (((a.min(b) - reach_um) / mpp).max(0.0) as usize).min(side);
        let high = |a: f32, b: f32| (((a.max(b) + reach_um) / mpp).max(0.0) as usize).min(side);
        for y in low(ay, by)..high(ay, by) {
            for x in low(ax, bx)..high(ax, bx) {
                let (px, py) = ((x as f32 + 0.5) * mpp, (y as f32 + 0.5) * mpp);
                let along = (((px - ax) * ex + (py - ay) * ey) / length).clamp(0.0, 1.0);
                let distance_um = (px - ax - along * ex).hypot(py - ay - along * ey);
                let value = &mut nearest_um[y * side + x];
                *value = value.min(distance_um);
            }
        }
    }
    for (at, distance_um) in nearest_um.iter().enumerate().filter(|(_, d)| **d < reach_um) {
        let (x, y) = ((at % side) as f32 * mpp, (at / side) as f32 * mpp);
        let edge_um = stroke.half_width_um - distance_um + 1.5 * noise.fractal(x / 9.0, y / 9.0, 2);
        let cover = ramp(edge_um, -1.0, 1.0);
        let thickness =
            cover * (0.8 + 0.25 * ramp(4.0 - edge_um, 0.0, 4.0) + 0.14 * noise.fractal(x / 40.0, y / 40.0, 3));
        for channel in 0..3 {
            light[at * 3 + channel] *= stroke.transmittance[channel].powf(thickness);
        }
    }
}

/// Rounds to 8 bits with noise that is partly common to the three channels.
pub(super) fn digitise(light: &[f32], side: usize, noise: f32, stream: &mut Stream) -> RgbImage {
    let key = stream.bits();
    let mut pixels = Vec::with_capacity(light.len());
    for (at, rgb) in light.chunks_exact(3).enumerate() {
        let word = mix(key ^ (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // The sum of two bytes has a triangular distribution of variance 2 * (256² - 1) / 12.
        let triangle = |shift: u32| ((word >> shift & 0xff) + (word >> (shift + 8) & 0xff)) as f32 / 104.5 - 2.44;
        let common = triangle(0);
        for (channel, value) in rgb.iter().enumerate() {
            let value = value + noise * (0.75 * common + 0.66 * triangle(16 + 16 * channel as u32));
            pixels.push(value.round().clamp(0.0, 255.0) as u8);
        }
    }
    RgbImage { width_px: side, height_px: side, pixels }
}
