//! JPEG 2000 packets: the tree of resolutions, sub-bands, precincts and code-blocks, and the packet headers that hand
//! every code-block its bytes.
//!
//! Source: ITU-T T.800 annex B. A header costs at least one byte, so packets are bounded by the data; code-blocks are
//! bounded by [`MAX_BLOCKS`].

use super::{
    jp2k_blocks::{Segment, SubBand, style},
    jp2k_codestream::{Coding, TileCoding},
};

/// More code-blocks than the largest tile accepted has at 16 x 16.
const MAX_BLOCKS: usize = 1 << 20;
const TRUNCATED: &str = "ends before its last JPEG 2000 packet";
const BROKEN: &str = "holds broken JPEG 2000 packets";

/// A rectangle, half open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rect {
    pub x0: usize,
    pub y0: usize,
    pub x1: usize,
    pub y1: usize,
}

impl Rect {
    pub fn width(&self) -> usize {
        self.x1.saturating_sub(self.x0)
    }

    pub fn height(&self) -> usize {
        self.y1.saturating_sub(self.y0)
    }

    pub fn is_empty(&self) -> bool {
        self.width() == 0 || self.height() == 0
    }

    /// Every coordinate divided, rounded up.
    pub fn shrunk(&self, dx: usize, dy: usize) -> Rect {
        Rect { x0: self.x0.div_ceil(dx), y0: self.y0.div_ceil(dy), x1: self.x1.div_ceil(dx), y1: self.y1.div_ceil(dy) }
    }
}

pub struct Block {
    pub area: Rect,
    pub included: bool,
    pub bit_planes: u32,
    length_bits: u32,
    passes: u32,
    pub segments: Vec<Segment>,
}

/// The code-blocks of one sub-band in one precinct, with their tag trees.
pub struct Precinct {
    columns: usize,
    rows: usize,
    pub blocks: Vec<Block>,
    inclusion: TagTree,
    zero_planes: TagTree,
}

pub struct Band {
    pub kind: SubBand,
    pub area: Rect,
    /// Magnitude bit-planes, and the size of a quantisation step (1 if reversible).
    pub planes: u32,
    pub step: f32,
    pub precincts: Vec<Precinct>,
}

pub struct Resolution {
    pub area: Rect,
    precinct_log2: (u32, u32),
    columns: usize,
    rows: usize,
    pub bands: Vec<Band>,
}

/// One component of one tile.
pub struct TileComponent {
    pub resolutions: Vec<Resolution>,
    dx: usize,
    dy: usize,
}

/// A quad tree of minima, of which each packet header reveals a little more.
struct TagTree {
    /// Width and first node of every level, leaves first.
    levels: Vec<(usize, usize)>,
    /// Value known so far and whether it is final.
    nodes: Vec<(u32, bool)>,
}

impl TagTree {
    fn new(columns: usize, rows: usize) -> TagTree {
        let (mut columns, mut rows, mut count) = (columns.max(1), rows.max(1), 0);
        let mut levels = Vec::new();
        loop {
            levels.push((columns, count));
            count += columns * rows;
            if columns * rows == 1 {
                break;
            }
            (columns, rows) = (columns.div_ceil(2), rows.div_ceil(2));
        }
        TagTree { levels, nodes: vec![(0, false); count] }
    }

    /// Reads until the leaf's value is known or known to be at least `below`. True if it is less than `below`.
    fn is_less(&mut self, bits: &mut HeaderBits, x: usize, y: usize, below: u32) -> Result<bool, String> {
        let mut least = 0;
        for (level, &(width, first)) in self.levels.iter().enumerate().rev() {
            let node = &mut self.nodes[first + (y >> level) * width + (x >> level)];
            node.0 = node.0.max(least);
            while !node.1 && node.0 < below {
                if bits.bit()? == 1 {
                    node.1 = true;
                } else {
                    node.0 += 1;
                }
            }
            least = node.0;
        }
        let leaf = self.nodes[y * self.levels[0].0 + x];
        Ok(leaf.1 && leaf.0 < below)
    }

    fn value(&self, x: usize, y: usize) -> u32 {
        self.nodes[y * self.levels[0].0 + x].0
    }
}

/// Packet header bits: a zero is stuffed after every 0xFF.
struct HeaderBits<'a> {
    bytes: &'a [u8],
    at: usize,
    hold: u8,
    left: u32,
}

impl HeaderBits<'_> {
    fn bit(&mut self) -> Result<u32, String> {
        if self.left == 0 {
            let stuffed = self.hold == 0xff;
            self.hold = *self.bytes.get(self.at).ok_or(TRUNCATED)?;
            self.at += 1;
            self.left = if stuffed { 7 } else { 8 };
        }
        self.left -= 1;
        Ok(u32::from(self.hold >> self.left) & 1)
    }

    fn bits(&mut self, count: u32) -> Result<u32, String> {
        (0..count).try_fold(0, |sum, _| Ok(sum << 1 | self.bit()?))
    }

    /// Where the header ends; a last 0xFF drags its stuffed byte along.
    fn end(self) -> usize {
        if self.hold == 0xff && self.at > 0 && self.bytes.get(self.at - 1) == Some(&0xff) {
            self.at + 1
        } else {
            self.at
        }
    }
}

impl TileComponent {
    /// The empty tree of a component that covers `area` in its own samples.
    pub fn new(
        area: Rect,
        coding: &Coding,
        (dx, dy): (usize, usize),
        precision: u32,
        blocks_left: &mut usize,
    ) -> Result<TileComponent, String> {
        let mut resolutions = Vec::with_capacity(coding.levels + 1);
        for r in 0..=coding.levels {
            let depth = coding.levels - r;
            let resolution_area = area.shrunk(1 << depth, 1 << depth);
            let &(pw, ph) = coding.precincts.get(r).ok_or(BROKEN)?;
            let count =
                |from: usize, to: usize, log2: u32| if to > from { to.div_ceil(1 << log2) - (from >> log2) } else { 0 };
            let columns = count(resolution_area.x0, resolution_area.x1, pw);
            let rows = count(resolution_area.y0, resolution_area.y1, ph);
            let kinds: &[SubBand] = match r {
                0 => &[SubBand::LowLow],
                _ => &[SubBand::HighLow, SubBand::LowHigh, SubBand::HighHigh],
            };
            let mut bands = Vec::with_capacity(kinds.len());
            for (k, &kind) in kinds.iter().enumerate() {
                let index = if r == 0 { 0 } else { 3 * (r - 1) + 1 + k };
                let (exponent, mantissa) = coding.step(index)?;
                let planes = (coding.guard_bits + exponent).saturating_sub(1);
                if planes > 30 {
                    return Err("has more than 30 JPEG 2000 bit-planes".into());
                }
                // The gains of the high-pass sub-bands lie in the transform's own constants.
                let step = (1.0 + f64::from(mantissa) / 2048.0) * 2_f64.powi(precision as i32 - exponent as i32);
                let mut band = Band {
                    kind,
                    area: band_area(area, kind, if r == 0 { coding.levels } else { depth + 1 }),
                    planes,
                    step: if coding.reversible { 1.0 } else { step as f32 },
                    precincts: Vec::new(),
                };
                band.build_precincts(&resolution_area, (pw, ph), (columns, rows), coding, r > 0, blocks_left)?;
                bands.push(band);
            }
            resolutions.push(Resolution { area: resolution_area, precinct_log2: (pw, ph), columns, rows, bands });
        }
        Ok(TileComponent { resolutions, dx, dy })
    }
}

/// The samples of a sub-band after `depth` decompositions.
fn band_area(area: Rect, kind: SubBand, depth: usize) -> Rect {
    if depth == 0 {
        return area;
    }
    let half = 1_usize << (depth - 1);
    let x = if matches!(kind, SubBand::HighLow | SubBand::HighHigh) { half } else { 0 };
    let y = if matches!(kind, SubBand::LowHigh | SubBand::HighHigh) { half } else { 0 };
    let shrink = |v: usize, offset: usize| v.saturating_sub(offset).div_ceil(1 << depth);
    Rect { x0: shrink(area.x0, x), y0: shrink(area.y0, y), x1: shrink(area.x1, x), y1: shrink(area.y1, y) }
}

impl Band {
    fn build_precincts(
        &mut self,
        resolution: &Rect,
        (pw, ph): (u32, u32),
        (columns, rows): (usize, usize),
        coding: &Coding,
        halved: bool,
        blocks_left: &mut usize,
    ) -> Result<(), String> {
        // A precinct of a resolution covers half of it in each of its sub-bands.
        let (bw, bh) = if halved { (pw - 1, ph - 1) } else { (pw, ph) };
        let (block_w, block_h) = (coding.block_width_log2.min(bw), coding.block_height_log2.min(bh));
        let (first_column, first_row) = (resolution.x0 >> pw, resolution.y0 >> ph);
        if columns.saturating_mul(rows) > *blocks_left {
            return Err("has too many JPEG 2000 precincts".into());
        }
        for row in 0..rows {
            for column in 0..columns {
                let area = Rect {
                    x0: ((first_column + column) << bw).max(self.area.x0),
                    y0: ((first_row + row) << bh).max(self.area.y0),
                    x1: ((first_column + column + 1) << bw).min(self.area.x1),
                    y1: ((first_row + row + 1) << bh).min(self.area.y1),
                };
                let (mut wide, mut high) = (0, 0);
                if !area.is_empty() {
                    wide = area.x1.div_ceil(1 << block_w) - (area.x0 >> block_w);
                    high = area.y1.div_ceil(1 << block_h) - (area.y0 >> block_h);
                }
                let cost = wide.saturating_mul(high).max(1);
                *blocks_left = blocks_left.checked_sub(cost).ok_or("has too many JPEG 2000 code-blocks")?;
                let mut blocks = Vec::with_capacity(wide * high);
                for y in 0..high {
                    for x in 0..wide {
                        let (left, top) = ((area.x0 >> block_w) + x, (area.y0 >> block_h) + y);
                        blocks.push(Block {
                            area: Rect {
                                x0: (left << block_w).max(area.x0),
                                y0: (top << block_h).max(area.y0),
                                x1: ((left + 1) << block_w).min(area.x1),
                                y1: ((top + 1) << block_h).min(area.y1),
                            },
                            included: false,
                            bit_planes: 0,
                            length_bits: 3,
                            passes: 0,
                            segments: Vec::new(),
                        });
                    }
                }
                self.precincts.push(Precinct {
                    columns: wide,
                    rows: high,
                    blocks,
                    inclusion: TagTree::new(wide, high),
                    zero_planes: TagTree::new(wide, high),
                });
            }
        }
        Ok(())
    }
}

/// The budget of code-blocks of one tile.
pub fn block_budget() -> usize {
    MAX_BLOCKS
}

/// Reads all packets of a tile in its progression order.
pub fn read(data: &[u8], tile: Rect, coding: &TileCoding, components: &mut [TileComponent]) -> Result<(), String> {
    let packets: usize = components.iter().flat_map(|c| &c.resolutions).map(|r| r.columns * r.rows).sum();
    if packets.saturating_mul(coding.layers) > data.len() {
        return Err(TRUNCATED.into());
    }
    let resolutions = components.iter().map(|c| c.resolutions.len()).max().unwrap_or(0);
    let (mut at, layers, count) = (0, coding.layers, components.len());
    let mut one = |components: &mut [TileComponent], layer, r, c: usize, precinct| -> Result<(), String> {
        at += packet(&data[at..], coding, &mut components[c], layer, r, precinct, &coding.components[c])?;
        Ok(())
    };
    let precincts = |components: &[TileComponent], r: usize, c: usize| {
        components[c].resolutions.get(r).map_or(0, |res| res.columns * res.rows)
    };
    match coding.progression {
        0 => {
            for layer in 0..layers {
                for r in 0..resolutions {
                    for c in 0..count {
                        (0..precincts(components, r, c)).try_for_each(|p| one(components, layer, r, c, p))?;
                    }
                }
            }
        }
        1 => {
            for r in 0..resolutions {
                for layer in 0..layers {
                    for c in 0..count {
                        (0..precincts(components, r, c)).try_for_each(|p| one(components, layer, r, c, p))?;
                    }
                }
            }
        }
        order => {
            // By position: every precinct has a place on the reference grid; sort by what the order puts first.
            let mut places = Vec::with_capacity(packets);
            for (c, component) in components.iter().enumerate() {
                for (r, resolution) in component.resolutions.iter().enumerate() {
                    let depth = component.resolutions.len() - 1 - r;
                    for p in 0..resolution.columns * resolution.rows {
                        let (pw, ph) = resolution.precinct_log2;
                        let column = (resolution.area.x0 >> pw) + p % resolution.columns;
                        let row = (resolution.area.y0 >> ph) + p / resolution.columns;
                        let x = ((column << pw << depth) * component.dx).max(tile.x0);
                        let y = ((row << ph << depth) * component.dy).max(tile.y0);
                        let key = match order {
                            2 => [r, y, x, c],
                            3 => [y, x, c, r],
                            _ => [c, y, x, r],
                        };
                        places.push((key, p, r, c));
                    }
                }
            }
            places.sort_unstable();
            for (_, p, r, c) in places {
                (0..layers).try_for_each(|layer| one(components, layer, r, c, p))?;
            }
        }
    }
    Ok(())
}

/// One packet; returns its bytes.
fn packet(
    data: &[u8],
    tile: &TileCoding,
    component: &mut TileComponent,
    layer: usize,
    r: usize,
    precinct: usize,
    coding: &Coding,
) -> Result<usize, String> {
    let resolution = &mut component.resolutions[r];
    let mut start = 0;
    if tile.packet_start_markers && data.starts_with(&[0xff, 0x91]) {
        start = 6;
    }
    let mut bits = HeaderBits { bytes: data.get(start..).ok_or(TRUNCATED)?, at: 0, hold: 0, left: 0 };
    // Which block of which band takes how many bytes into which of its segments.
    let mut shares: Vec<(usize, usize, usize, usize)> = Vec::new();
    if bits.bit()? == 1 {
        for (b, band) in resolution.bands.iter_mut().enumerate() {
            let planes = band.planes;
            let Some(precinct) = band.precincts.get_mut(precinct) else { continue };
            for y in 0..precinct.rows {
                for x in 0..precinct.columns {
                    block_header(&mut bits, precinct, (x, y), layer, planes, coding.style, |k, segment, bytes| {
                        shares.push((b, k, segment, bytes));
                    })?;
                }
            }
        }
    }
    let mut at = start + bits.end();
    if tile.packet_end_markers && data.get(at..at + 2) == Some(&[0xff, 0x92]) {
        at += 2;
    }
    for (b, k, segment, count) in shares {
        let bytes = data.get(at..at.saturating_add(count)).ok_or(TRUNCATED)?;
        resolution.bands[b].precincts[precinct].blocks[k].segments[segment].bytes.extend_from_slice(bytes);
        at += count;
    }
    Ok(at)
}

fn block_header(
    bits: &mut HeaderBits,
    precinct: &mut Precinct,
    (x, y): (usize, usize),
    layer: usize,
    planes: u32,
    block_style: u8,
    mut share: impl FnMut(usize, usize, usize),
) -> Result<(), String> {
    let k = y * precinct.columns + x;
    let first = !precinct.blocks[k].included;
    let included = if first { precinct.inclusion.is_less(bits, x, y, layer as u32 + 1)? } else { bits.bit()? == 1 };
    if !included {
        return Ok(());
    }
    if first {
        let mut missing = 1;
        while !precinct.zero_planes.is_less(bits, x, y, missing)? {
            missing += 1;
            if missing > planes + 1 {
                return Err(BROKEN.into());
            }
        }
        precinct.blocks[k].included = true;
        precinct.blocks[k].bit_planes = planes.checked_sub(precinct.zero_planes.value(x, y)).ok_or(BROKEN)?;
    }
    let block = &mut precinct.blocks[k];
    let mut new_passes = pass_count(bits)?;
    while bits.bit()? == 1 {
        block.length_bits += 1;
        if block.length_bits > 31 {
            return Err(BROKEN.into());
        }
    }
    while new_passes > 0 {
        // How many passes the current segment may still take.
        let limit = |block: &Block| -> u32 {
            let done = block.segments.last().map_or(0, |s| s.passes);
            let before = block.passes - done;
            if block_style & style::TERMINATE_ALL != 0 {
                1
            } else if block_style & style::BYPASS != 0 {
                match before {
                    0 => 10,
                    // Raw pairs and single clean-up passes alternate from the eleventh pass on.
                    n if (n - 10) % 3 == 0 => 2,
                    _ => 1,
                }
            } else {
                u32::MAX
            }
        };
        if block.segments.last().is_none_or(|s| s.passes >= limit(block)) {
            block.segments.push(Segment::default());
        }
        let most = limit(block);
        let index = block.segments.len() - 1;
        let segment = &mut block.segments[index];
        let take = new_passes.min(most - segment.passes);
        let count = bits.bits(block.length_bits + take.ilog2())?;
        segment.passes += take;
        block.passes += take;
        new_passes -= take;
        share(k, index, count as usize);
    }
    if block.passes > 3 * block.bit_planes.max(1) - 2 {
        return Err(BROKEN.into());
    }
    Ok(())
}

fn pass_count(bits: &mut HeaderBits) -> Result<u32, String> {
    if bits.bit()? == 0 {
        return Ok(1);
    }
    if bits.bit()? == 0 {
        return Ok(2);
    }
    Ok(match bits.bits(2)? {
        3 => match bits.bits(5)? {
            31 => 37 + bits.bits(7)?,
            n => 6 + n,
        },
        n => 3 + n,
    })
}
