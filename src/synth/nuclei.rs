//! Where nuclei lie: along glands and vessels, in clusters, between the fibres.

use std::{collections::HashMap, f32::consts::TAU};

use super::{
    anatomy::{CELL_UM, Gland, Place, Vessel, candidates, rotate},
    fibres::{Flow, Grid},
    random::Stream,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NucleusKind {
    /// Small, round, dark, in clusters.
    Lymphocyte,
    /// Larger, oval, pale with a nucleolus, in rings.
    Epithelial,
    /// Thin spindles along the fibres.
    Fibroblast,
    /// Large and pale, scattered: macrophages, endothelium.
    Stromal,
}

#[derive(Clone, Copy, Debug)]
pub struct Nucleus {
    pub kind: NucleusKind,
    pub x_um: f32,
    pub y_um: f32,
    pub half_long_um: f32,
    pub half_short_um: f32,
    /// Direction of the long axis in radians.
    pub angle: f32,
    /// Strength of its haematoxylin, about 1.
    pub tone: f32,
    pub seed: u64,
}

/// All nuclei of a slide, `lymphocytes` of them lymphocyte-like if there is room.
pub(super) fn place(
    glands: &mut [Gland],
    vessels: &[Vessel],
    lymphocytes: usize,
    places: &Grid<Place>,
    flow: &Flow,
    stream: &mut Stream,
) -> Vec<Nucleus> {
    let mut crowd = Crowd::default();
    let mut nuclei = vec![];
    for gland in glands {
        line_gland(gland, &mut nuclei, &mut crowd, stream);
    }
    for vessel in vessels {
        line_vessel(vessel, &mut nuclei, &mut crowd, stream);
    }
    place_lymphocytes(lymphocytes, places, &mut nuclei, &mut crowd, stream);
    place_stromal(places, flow, &mut nuclei, &mut crowd, stream);
    nuclei
}

/// Nuclei side by side along the wall of a gland, basally, long axis across the wall.
fn line_gland(gland: &mut Gland, nuclei: &mut Vec<Nucleus>, crowd: &mut Crowd, stream: &mut Stream) {
    let goblet_share = if stream.chance(0.5) { stream.uniform(0.05, 0.5) } else { 0.0 };
    let layered = stream.chance(0.3);
    let mut angle = stream.uniform(0.0, 0.2) as f32;
    let start = angle;
    let mut last_border = angle;
    while angle < start + TAU {
        let outer_um = gland.outer(angle);
        let wall_um = outer_um - gland.lumen(angle);
        let width_um = stream.uniform(6.4, 9.4) as f32;
        let step = width_um / (outer_um - 0.35 * wall_um).max(6.0);
        let middle = angle + 0.5 * step;
        if angle + 1.4 * step > start + TAU && angle > start {
            break;
        }
        gland.borders.push(last_border.rem_euclid(TAU));
        gland.goblet.push(stream.chance(goblet_share));
        last_border = angle + step;
        let deep = if layered && stream.chance(0.4) { stream.uniform(0.42, 0.6) } else { stream.uniform(0.2, 0.36) };
        let radius_um = gland.outer(middle) - wall_um.min(20.0) * deep as f32 - 1.5;
        let (s, c) = middle.sin_cos();
        let half_long_um = (stream.uniform(4.4, 6.0) as f32).min(0.42 * wall_um);
        let nucleus = Nucleus {
            kind: NucleusKind::Epithelial,
            x_um: gland.x_um + radius_um * c,
            y_um: gland.y_um + radius_um * s,
            half_long_um,
            half_short_um: (stream.uniform(2.9, 3.9) as f32).min(0.46 * width_um),
            angle: middle + 0.25 * stream.normal() as f32,
            tone: stream.uniform(0.8, 1.15) as f32,
            seed: stream.bits(),
        };
        crowd.add(nucleus.x_um, nucleus.y_um, 4.5);
        nuclei.push(nucleus);
        angle += step;
    }
    let mut cells: Vec<(f32, bool)> = gland.borders.iter().copied().zip(gland.goblet.iter().copied()).collect();
    cells.sort_by(|a, b| a.0.total_cmp(&b.0));
    (gland.borders, gland.goblet) = cells.into_iter().unzip();
}

/// A few flat nuclei along the wall of a vessel.
fn line_vessel(vessel: &Vessel, nuclei: &mut Vec<Nucleus>, crowd: &mut Crowd, stream: &mut Stream) {
    for _ in 0..2 + stream.below(3) {
        let at = stream.angle();
        let (s, c) = at.sin_cos();
        let (u, v) = rotate((vessel.half_long_um + 1.0) * c, (vessel.half_short_um + 1.0) * s, vessel.angle);
        let tangent = (vessel.half_short_um * c).atan2(-vessel.half_long_um * s) + vessel.angle;
        let nucleus = Nucleus {
            kind: NucleusKind::Fibroblast,
            x_um: vessel.x_um + u,
            y_um: vessel.y_um + v,
            half_long_um: stream.uniform(4.0, 6.0) as f32,
            half_short_um: stream.uniform(1.1, 1.6) as f32,
            angle: tangent,
            tone: stream.uniform(0.8, 1.1) as f32,
            seed: stream.bits(),
        };
        crowd.add(nucleus.x_um, nucleus.y_um, 3.5);
        nuclei.push(nucleus);
    }
}

/// Most lymphocytes sit in clusters of different size and tightness, the rest anywhere in the stroma.
fn place_lymphocytes(
    count: usize,
    places: &Grid<Place>,
    nuclei: &mut Vec<Nucleus>,
    crowd: &mut Crowd,
    stream: &mut Stream,
) {
    let room = candidates(places);
    if room.is_empty() {
        return;
    }
    let point = |stream: &mut Stream| {
        let cell = room[stream.below(room.len())];
        let jitter = |stream: &mut Stream| stream.unit() as f32 * CELL_UM;
        ((cell % places.side) as f32 * CELL_UM + jitter(stream), (cell / places.side) as f32 * CELL_UM + jitter(stream))
    };
    // The number of clusters follows the room, not the count: dense slides have fuller clusters, as well as more.
    let clusters = 4 + (room.len() as f32 * CELL_UM * CELL_UM / 26_000.0 * stream.uniform(0.7, 1.4) as f32) as usize;
    let clusters: Vec<(f32, f32, f32, f64)> = (0..clusters)
        .map(|_| {
            let (x, y) = point(stream);
            (x, y, stream.uniform(14.0, 46.0) as f32, (0.9 * stream.normal()).exp())
        })
        .collect();
    let total: f64 = clusters.iter().map(|c| c.3).sum();
    let scattered = stream.uniform(0.15, 0.35);
    for _ in 0..count {
        for attempt in 0..400 {
            let (x, y) = if attempt > 60 || stream.chance(scattered) {
                point(stream)
            } else {
                let mut pick = stream.unit() * total;
                let chosen = clusters.iter().find(|c| {
                    pick -= c.3;
                    pick <= 0.0
                });
                let (cx, cy, spread_um, _) = chosen.or(clusters.last()).copied().unwrap_or((0.0, 0.0, 1.0, 1.0));
                // Full clusters grow outwards.
                let spread_um = spread_um * (1.0 + attempt as f32 / 40.0);
                (cx + spread_um * stream.normal() as f32, cy + spread_um * stream.normal() as f32)
            };
            let size_um = places.side as f32 * CELL_UM;
            let on_slide = x > 0.0 && y > 0.0 && x < size_um && y < size_um;
            if !on_slide || places.nearest(x, y) != Place::Stroma || !crowd.free(x, y, 2.95) {
                continue;
            }
            let radius_um = stream.uniform(3.1, 3.8) as f32;
            crowd.add(x, y, 2.95);
            nuclei.push(Nucleus {
                kind: NucleusKind::Lymphocyte,
                x_um: x,
                y_um: y,
                half_long_um: radius_um * stream.uniform(1.0, 1.12) as f32,
                half_short_um: radius_um,
                angle: stream.angle(),
                tone: stream.uniform(0.88, 1.12) as f32,
                seed: stream.bits(),
            });
            break;
        }
    }
}

/// Fibroblasts along the fibres and scattered large pale nuclei, as many as this slide's own random density says.
fn place_stromal(places: &Grid<Place>, flow: &Flow, nuclei: &mut Vec<Nucleus>, crowd: &mut Crowd, stream: &mut Stream) {
    let room = candidates(places);
    let stroma_mm2 = room.len() as f64 * f64::from(CELL_UM * CELL_UM) * 1e-6;
    let kinds = [
        (NucleusKind::Fibroblast, stream.uniform(450.0, 1300.0), 3.2_f32),
        (NucleusKind::Stromal, stream.uniform(40.0, 320.0), 4.4),
    ];
    for (kind, per_mm2, clearance_um) in kinds {
        for _ in 0..(per_mm2 * stroma_mm2).round() as usize {
            for _ in 0..8 {
                let cell = room[stream.below(room.len())];
                let x_um = (cell % places.side) as f32 * CELL_UM + stream.unit() as f32 * CELL_UM;
                let y_um = (cell / places.side) as f32 * CELL_UM + stream.unit() as f32 * CELL_UM;
                if !crowd.free(x_um, y_um, clearance_um) {
                    continue;
                }
                let (dx, dy) = flow.nearest(x_um, y_um);
                let spindle = kind == NucleusKind::Fibroblast;
                let half_short_um = if spindle { stream.uniform(1.2, 2.1) } else { stream.uniform(3.4, 4.4) } as f32;
                let half_long_um = if spindle {
                    stream.uniform(4.6, 8.6) as f32
                } else {
                    half_short_um * stream.uniform(1.1, 1.5) as f32
                };
                crowd.add(x_um, y_um, clearance_um);
                nuclei.push(Nucleus {
                    kind,
                    x_um,
                    y_um,
                    half_long_um,
                    half_short_um,
                    angle: dy.atan2(dx) + 0.18 * stream.normal() as f32,
                    tone: stream.uniform(0.75, 1.1) as f32,
                    seed: stream.bits(),
                });
                break;
            }
        }
    }
}

/// Centre and clearance in micrometres.
type Disc = (f32, f32, f32);

/// Discs that may not overlap, found by cell.
#[derive(Default)]
pub(super) struct Crowd {
    cells: HashMap<(i32, i32), Vec<Disc>>,
}

impl Crowd {
    /// At least twice the largest clearance, so that neighbours are in adjacent cells.
    const CELL_UM: f32 = 10.0;

    fn key(x_um: f32, y_um: f32) -> (i32, i32) {
        ((x_um / Crowd::CELL_UM).floor() as i32, (y_um / Crowd::CELL_UM).floor() as i32)
    }

    pub fn add(&mut self, x_um: f32, y_um: f32, clearance_um: f32) {
        self.cells.entry(Crowd::key(x_um, y_um)).or_default().push((x_um, y_um, clearance_um));
    }

    pub fn free(&self, x_um: f32, y_um: f32, clearance_um: f32) -> bool {
        let (kx, ky) = Crowd::key(x_um, y_um);
        (ky - 1..=ky + 1).flat_map(|y| (kx - 1..=kx + 1).map(move |x| (x, y))).all(|key| {
            self.cells
                .get(&key)
                .is_none_or(|near| near.iter().all(|(x, y, c)| (x - x_um).hypot(y - y_um) >= c + clearance_um))
        })
    }
}
