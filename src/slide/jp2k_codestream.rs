//! JPEG 2000 codestreams: the main and tile-part headers.
//!
//! Source: ITU-T T.800 annex A. Refused with a clause that says so: high-throughput blocks (part 15), regions of interest,
//! packed packet headers, progression order changes, more than 16 bits.

use super::{failure::Failure, jp2k_blocks::style};

/// More components than any image of a slide has.
const MAX_COMPONENTS: usize = 16;

#[derive(Clone, Copy, Debug)]
pub struct ComponentSize {
    pub precision: u32,
    pub signed: bool,
    /// Reference-grid points per sample.
    pub dx: usize,
    pub dy: usize,
}

/// Image and tile geometry on the reference grid.
#[derive(Clone, Debug)]
pub struct Size {
    pub x0: usize,
    pub y0: usize,
    pub x1: usize,
    pub y1: usize,
    pub tile_x0: usize,
    pub tile_y0: usize,
    pub tile_width: usize,
    pub tile_height: usize,
    pub components: Vec<ComponentSize>,
}

/// How one component of one tile is coded.
#[derive(Clone, Debug, Default)]
pub struct Coding {
    pub levels: usize,
    /// Exponents of the code-block size.
    pub block_width_log2: u32,
    pub block_height_log2: u32,
    pub style: u8,
    pub reversible: bool,
    /// Exponents of the precinct size by resolution.
    pub precincts: Vec<(u32, u32)>,
    pub guard_bits: u32,
    /// Exponent and mantissa by sub-band, lowest first.
    pub steps: Vec<(u32, u32)>,
    /// One step for the lowest sub-band, the others follow from it.
    pub derived: bool,
    own_coding: bool,
    own_steps: bool,
}

#[derive(Clone, Debug, Default)]
pub struct TileCoding {
    pub packet_start_markers: bool,
    pub packet_end_markers: bool,
    pub progression: u8,
    pub layers: usize,
    pub colour_transform: bool,
    pub components: Vec<Coding>,
}

/// One tile: its coding and its packets, tile-parts joined.
#[derive(Clone, Debug)]
pub struct TilePart {
    pub index: usize,
    pub coding: TileCoding,
    pub packets: Vec<u8>,
}

pub struct Codestream {
    pub size: Size,
    pub tiles: Vec<TilePart>,
}

fn be16(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..at + 2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1]))
}

fn be32(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..at + 4).map(|b| b.iter().fold(0, |sum, &v| sum << 8 | usize::from(v)))
}

const SHORT: &str = "ends inside a JPEG 2000 header";
const BROKEN: &str = "has a broken JPEG 2000 header";

fn unsupported(clause: &str) -> Failure {
    Failure::Unsupported(clause.to_string())
}

/// Finds the codestream in a JP2 file, or takes the data as one.
pub fn unwrap_boxes(data: &[u8]) -> Result<&[u8], Failure> {
    if data.starts_with(&[0xff, 0x4f]) {
        return Ok(data);
    }
    if !data.starts_with(b"\0\0\0\x0cjP  ") {
        return Err("is not a JPEG 2000 stream".into());
    }
    let mut at = 0;
    while let (Some(length), Some(kind)) = (be32(data, at), data.get(at + 4..at + 8)) {
        let (head, length) = match length {
            0 => (8, data.len() - at),
            1 => (16, be32(data, at + 12).filter(|_| be32(data, at + 8) == Some(0)).unwrap_or(usize::MAX)),
            n => (8, n),
        };
        let Some(body) = at.checked_add(length).and_then(|end| data.get(at + head..end.min(data.len()))) else { break };
        match kind {
            b"jp2c" => return Ok(body),
            b"jp2h" if body.windows(4).any(|w| w == b"pclr") => return Err(unsupported("uses a JPEG 2000 palette")),
            _ => {}
        }
        at = match at.checked_add(length) {
            Some(next) => next,
            None => break,
        };
    }
    Err("holds no JPEG 2000 codestream".into())
}

impl Codestream {
    pub fn read(data: &[u8], max_px: usize) -> Result<Codestream, Failure> {
        if !data.starts_with(&[0xff, 0x4f, 0xff, 0x51]) {
            return Err("is not a JPEG 2000 stream".into());
        }
        let mut at = 2;
        let mut size: Option<Size> = None;
        let mut coding = TileCoding::default();
        let mut tiles: Vec<TilePart> = Vec::new();
        loop {
            let marker = be16(data, at).ok_or(SHORT)?;
            if marker == 0xffd9 {
                break;
            }
            let length = be16(data, at + 2).ok_or(SHORT)?;
            let body = data.get(at + 4..at + 2 + length.max(2)).ok_or(SHORT)?;
            let next = at + 2 + length.max(2);
            if marker == 0xff90 {
                let size = size.as_ref().ok_or(BROKEN)?;
                at = tile_part(data, at, next, body, size, &coding, &mut tiles)?;
                // Writers may leave the end marker out.
                if at >= data.len() {
                    break;
                }
                continue;
            }
            if marker == 0xff51 {
                let read = read_size(body, max_px)?;
                coding.components = vec![Coding::default(); read.components.len()];
                size = Some(read);
            } else {
                if size.is_none() {
                    return Err(BROKEN.into());
                }
                coding.read_marker(marker, body)?;
            }
            at = next;
        }
        let size = size.ok_or(BROKEN)?;
        if tiles.is_empty() {
            return Err("holds no JPEG 2000 tile".into());
        }
        Ok(Codestream { size, tiles })
    }
}

fn read_size(body: &[u8], max_px: usize) -> Result<Size, Failure> {
    let at = |i: usize| be32(body, i).ok_or(SHORT);
    let count = be16(body, 34).ok_or(SHORT)?;
    let mut components = Vec::new();
    for c in 0..count.min(MAX_COMPONENTS + 1) {
        let raw = body.get(36 + 3 * c..39 + 3 * c).ok_or(SHORT)?;
        components.push(ComponentSize {
            precision: u32::from(raw[0] & 0x7f) + 1,
            signed: raw[0] & 0x80 != 0,
            dx: usize::from(raw[1]),
            dy: usize::from(raw[2]),
        });
    }
    let size = Size {
        x1: at(2)?,
        y1: at(6)?,
        x0: at(10)?,
        y0: at(14)?,
        tile_width: at(18)?,
        tile_height: at(22)?,
        tile_x0: at(26)?,
        tile_y0: at(30)?,
        components,
    };
    let components_fit = !size.components.is_empty()
        && size.components.len() <= MAX_COMPONENTS
        && size.components.iter().all(|c| c.dx > 0 && c.dy > 0);
    let grid_fits = size.x0 < size.x1
        && size.y0 < size.y1
        && size.tile_width > 0
        && size.tile_height > 0
        && size.tile_x0 <= size.x0
        && size.tile_y0 <= size.y0
        && size.tile_x0 + size.tile_width > size.x0
        && size.tile_y0 + size.tile_height > size.y0;
    if !components_fit || !grid_fits {
        return Err(BROKEN.into());
    }
    if let Some(c) = size.components.iter().find(|c| c.precision > 16) {
        return Err(Failure::Unsupported(format!("holds {}-bit JPEG 2000 samples", c.precision)));
    }
    let (width, height) = (size.x1 - size.x0, size.y1 - size.y0);
    // A component finer than the grid cannot be; a coarser one costs less.
    if width.saturating_mul(height).saturating_mul(size.components.len()) > 3 * max_px {
        let clause = format!("is a JPEG 2000 image of {width} x {height} px, too large to decode");
        return Err(Failure::Unsupported(clause));
    }
    Ok(size)
}

/// Reads one tile-part whose SOT segment starts at `at`; returns where it ends.
fn tile_part(
    data: &[u8],
    at: usize,
    mut next: usize,
    body: &[u8],
    size: &Size,
    main: &TileCoding,
    tiles: &mut Vec<TilePart>,
) -> Result<usize, Failure> {
    let index = be16(body, 0).ok_or(SHORT)?;
    let length = be32(body, 2).ok_or(SHORT)?;
    let end = match length {
        // The last tile-part may run to the end of the codestream.
        0 if data.ends_with(&[0xff, 0xd9]) => data.len() - 2,
        0 => data.len(),
        n => at + n,
    };
    if end > data.len() || end < next {
        return Err("ends before its last JPEG 2000 packet".into());
    }
    let columns = (size.x1 - size.tile_x0).div_ceil(size.tile_width);
    let rows = (size.y1 - size.tile_y0).div_ceil(size.tile_height);
    if index >= columns.saturating_mul(rows) {
        return Err(BROKEN.into());
    }
    let known = tiles.iter().position(|t| t.index == index);
    let slot = known.unwrap_or_else(|| {
        tiles.push(TilePart { index, coding: main.clone(), packets: Vec::new() });
        tiles.len() - 1
    });
    let tile = &mut tiles[slot];
    loop {
        let marker = be16(data, next).ok_or(SHORT)?;
        if marker == 0xff93 {
            next += 2;
            break;
        }
        let length = be16(data, next + 2).filter(|&n| n >= 2).ok_or(SHORT)?;
        let body = data.get(next + 4..next + 2 + length).ok_or(SHORT)?;
        if known.is_none() {
            tile.coding.read_marker(marker, body)?;
        }
        next += 2 + length;
    }
    tile.packets.extend_from_slice(data.get(next..end).ok_or(SHORT)?);
    Ok(end)
}

impl TileCoding {
    fn read_marker(&mut self, marker: usize, body: &[u8]) -> Result<(), Failure> {
        let wide = self.components.len() > 256;
        let component = |body: &[u8]| if wide { be16(body, 0) } else { body.first().map(|&c| usize::from(c)) };
        let skip = if wide { 2 } else { 1 };
        match marker {
            // COD: the default of all components that have none of their own.
            0xff52 => {
                let (flags, progression) = (*body.first().ok_or(SHORT)?, *body.get(1).ok_or(SHORT)?);
                self.packet_start_markers = flags & 2 != 0;
                self.packet_end_markers = flags & 4 != 0;
                self.progression = progression;
                self.layers = be16(body, 2).ok_or(SHORT)?;
                self.colour_transform = *body.get(4).ok_or(SHORT)? != 0;
                if self.layers == 0 || progression > 4 {
                    return Err(BROKEN.into());
                }
                for c in self.components.iter_mut().filter(|c| !c.own_coding) {
                    c.read_coding(flags & 1 != 0, body.get(5..).ok_or(SHORT)?)?;
                }
            }
            0xff53 => {
                let index = component(body).ok_or(SHORT)?;
                let flags = *body.get(skip).ok_or(SHORT)?;
                let c = self.components.get_mut(index).ok_or(BROKEN)?;
                c.read_coding(flags & 1 != 0, body.get(skip + 1..).ok_or(SHORT)?)?;
                c.own_coding = true;
            }
            0xff5c => {
                for c in self.components.iter_mut().filter(|c| !c.own_steps) {
                    c.read_steps(body)?;
                }
            }
            0xff5d => {
                let index = component(body).ok_or(SHORT)?;
                let c = self.components.get_mut(index).ok_or(BROKEN)?;
                c.read_steps(body.get(skip..).ok_or(SHORT)?)?;
                c.own_steps = true;
            }
            0xff5e => return Err(unsupported("uses a JPEG 2000 region of interest")),
            0xff5f => return Err(unsupported("changes its JPEG 2000 progression order")),
            0xff60 | 0xff61 => return Err(unsupported("uses packed JPEG 2000 packet headers")),
            _ => {}
        }
        Ok(())
    }
}

impl Coding {
    fn read_coding(&mut self, has_precincts: bool, body: &[u8]) -> Result<(), Failure> {
        let &[levels, width, height, style, transform, ref precincts @ ..] = body else { return Err(SHORT.into()) };
        self.levels = usize::from(levels);
        (self.block_width_log2, self.block_height_log2) = (u32::from(width & 15) + 2, u32::from(height & 15) + 2);
        if self.levels > 32
            || self.block_width_log2 > 10
            || self.block_height_log2 > 10
            || self.block_width_log2 + self.block_height_log2 > 12
        {
            return Err(BROKEN.into());
        }
        if style & style::HIGH_THROUGHPUT != 0 {
            return Err(unsupported("uses high-throughput JPEG 2000"));
        }
        self.style = style;
        self.reversible = match transform {
            0 => false,
            1 => true,
            _ => return Err(BROKEN.into()),
        };
        self.precincts = vec![(15, 15); self.levels + 1];
        if has_precincts {
            for (slot, &raw) in self.precincts.iter_mut().zip(precincts) {
                *slot = (u32::from(raw & 15), u32::from(raw >> 4));
            }
            if precincts.len() < self.levels + 1 || self.precincts[1..].iter().any(|p| p.0 == 0 || p.1 == 0) {
                return Err(BROKEN.into());
            }
        }
        Ok(())
    }

    fn read_steps(&mut self, body: &[u8]) -> Result<(), Failure> {
        let (&head, values) = body.split_first().ok_or(SHORT)?;
        self.guard_bits = u32::from(head >> 5);
        let kind = head & 31;
        self.derived = kind == 1;
        self.steps = match kind {
            0 => values.iter().map(|&v| (u32::from(v >> 3), 0)).collect(),
            1 | 2 => values
                .chunks_exact(2)
                .map(|v| (u32::from(v[0] >> 3), u32::from(v[0] & 7) << 8 | u32::from(v[1])))
                .collect(),
            _ => return Err(BROKEN.into()),
        };
        Ok(())
    }

    /// Exponent and mantissa of sub-band `band` (0 the lowest, then three per resolution).
    pub fn step(&self, band: usize) -> Result<(u32, u32), String> {
        if self.derived {
            let &(exponent, mantissa) = self.steps.first().ok_or(BROKEN)?;
            return Ok((exponent.saturating_sub(band.saturating_sub(1) as u32 / 3), mantissa));
        }
        self.steps.get(band).copied().ok_or_else(|| BROKEN.into())
    }
}
