//! What is in a bag: patches on a lattice, each with its context, its region and its cells.

use std::ops::Range;

use super::super::random::Stream;

/// Cells along a side of a patch.
pub const GRID: usize = 4;
const CELLS: usize = GRID * GRID;
/// Between neighbouring patches, in micrometres.
pub const PITCH_UM: f64 = 128.0;
/// Nearer than this to an aggregate counts as near.
pub const REACH_UM: f64 = 300.0;

const PATCHES: Range<usize> = 40..81;
/// Share of the patches that are hot, at least one.
const HOT: f64 = 0.05;
/// Granulocytes of every patch.
const GRANULOCYTES: usize = 4;
/// Plasma cells of a patch that has few, and of one that has many: half of the patches each.
const PLASMA: [usize; 2] = [2, 9];
/// Shares of the patches: A and B together, tumour, aggregates; the rest is neither.
const A_OR_B: f64 = 0.5;
const TUMOUR: f64 = 0.25;
const AGGREGATES: f64 = 0.08;

/// A third of the patches each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    Gland,
    Nest,
    Stroma,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Region {
    A,
    B,
    Tumour,
    Aggregate,
    Other,
}

/// Which of a patch's cells hold what, row by row. A cell may hold several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cells {
    pub lymphocyte: [bool; CELLS],
    pub plasma: [bool; CELLS],
    pub granulocyte: [bool; CELLS],
}

#[derive(Clone, PartialEq, Debug)]
pub struct Patch {
    pub x_um: f64,
    pub y_um: f64,
    pub context: Context,
    pub region: Region,
    pub cells: Cells,
    /// Its granulocytes stand together.
    pub clustered: bool,
}

impl Patch {
    pub fn lymphocyte_share(&self) -> f64 {
        self.cells.lymphocyte.iter().filter(|c| **c).count() as f64 / CELLS as f64
    }

    pub fn plasma_share(&self) -> f64 {
        self.cells.plasma.iter().filter(|c| **c).count() as f64 / CELLS as f64
    }
}

/// One patient's tissue.
#[derive(Clone, PartialEq, Debug)]
pub struct Tissue {
    pub patches: Vec<Patch>,
}

/// What the genes follow, counted from what is there.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Statistics {
    pub mean: f64,
    pub focus: f64,
    pub context: f64,
    pub spot: f64,
    pub pair: f64,
    pub near: f64,
}

impl Tissue {
    pub fn draw(stream: &mut Stream) -> Tissue {
        let n = PATCHES.start + stream.below(PATCHES.len());
        let places = places(n, stream);
        let contexts = contexts(n, stream);
        let regions = regions(&places, stream);
        let lymphocytes = lymphocytes(n, stream);
        let plasma = plasma(&contexts, stream);
        let clustered = clustered(n, stream);
        let patch = |i: usize, stream: &mut Stream| Patch {
            x_um: places[i].0,
            y_um: places[i].1,
            context: contexts[i],
            region: regions[i],
            cells: Cells {
                lymphocyte: anywhere(lymphocytes[i], stream),
                plasma: anywhere(plasma[i], stream),
                granulocyte: if clustered[i] { together(stream) } else { apart(stream) },
            },
            clustered: clustered[i],
        };
        Tissue { patches: (0..n).map(|i| patch(i, stream)).collect() }
    }

    pub fn statistics(&self) -> Statistics {
        let n = self.patches.len() as f64;
        let mut shares: Vec<f64> = self.patches.iter().map(Patch::lymphocyte_share).collect();
        shares.sort_by(|a, b| b.total_cmp(a));
        let hot = hot(self.patches.len());
        let plasma_in = |context: Context| {
            let shares = self.patches.iter().filter(|p| p.context == context).map(Patch::plasma_share);
            let (sum, n) = shares.fold((0.0, 0.0), |(s, n), share| (s + share, n + 1.0));
            sum / n
        };
        let of = |region: Region| self.patches.iter().filter(move |p| p.region == region);
        let is_near =
            |p: &&Patch| of(Region::Aggregate).any(|a| distance((a.x_um, a.y_um), (p.x_um, p.y_um)) < REACH_UM);
        Statistics {
            mean: shares.iter().sum::<f64>() / n,
            focus: shares[..hot].iter().sum::<f64>() / hot as f64,
            context: plasma_in(Context::Gland) - plasma_in(Context::Stroma),
            spot: self.patches.iter().filter(|p| p.clustered).count() as f64 / n,
            pair: of(Region::A).count().min(of(Region::B).count()) as f64 / n,
            near: of(Region::Tumour).filter(is_near).count() as f64 / of(Region::Tumour).count() as f64,
        }
    }
}

fn distance(a: (f64, f64), b: (f64, f64)) -> f64 {
    (a.0 - b.0).hypot(a.1 - b.1)
}

fn hot(patches: usize) -> usize {
    ((patches as f64 * HOT).round() as usize).max(1)
}

fn part(n: usize, share: f64) -> usize {
    (n as f64 * share).round() as usize
}

fn shuffle<T>(values: &mut [T], stream: &mut Stream) {
    for i in (1..values.len()).rev() {
        values.swap(i, stream.below(i + 1));
    }
}

/// A ragged piece of tissue: lattice points in the order of their distance from a centre, somewhat disturbed.
fn places(n: usize, stream: &mut Stream) -> Vec<(f64, f64)> {
    let side = 12;
    let centre = (stream.uniform(4.5, 6.5), stream.uniform(4.5, 6.5));
    let mut all: Vec<(f64, (f64, f64))> = (0..side * side)
        .map(|i| {
            let (x, y) = ((i % side) as f64, (i / side) as f64);
            (distance((x, y), centre) + 0.8 * stream.unit(), (x * PITCH_UM, y * PITCH_UM))
        })
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().take(n).map(|(_, place)| place).collect()
}

fn contexts(n: usize, stream: &mut Stream) -> Vec<Context> {
    let third = n / 3;
    let mut contexts = vec![Context::Nest; n];
    contexts[..third].fill(Context::Gland);
    contexts[third..2 * third].fill(Context::Stroma);
    shuffle(&mut contexts, stream);
    contexts
}

/// Aggregates side by side; tumour near to them or far from them, as the patient has it; A and B anywhere else.
fn regions(places: &[(f64, f64)], stream: &mut Stream) -> Vec<Region> {
    let n = places.len();
    let mut regions = vec![Region::Other; n];
    let centre = places[stream.below(n)];
    let mut by_distance: Vec<usize> = (0..n).collect();
    by_distance.sort_by(|&a, &b| distance(places[a], centre).total_cmp(&distance(places[b], centre)).then(a.cmp(&b)));
    let aggregates = &by_distance[..part(n, AGGREGATES).max(2)];
    aggregates.iter().for_each(|&i| regions[i] = Region::Aggregate);
    let is_near = |i: usize| aggregates.iter().any(|&a| distance(places[a], places[i]) < REACH_UM);
    let mut rest: Vec<usize> = (0..n).filter(|i| !aggregates.contains(i)).collect();
    shuffle(&mut rest, stream);
    let (mut near, mut far): (Vec<usize>, Vec<usize>) = rest.into_iter().partition(|&i| is_near(i));

    let tumour = part(n, TUMOUR);
    let wanted = (stream.unit() * (tumour + 1) as f64) as usize;
    let of_near = wanted.clamp(tumour.saturating_sub(far.len()), tumour.min(near.len()));
    for i in near.drain(..of_near).chain(far.drain(..tumour - of_near)) {
        regions[i] = Region::Tumour;
    }
    let mut rest = [near, far].concat();
    shuffle(&mut rest, stream);
    let both = part(n, A_OR_B).min(rest.len());
    let a = (stream.unit() * (both + 1) as f64) as usize;
    rest[..both].iter().enumerate().for_each(|(k, &i)| regions[i] = if k < a { Region::A } else { Region::B });
    regions
}

/// Lymphocytes by patch. The total is the patient's, and so, independently, is how many of them the hottest patches hold.
fn lymphocytes(n: usize, stream: &mut Stream) -> Vec<usize> {
    let total = part(n * CELLS, stream.uniform(0.12, 0.28));
    let in_hot = part(CELLS, stream.uniform(0.5, 1.0));
    let (hot, rest) = (hot(n), n - hot(n));
    let left = total - hot * in_hot;
    let mut others: Vec<usize> = (0..rest).map(|i| left / rest + usize::from(i < left % rest)).collect();
    // Some have one or two more, at the expense of others.
    let (least, most) = ((left / rest).saturating_sub(2), left / rest + 2);
    for _ in 0..2 * rest {
        let (from, to) = (stream.below(rest), stream.below(rest));
        if from != to && others[from] > least && others[to] < most {
            others[from] -= 1;
            others[to] += 1;
        }
    }
    others.resize(n, in_hot);
    shuffle(&mut others, stream);
    others
}

/// Plasma cells by patch: many in half of the patches, whatever the patient; whether these are glands or stroma is the
/// patient's.
fn plasma(contexts: &[Context], stream: &mut Stream) -> Vec<usize> {
    let (half, third) = (contexts.len() / 2, contexts.len() / 3);
    let glands = (stream.unit() * (third + 1) as f64) as usize;
    let mut plasma = vec![PLASMA[0]; contexts.len()];
    for (context, rich) in [(Context::Gland, glands), (Context::Stroma, third - glands), (Context::Nest, half - third)]
    {
        let mut patches: Vec<usize> = (0..contexts.len()).filter(|&i| contexts[i] == context).collect();
        shuffle(&mut patches, stream);
        patches[..rich].iter().for_each(|&i| plasma[i] = PLASMA[1]);
    }
    plasma
}

fn clustered(n: usize, stream: &mut Stream) -> Vec<bool> {
    let many = (stream.unit() * (n + 1) as f64) as usize;
    let mut clustered: Vec<bool> = (0..n).map(|i| i < many).collect();
    shuffle(&mut clustered, stream);
    clustered
}

/// So many cells of a patch, anywhere.
fn anywhere(count: usize, stream: &mut Stream) -> [bool; CELLS] {
    let mut cells: [bool; CELLS] = std::array::from_fn(|i| i < count);
    shuffle(&mut cells, stream);
    cells
}

/// Four cells in a square.
fn together(stream: &mut Stream) -> [bool; CELLS] {
    let (row, column) = (stream.below(GRID - 1), stream.below(GRID - 1));
    at([row, row + 1], [column, column + 1])
}

/// Four cells of which none touches another.
fn apart(stream: &mut Stream) -> [bool; CELLS] {
    let pairs = [[0, 2], [0, 3], [1, 3]];
    at(pairs[stream.below(3)], pairs[stream.below(3)])
}

fn at(rows: [usize; 2], columns: [usize; 2]) -> [bool; CELLS] {
    let cells: [bool; CELLS] = std::array::from_fn(|i| rows.contains(&(i / GRID)) && columns.contains(&(i % GRID)));
    debug_assert_eq!(cells.iter().filter(|c| **c).count(), GRANULOCYTES);
    cells
}
