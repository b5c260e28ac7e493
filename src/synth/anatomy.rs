//! What is on one slide, in micrometres: tissue outline, glands, vessels, fibres and nuclei. No pixels yet; `paint` draws
//! exactly this, and the truth is counted from it.

use std::f32::consts::TAU;

use super::{
    fibres::{self, Flow, Grid},
    nuclei::{self, Nucleus, NucleusKind},
    random::{Noise, Stream},
};

/// The side of the lattice on which areas are counted, in micrometres.
pub(super) const CELL_UM: f32 = 2.0;
/// Radii of a gland's outline are tabulated at this many angles.
const OUTLINE_POINTS: usize = 128;

/// What a slide should show. The two are drawn independently for every patient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Morphology {
    /// Lymphocyte-like nuclei per mm² of tissue.
    pub lymphocyte_per_mm2: f64,
    /// Area of glands, lumen included, over area of tissue.
    pub gland_fraction: f64,
}

/// What a slide does show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth {
    pub tissue_mm2: f64,
    pub gland_mm2: f64,
    pub lymphocytes: usize,
    pub glands: usize,
    pub other_nuclei: usize,
}

impl Truth {
    pub fn morphology(&self) -> Morphology {
        Morphology {
            lymphocyte_per_mm2: self.lymphocytes as f64 / self.tissue_mm2,
            gland_fraction: self.gland_mm2 / self.tissue_mm2,
        }
    }
}

/// A ring of epithelium around a lumen, star-shaped about its centre.
#[derive(Clone, Debug)]
pub struct Gland {
    pub x_um: f32,
    pub y_um: f32,
    /// No point of the outline is farther from the centre.
    pub reach_um: f32,
    /// Angles of the cell borders, ascending in 0..2π.
    pub borders: Vec<f32>,
    /// For each cell, whether it holds a mucin vacuole.
    pub goblet: Vec<bool>,
    /// How much eosinophilic secretion the lumen holds, 0 to 1.
    pub secretion: f32,
    outer_um: Vec<f32>,
    lumen_um: Vec<f32>,
}

impl Gland {
    fn interpolate(table: &[f32], angle: f32) -> f32 {
        let at = angle.rem_euclid(TAU) / TAU * OUTLINE_POINTS as f32;
        let (low, t) = (at as usize % OUTLINE_POINTS, at.fract());
        table[low] * (1.0 - t) + table[(low + 1) % OUTLINE_POINTS] * t
    }

    /// Distance from the centre to the outline in the direction `angle`.
    pub fn outer(&self, angle: f32) -> f32 {
        Gland::interpolate(&self.outer_um, angle)
    }

    /// Distance from the centre to the border of the lumen.
    pub fn lumen(&self, angle: f32) -> f32 {
        Gland::interpolate(&self.lumen_um, angle)
    }

    pub fn area_um2(&self) -> f32 {
        self.outer_um.iter().map(|r| 0.5 * r * r * TAU / OUTLINE_POINTS as f32).sum()
    }

    fn draw(radius_um: f32, stream: &mut Stream) -> Gland {
        let aspect = stream.uniform(1.0, 1.7) as f32;
        let turn = stream.angle();
        let waves: Vec<(f32, f32, f32)> =
            (3..7).map(|k| (k as f32, stream.uniform(0.0, 0.16) as f32 / (k - 1) as f32, stream.angle())).collect();
        let shape: Vec<f32> = (0..OUTLINE_POINTS)
            .map(|i| {
                let angle = i as f32 * TAU / OUTLINE_POINTS as f32;
                let (s, c) = (angle - turn).sin_cos();
                let ellipse = 1.0 / ((c * c / aspect) + (s * s * aspect)).sqrt();
                ellipse * (1.0 + waves.iter().map(|(k, a, p)| a * (k * angle + p).cos()).sum::<f32>())
            })
            .collect();
        // Scaled so that the area is that of a disc of the radius asked for.
        let mean_square = shape.iter().map(|r| r * r).sum::<f32>() / OUTLINE_POINTS as f32;
        let outer_um: Vec<f32> = shape.iter().map(|r| r * radius_um / mean_square.sqrt()).collect();
        let wall_um = stream.uniform(13.0, 19.0) as f32;
        let ripple: Vec<(f32, f32)> =
            (0..2).map(|_| (stream.uniform(5.0, 13.0).round() as f32, stream.angle())).collect();
        let lumen_um = outer_um
            .iter()
            .enumerate()
            .map(|(i, r)| {
                let angle = i as f32 * TAU / OUTLINE_POINTS as f32;
                let wave: f32 = ripple.iter().map(|(k, p)| 0.05 * (k * angle + p).sin()).sum();
                (r - wall_um.min(0.72 * r)) * (1.0 + wave)
            })
            .collect();
        Gland {
            x_um: 0.0,
            y_um: 0.0,
            reach_um: outer_um.iter().copied().fold(0.0, f32::max),
            borders: vec![],
            goblet: vec![],
            secretion: if stream.chance(0.4) { stream.uniform(0.1, 1.0) as f32 } else { 0.0 },
            outer_um,
            lumen_um,
        }
    }
}

/// A small vessel, an ellipse with red cells in it.
#[derive(Clone, Debug)]
pub struct Vessel {
    pub x_um: f32,
    pub y_um: f32,
    pub half_long_um: f32,
    pub half_short_um: f32,
    pub angle: f32,
    /// Centres of its red blood cells.
    pub red_cells: Vec<(f32, f32)>,
}

/// Everything on one slide.
#[derive(Clone, Debug)]
pub struct Anatomy {
    pub size_um: f32,
    /// Micrometres inside the outline of the tissue (negative: on the glass), roughly a distance.
    pub depth: Grid<f32>,
    pub flow: Flow,
    pub glands: Vec<Gland>,
    pub vessels: Vec<Vessel>,
    pub nuclei: Vec<Nucleus>,
    pub truth: Truth,
}

impl Anatomy {
    /// Stroma and nothing in it.
    pub(super) fn of_stroma(size_um: f32, depth: Grid<f32>, flow: Flow) -> Anatomy {
        let truth = Truth { tissue_mm2: 0.0, gland_mm2: 0.0, lymphocytes: 0, glands: 0, other_nuclei: 0 };
        Anatomy { size_um, depth, flow, glands: Vec::new(), vessels: Vec::new(), nuclei: Vec::new(), truth }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Glass,
    /// Tissue within a few micrometres of the glass or of a gland: nothing is put there.
    Border,
    Stroma,
    Taken,
}

/// Plans a slide of `size_um` squared that shows `wanted` as closely as whole glands and nuclei allow.
pub fn plan(size_um: f32, wanted: Morphology, stream: &mut Stream) -> Anatomy {
    let side = (size_um / CELL_UM).ceil().max(1.0) as usize;
    let depth = tissue(side, size_um, stream);
    let mut places = Grid {
        side,
        cell_um: CELL_UM,
        values: depth
            .values
            .iter()
            .map(|d| match *d {
                d if d <= 0.0 => Place::Glass,
                d if d < 5.0 => Place::Border,
                _ => Place::Stroma,
            })
            .collect(),
    };
    let cell_mm2 = f64::from(CELL_UM * CELL_UM) * 1e-6;
    let tissue_mm2 = depth.values.iter().filter(|d| **d > 0.0).count().max(1) as f64 * cell_mm2;

    let mut glands = place_glands(&mut places, wanted.gland_fraction * tissue_mm2 * 1e6, stream);
    let flow = fibres::flow(side, CELL_UM, &glands, stream);
    let vessels = place_vessels(&mut places, tissue_mm2, stream);

    let lymphocytes = (wanted.lymphocyte_per_mm2 * tissue_mm2).round() as usize;
    let nuclei = nuclei::place(&mut glands, &vessels, lymphocytes, &places, &flow, stream);

    let lymphocytes = nuclei.iter().filter(|n| n.kind == NucleusKind::Lymphocyte).count();
    let truth = Truth {
        tissue_mm2,
        gland_mm2: glands.iter().map(|g| f64::from(g.area_um2())).sum::<f64>() * 1e-6,
        lymphocytes,
        glands: glands.len(),
        other_nuclei: nuclei.len() - lymphocytes,
    };
    Anatomy { size_um, depth, flow, glands, vessels, nuclei, truth }
}

/// An irregular piece of tissue that covers a random share of the slide, whatever it will hold.
pub(super) fn tissue(side: usize, size_um: f32, stream: &mut Stream) -> Grid<f32> {
    let noise = Noise::new(stream);
    let turn = stream.angle();
    let aspect = stream.uniform(1.0, 1.6) as f32;
    let share = stream.uniform(0.52, 0.84);
    let (cx, cy) = (size_um * stream.uniform(0.46, 0.54) as f32, size_um * stream.uniform(0.46, 0.54) as f32);
    let mut depth = Grid::build(side, CELL_UM, |x, y| {
        let (u, v) = (x - cx, y - cy);
        let (along, across) = (u * turn.cos() + v * turn.sin(), v * turn.cos() - u * turn.sin());
        let distance = (along / aspect.sqrt()).hypot(across * aspect.sqrt());
        // A superellipse pulls the outline towards the corners, so that tissue can fill most of the slide.
        let corner = (u.abs().powi(4) + v.abs().powi(4)).powf(0.25);
        let scale = size_um / 768.0;
        let ragged = 110.0 * scale * noise.fractal(x / (260.0 * scale), y / (260.0 * scale), 3)
            + 5.0 * noise.fractal(x / 13.0, y / 13.0, 2);
        -(0.45 * distance + 0.55 * corner) + ragged
    });
    let mut sorted = depth.values.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let threshold = sorted[((share * sorted.len() as f64) as usize).min(sorted.len() - 1)];
    depth.values.iter_mut().for_each(|d| *d -= threshold);
    depth
}

/// Puts glands, large ones first, until their area is `area_um2` or no room is left.
fn place_glands(places: &mut Grid<Place>, area_um2: f64, stream: &mut Stream) -> Vec<Gland> {
    let mut glands: Vec<Gland> = vec![];
    let mut left_um2 = area_um2 as f32;
    let smallest_um = 15.0_f32;
    let mut largest_um = stream.uniform(44.0, 58.0) as f32;
    while left_um2 > TAU / 2.0 * smallest_um * smallest_um && largest_um > smallest_um {
        let room = candidates(places);
        if room.is_empty() {
            break;
        }
        let fitting_um = (left_um2 / (TAU / 2.0)).sqrt();
        let drawn_um = stream.uniform(f64::from(smallest_um.max(0.5 * largest_um)), f64::from(largest_um)) as f32;
        // The last gland takes what is left, rather than leaving a remainder too small for another.
        let radius_um = if fitting_um < 1.3 * drawn_um { fitting_um.min(largest_um) } else { drawn_um };
        let mut gland = Gland::draw(radius_um, stream);
        let mut placed = false;
        for _ in 0..80 {
            let cell = room[stream.below(room.len())];
            gland.x_um = (cell % places.side) as f32 * CELL_UM + 1.0;
            gland.y_um = (cell / places.side) as f32 * CELL_UM + 1.0;
            if gland_fits(places, &gland) {
                placed = true;
                break;
            }
        }
        if !placed {
            largest_um = 0.88 * largest_um.min(radius_um.max(smallest_um + 1.0));
            continue;
        }
        for (index, x, y) in places.around(gland.x_um, gland.y_um, gland.reach_um + 5.0) {
            let outside_um = outside(&gland, x, y);
            if outside_um < 0.0 {
                places.values[index] = Place::Taken;
            } else if outside_um < 4.0 && places.values[index] == Place::Stroma {
                places.values[index] = Place::Border;
            }
        }
        left_um2 -= gland.area_um2();
        glands.push(gland);
    }
    glands
}

pub(super) fn candidates(places: &Grid<Place>) -> Vec<usize> {
    (0..places.values.len()).filter(|i| places.values[*i] == Place::Stroma).collect()
}

/// Distance outside the outline along the ray from the centre; negative inside.
fn outside(gland: &Gland, x_um: f32, y_um: f32) -> f32 {
    let (dx, dy) = (x_um - gland.x_um, y_um - gland.y_um);
    dx.hypot(dy) - gland.outer(dy.atan2(dx))
}

fn gland_fits(places: &Grid<Place>, gland: &Gland) -> bool {
    let size_um = places.side as f32 * CELL_UM;
    let inside = |v: f32| v - gland.reach_um > 0.0 && v + gland.reach_um < size_um;
    if !inside(gland.x_um) || !inside(gland.y_um) {
        return false;
    }
    // The outline and a margin around it are enough: whatever lies wholly inside was excluded by the centre's cell and
    // by glands being placed from large to small, and is checked on a few inner circles.
    (0..OUTLINE_POINTS).step_by(2).all(|i| {
        let angle = i as f32 * TAU / OUTLINE_POINTS as f32;
        let (s, c) = angle.sin_cos();
        let edge_um = gland.outer(angle);
        [edge_um + 2.0, 0.75 * edge_um, 0.5 * edge_um, 0.25 * edge_um]
            .iter()
            .all(|r| places.nearest(gland.x_um + r * c, gland.y_um + r * s) == Place::Stroma)
    })
}

fn place_vessels(places: &mut Grid<Place>, tissue_mm2: f64, stream: &mut Stream) -> Vec<Vessel> {
    let count = (stream.uniform(0.0, 26.0) * tissue_mm2).round() as usize;
    let room = candidates(places);
    let mut vessels = vec![];
    for _ in 0..if room.is_empty() { 0 } else { 12 * count } {
        if vessels.len() == count {
            break;
        }
        let cell = room[stream.below(room.len())];
        let (x_um, y_um) = ((cell % places.side) as f32 * CELL_UM, (cell / places.side) as f32 * CELL_UM);
        let half_short_um = stream.uniform(5.0, 9.0) as f32;
        let half_long_um = half_short_um * stream.uniform(1.0, 2.4) as f32;
        let angle = stream.angle();
        let within = |x: f32, y: f32, margin_um: f32| {
            let (u, v) = rotate(x - x_um, y - y_um, -angle);
            (u / (half_long_um + margin_um)).hypot(v / (half_short_um + margin_um)) < 1.0
        };
        let (mut cells, mut free) = (vec![], true);
        for (index, x, y) in places.around(x_um, y_um, half_long_um + 4.0) {
            if within(x, y, 3.0) {
                free &= places.values[index] == Place::Stroma;
                cells.push(index);
            }
        }
        if !free {
            continue;
        }
        for index in cells {
            places.values[index] = Place::Taken;
        }
        let mut red_cells: Vec<(f32, f32)> = vec![];
        let filling = stream.uniform(0.1, 0.9);
        let wanted = (filling * f64::from(half_long_um * half_short_um) / 9.0) as usize;
        for _ in 0..6 * wanted {
            let radius = stream.unit().sqrt() as f32 * 0.72;
            let (s, c) = stream.angle().sin_cos();
            let (u, v) = rotate(radius * c * half_long_um, radius * s * half_short_um, angle);
            let at = (x_um + u, y_um + v);
            if red_cells.len() < wanted && red_cells.iter().all(|(x, y)| (x - at.0).hypot(y - at.1) > 4.6) {
                red_cells.push(at);
            }
        }
        vessels.push(Vessel { x_um, y_um, half_long_um, half_short_um, angle, red_cells });
    }
    vessels
}

pub(super) fn rotate(x: f32, y: f32, angle: f32) -> (f32, f32) {
    let (s, c) = angle.sin_cos();
    (x * c - y * s, x * s + y * c)
}
