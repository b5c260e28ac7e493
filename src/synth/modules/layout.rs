//! Where everything lies on a slide of the modules design: nests, pools, decoys and loose stroma, what is out of focus, folds,
//! dust, and every nucleus.

use super::{
    super::{
        anatomy::{self, CELL_UM, rotate},
        appearance::{BlurSpot, PenStroke},
        fibres::{self, Flow, Grid},
        nuclei::{Crowd, Nucleus, NucleusKind},
        random::{Noise, Stream},
    },
    Morphology,
};

/// Nest nuclei per µm² of nest, if they find room.
const NEST_DENSITY: f64 = 1.0 / 120.0;
/// Dividing and dying cells together, per mm² of nest: constant, so that only what they look like tells them apart.
const FIGURES_PER_MM2: f64 = 900.0;
/// Size of the pieces that compartments come in.
const PIECE_UM: f32 = 85.0;

/// What the tissue is at a point. Glass is where there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compartment {
    Glass,
    Stroma,
    /// Where the genes live: dense nuclei whose chromatin is textured.
    Nest,
    /// Smooth and dark: blood, mucin.
    Pool,
    /// As a nest, but for its chromatin, and with lymphocytes that no gene follows.
    Decoy,
}

/// A nucleus of a nest or of a decoy.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub x_um: f32,
    pub y_um: f32,
    pub radius_um: f32,
    pub seed: u64,
    pub kind: CellKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CellKind {
    Nest,
    Decoy,
    /// Two plates, side by side.
    Dividing,
    /// Four fragments, of the area and the outline of the two plates.
    Dying,
}

/// Everything on one slide.
#[derive(Clone, Debug)]
pub struct Layout {
    pub size_um: f32,
    pub depth: Grid<f32>,
    pub flow: Flow,
    pub compartments: Grid<Compartment>,
    /// 1 where dust lies on the glass.
    pub dust: Grid<f32>,
    pub blur: Vec<BlurSpot>,
    pub folds: Vec<PenStroke>,
    pub cells: Vec<Cell>,
    /// Lymphocytes and fibroblasts.
    pub nuclei: Vec<Nucleus>,
}

/// What is on the slide after all found room, counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth {
    pub tissue_mm2: f64,
    pub nest_mm2: f64,
    pub dividing: usize,
    pub dying: usize,
    /// Lymphocytes of nests, and of loose stroma.
    pub lymphocytes: [usize; 2],
}

impl Layout {
    pub fn plan(size_um: f32, wanted: &Morphology, stream: &mut Stream) -> (Layout, Truth) {
        let side = (size_um / CELL_UM).ceil().max(1.0) as usize;
        let depth = anatomy::tissue(side, size_um, stream);
        let flow = fibres::flow(side, CELL_UM, &[], stream);
        let mut compartments = Grid {
            side,
            cell_um: CELL_UM,
            values: depth
                .values
                .iter()
                .map(|d| if *d > 0.0 { Compartment::Stroma } else { Compartment::Glass })
                .collect(),
        };
        let tissue = compartments.values.iter().filter(|c| **c != Compartment::Glass).count();
        for (compartment, share) in [
            (Compartment::Nest, wanted.nest_share),
            (Compartment::Pool, wanted.pool_share),
            (Compartment::Decoy, wanted.decoy_share),
        ] {
            let noise = Noise::new(stream);
            claim(&mut compartments, &depth, compartment, (share * tissue as f64) as usize, noise);
        }
        let blur = blur(size_um, &compartments, wanted.blur_share, tissue, stream);
        let folds = (0..wanted.folds).map(|_| fold(size_um, stream)).collect();
        let dust = dust(&depth, wanted.dust_share, stream);

        let mut crowd = Crowd::default();
        let area_mm2 = |wanted: Compartment| {
            let cells = compartments.values.iter().filter(|c| **c == wanted).count();
            cells as f64 * f64::from(CELL_UM * CELL_UM) * 1e-6
        };
        let tissue_mm2 = tissue as f64 * f64::from(CELL_UM * CELL_UM) * 1e-6;
        // Those of the gene are so many for the tissue, whichever share of them lies in nests; decoys have their own.
        let total = (wanted.lymphocyte_per_mm2 * tissue_mm2).round() as usize;
        let in_nests = (wanted.lymphocytes_in_nests * total as f64).round() as usize;
        let in_decoys = (wanted.decoy_lymphocyte_per_mm2 * area_mm2(Compartment::Decoy)).round() as usize;
        // Lymphocytes first, so that they find room: nests are filled to the brim around them.
        let mut nuclei = Vec::new();
        let mut scatter = |compartment, kind, count, stream: &mut Stream| {
            scatter(&compartments, &flow, compartment, kind, count, &mut nuclei, &mut crowd, stream)
        };
        let lymphocytes = [
            scatter(Compartment::Nest, NucleusKind::Lymphocyte, in_nests, stream),
            scatter(Compartment::Stroma, NucleusKind::Lymphocyte, total - in_nests, stream),
        ];
        scatter(Compartment::Decoy, NucleusKind::Lymphocyte, in_decoys, stream);
        let fibroblasts = (stream.uniform(400.0, 900.0) * area_mm2(Compartment::Stroma)).round() as usize;
        scatter(Compartment::Stroma, NucleusKind::Fibroblast, fibroblasts, stream);
        let mut cells = Vec::new();
        for (compartment, kind) in [(Compartment::Nest, CellKind::Nest), (Compartment::Decoy, CellKind::Decoy)] {
            fill(&compartments, compartment, kind, &mut cells, &mut crowd, stream);
        }
        let nest_mm2 = area_mm2(Compartment::Nest);
        let (dividing, dying) = figures(&mut cells, nest_mm2, wanted.dividing_share, stream);
        let truth = Truth { tissue_mm2, nest_mm2, dividing, dying, lymphocytes };
        (Layout { size_um, depth, flow, compartments, dust, blur, folds, cells, nuclei }, truth)
    }

    /// Share of the square of `side_um` at a corner that is of a compartment.
    pub fn share(&self, x_um: f32, y_um: f32, side_um: f32, of: impl Fn(usize) -> bool) -> f64 {
        let half = side_um / 2.0;
        let (mut hits, mut all) = (0, 0);
        for (index, _, _) in self.compartments.around(x_um + half, y_um + half, half - 0.01) {
            all += 1;
            hits += usize::from(of(index));
        }
        hits as f64 / f64::from(all.max(1))
    }

    /// Whether a cell of the lattice is out of focus.
    pub fn is_blurred(&self, index: usize) -> bool {
        let (x, y) =
            ((index % self.compartments.side) as f32 * CELL_UM, (index / self.compartments.side) as f32 * CELL_UM);
        self.blur.iter().any(|spot| (spot.x_um - x).hypot(spot.y_um - y) < 0.8 * spot.radius_um)
    }
}

/// Gives a compartment its area, in pieces of stroma well inside the tissue where smooth noise is highest.
fn claim(places: &mut Grid<Compartment>, depth: &Grid<f32>, compartment: Compartment, area: usize, noise: Noise) {
    let side = places.side;
    let centre = |i: usize| (i as f32 + 0.5) * CELL_UM / PIECE_UM;
    let mut open: Vec<(f32, usize)> = (0..side * side)
        .filter(|&i| places.values[i] == Compartment::Stroma && depth.values[i] > 8.0)
        .map(|i| (noise.fractal(centre(i % side), centre(i / side), 2), i))
        .collect();
    open.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    open.iter().take(area).for_each(|&(_, i)| places.values[i] = compartment);
}

/// Spots out of focus until they cover the share that is wanted; nests are spared.
fn blur(size_um: f32, places: &Grid<Compartment>, share: f64, tissue: usize, stream: &mut Stream) -> Vec<BlurSpot> {
    let mut spots: Vec<BlurSpot> = Vec::new();
    let mut left = share * tissue as f64;
    for _ in 0..400 {
        if left <= 0.0 {
            break;
        }
        let spot = BlurSpot {
            x_um: size_um * stream.unit() as f32,
            y_um: size_um * stream.unit() as f32,
            radius_um: stream.uniform(35.0, 90.0) as f32,
            sigma_um: stream.uniform(3.0, 5.0) as f32,
        };
        let (mut covered, mut nest) = (0, 0);
        for (index, x, y) in places.around(spot.x_um, spot.y_um, spot.radius_um) {
            if (spot.x_um - x).hypot(spot.y_um - y) < spot.radius_um {
                covered += usize::from(places.values[index] != Compartment::Glass);
                nest += usize::from(places.values[index] == Compartment::Nest);
            }
        }
        if covered > 0 && nest * 20 <= covered {
            left -= covered as f64;
            spots.push(spot);
        }
    }
    spots
}

/// A sharp dark line across the slide.
fn fold(size_um: f32, stream: &mut Stream) -> PenStroke {
    let (x, y, angle) = (stream.unit() as f32, stream.unit() as f32, stream.angle());
    let (bow, length) = (stream.uniform(-0.15, 0.15) as f32, stream.uniform(0.2, 0.5) as f32);
    let point = |i: usize| {
        let t = i as f32 / 24.0 - 0.5;
        let (u, v) = rotate(t * length, bow * (0.25 - t * t), angle);
        ((x + u) * size_um, (y + v) * size_um)
    };
    PenStroke {
        points_um: (0..=24).map(point).collect(),
        half_width_um: stream.uniform(1.5, 3.5) as f32,
        transmittance: [0.55, 0.4, 0.55],
    }
}

/// Glass on which dust lies.
fn dust(depth: &Grid<f32>, share: f64, stream: &mut Stream) -> Grid<f32> {
    let noise = Noise::new(stream);
    let side = depth.side;
    let centre = |i: usize| (i as f32 + 0.5) * CELL_UM / PIECE_UM;
    let mut glass: Vec<(f32, usize)> = (0..side * side)
        .filter(|&i| depth.values[i] < -4.0)
        .map(|i| (noise.fractal(centre(i % side), centre(i / side), 2), i))
        .collect();
    glass.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut dust = Grid { side, cell_um: CELL_UM, values: vec![0.0; side * side] };
    glass.iter().take((share * glass.len() as f64) as usize).for_each(|&(_, i)| dust.values[i] = 1.0);
    dust
}

fn cells_of(places: &Grid<Compartment>, wanted: Compartment) -> Vec<usize> {
    (0..places.values.len()).filter(|&i| places.values[i] == wanted).collect()
}

fn point(places: &Grid<Compartment>, room: &[usize], stream: &mut Stream) -> (f32, f32) {
    let cell = room[stream.below(room.len())];
    let mut jitter = || stream.unit() as f32 * CELL_UM;
    ((cell % places.side) as f32 * CELL_UM + jitter(), (cell / places.side) as f32 * CELL_UM + jitter())
}

/// Fills a compartment with nuclei side by side.
fn fill(
    places: &Grid<Compartment>,
    compartment: Compartment,
    kind: CellKind,
    cells: &mut Vec<Cell>,
    crowd: &mut Crowd,
    stream: &mut Stream,
) {
    let room = cells_of(places, compartment);
    let count = (room.len() as f64 * f64::from(CELL_UM * CELL_UM) * NEST_DENSITY) as usize;
    for _ in 0..count {
        for _ in 0..10 {
            let (x_um, y_um) = point(places, &room, stream);
            if crowd.free(x_um, y_um, 4.6) {
                crowd.add(x_um, y_um, 4.6);
                let radius_um = stream.uniform(3.9, 4.8) as f32;
                cells.push(Cell { x_um, y_um, radius_um, seed: stream.bits(), kind });
                break;
            }
        }
    }
}

/// Makes some of the nest's nuclei dividing ones and dying ones.
fn figures(cells: &mut [Cell], nest_mm2: f64, dividing_share: f64, stream: &mut Stream) -> (usize, usize) {
    let mut nests: Vec<usize> = (0..cells.len()).filter(|&i| cells[i].kind == CellKind::Nest).collect();
    let figures = ((FIGURES_PER_MM2 * nest_mm2).round() as usize).min(nests.len());
    let dividing = (dividing_share * figures as f64).round() as usize;
    for i in 0..figures {
        let other = i + stream.below(nests.len() - i);
        nests.swap(i, other);
        cells[nests[i]].kind = if i < dividing { CellKind::Dividing } else { CellKind::Dying };
    }
    (dividing, figures - dividing)
}

/// Nuclei between others; returns how many found room.
#[allow(clippy::too_many_arguments)] // the slide so far, and what is wanted of it
fn scatter(
    places: &Grid<Compartment>,
    flow: &Flow,
    compartment: Compartment,
    kind: NucleusKind,
    count: usize,
    nuclei: &mut Vec<Nucleus>,
    crowd: &mut Crowd,
    stream: &mut Stream,
) -> usize {
    let room = cells_of(places, compartment);
    let before = nuclei.len();
    let lymphocyte = kind == NucleusKind::Lymphocyte;
    let clearance_um = if lymphocyte { 2.4 } else { 3.2 };
    for _ in 0..if room.is_empty() { 0 } else { count } {
        for _ in 0..60 {
            let (x_um, y_um) = point(places, &room, stream);
            if !crowd.free(x_um, y_um, clearance_um) {
                continue;
            }
            crowd.add(x_um, y_um, clearance_um);
            let (dx, dy) = flow.nearest(x_um, y_um);
            let (long, short) = if lymphocyte {
                let radius = stream.uniform(2.6, 3.0);
                (radius * stream.uniform(1.0, 1.1), radius)
            } else {
                (stream.uniform(4.6, 8.6), stream.uniform(1.2, 2.1))
            };
            nuclei.push(Nucleus {
                kind,
                x_um,
                y_um,
                half_long_um: long as f32,
                half_short_um: short as f32,
                angle: if lymphocyte { stream.angle() } else { dy.atan2(dx) + 0.18 * stream.normal() as f32 },
                tone: stream.uniform(0.88, 1.12) as f32,
                seed: stream.bits(),
            });
            break;
        }
    }
    nuclei.len() - before
}
