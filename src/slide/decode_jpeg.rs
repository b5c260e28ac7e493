//! JPEG tiles, strips and files: baseline, extended sequential and progressive Huffman JPEG of 8 bits, any integral
//! chroma subsampling, abbreviated streams with tables given apart (TIFF JPEGTables).
//!
//! Source: ITU-T T.81; TIFF Technical Note 2. Why not a crate: the samples must equal those of libjpeg-turbo, which
//! OpenSlide, libtiff and tifffile use, and decoders with another inverse transform or chroma filter differ by up to 4
//! of 255 (a quarter of all samples at 4:2:0). Its price beside zune-jpeg: 0.94 to 1.00 of its speed on tiles made here, 1.01 and
//! 1.25 on tiles of two Aperio slides (AMD EPYC, AVX-512), 0.71 at the worst (Xeon, AVX-512); `cargo bench --bench slide`.
//!
//! Refused: arithmetic coding, lossless, 12 bits, hierarchical. A stream that ends before its last block is refused, never filled with grey.

use super::{
    colour::row_to_rgb,
    failure::Failure,
    jpeg_entropy::{self as entropy, Band, Bits, HuffmanTable},
    jpeg_idct as idct,
    jpeg_upsample::{self as upsample, Plane},
};

/// More scans than any encoder makes; bounds the work on a hostile progressive stream.
const MAX_SCANS: usize = 100;

/// How the components are to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Colours {
    /// The container says RGB. So it is, whatever component numbers say (Aperio writes none that tell), unless a JFIF
    /// marker, which always means YCbCr, says that the container is wrong (OME-TIFF exporters).
    Rgb,
    /// As stored: grey, CMYK, one plane of several.
    Stored,
    /// The container says YCbCr.
    YCbCr,
    /// A file of its own: markers and component numbers decide.
    FromMarkers,
}

/// Decoded samples, interleaved: 1 or 3 channels (RGB), or 4 as stored.
pub struct Decoded {
    pub width_px: usize,
    pub height_px: usize,
    pub channels: usize,
    pub samples: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
struct Component {
    id: u8,
    across: usize,
    down: usize,
    quant: usize,
    /// Blocks of the image, and blocks allocated (whole MCUs).
    blocks_wide: usize,
    blocks_high: usize,
    padded_wide: usize,
    padded_high: usize,
}

struct Frame {
    progressive: bool,
    width_px: usize,
    height_px: usize,
    components: Vec<Component>,
    max_across: usize,
    max_down: usize,
    mcus_wide: usize,
    mcus_high: usize,
}

#[derive(Default)]
struct Decoder {
    quants: [Option<Box<[u16; 64]>>; 4],
    dc: [Option<HuffmanTable>; 4],
    ac: [Option<HuffmanTable>; 4],
    restart_interval: usize,
    jfif: bool,
    adobe_transform: Option<u8>,
    frame: Option<Frame>,
    /// Sequential scans decode straight to samples; progressive ones collect coefficients first.
    planes: Vec<Vec<u8>>,
    coefficients: Vec<Vec<i16>>,
    /// Quantisation tables as they stood when each component was first scanned.
    frozen_quants: Vec<Option<Box<[u16; 64]>>>,
    scans: usize,
    /// The end marker was seen. A progressive image without it may lack scans.
    ended: bool,
}

/// Decodes one stream. `tables` is an abbreviated stream read before it. The image may hold at most `max_px` pixels.
/// Errors are a clause about the data ("ends inside ...").
pub fn decode(tables: Option<&[u8]>, data: &[u8], colours: Colours, max_px: usize) -> Result<Decoded, Failure> {
    let mut decoder = Decoder::default();
    if let Some(tables) = tables {
        decoder.read_markers(tables, max_px).map_err(|e| e.map(|clause| format!("{clause} (JPEGTables)")))?;
    }
    decoder.ended = false;
    decoder.read_markers(data, max_px)?;
    Ok(decoder.finish(colours)?)
}

fn be16(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// T.81's table of start-of-frame markers, for those that are not decoded.
fn unsupported_process(marker: u8) -> Failure {
    let kind = match marker {
        0xc3 => "lossless",
        0xc5..=0xc7 => "hierarchical",
        0xc9..=0xca => "arithmetic-coded",
        0xcb => "lossless arithmetic-coded",
        _ => "hierarchical arithmetic-coded",
    };
    Failure::Unsupported(format!("is a JPEG of process {} ({kind})", marker - 0xc0))
}

impl Decoder {
    fn read_markers(&mut self, data: &[u8], max_px: usize) -> Result<(), Failure> {
        if !data.starts_with(&[0xff, 0xd8]) {
            return Err("is not a JPEG stream".into());
        }
        let mut at = 2;
        loop {
            while data.get(at).is_some_and(|&b| b != 0xff) {
                at += 1;
            }
            while data.get(at + 1) == Some(&0xff) {
                at += 1;
            }
            let Some(&marker) = data.get(at + 1) else { return Ok(()) };
            at += 2;
            match marker {
                0xd9 => {
                    self.ended = true;
                    return Ok(());
                }
                0 | 1 | 0xd0..=0xd8 => continue,
                _ => {}
            }
            let length = data.get(at..at + 2).map(be16).unwrap_or(0);
            let body = match data.get(at + 2..at + length.max(2)) {
                Some(body) if length >= 2 => body,
                _ => return Err("ends inside a JPEG header".into()),
            };
            at += length;
            match marker {
                0xdb => self.quant_tables(body)?,
                0xc4 => self.huffman_tables(body)?,
                0xc0..=0xc2 => self.start_frame(marker, body, max_px)?,
                0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                    return Err(unsupported_process(marker));
                }
                0xdd if body.len() >= 2 => self.restart_interval = be16(body),
                0xda => at += self.scan(body, &data[at..])?,
                0xe0 if body.starts_with(b"JFIF\0") => self.jfif = true,
                0xee if body.starts_with(b"Adobe") && body.len() >= 12 => self.adobe_transform = Some(body[11]),
                _ => {}
            }
        }
    }

    fn quant_tables(&mut self, mut body: &[u8]) -> Result<(), String> {
        while let Some(&head) = body.first() {
            let (wide, index) = (head >> 4 != 0, usize::from(head & 15));
            let size = if wide { 128 } else { 64 };
            if index > 3 || body.len() < 1 + size {
                return Err("has a broken quantisation table".into());
            }
            let mut table = Box::new([0_u16; 64]);
            for k in 0..64 {
                let value = if wide { be16(&body[1 + 2 * k..]) as u16 } else { u16::from(body[1 + k]) };
                table[usize::from(entropy::NATURAL[k])] = value;
            }
            self.quants[index] = Some(table);
            body = &body[1 + size..];
        }
        Ok(())
    }

    fn huffman_tables(&mut self, mut body: &[u8]) -> Result<(), String> {
        while let Some(&head) = body.first() {
            let counts: [u8; 16] =
                body.get(1..17).and_then(|c| c.try_into().ok()).ok_or("has a broken Huffman table")?;
            let total: usize = counts.iter().map(|&c| usize::from(c)).sum();
            let symbols = body.get(17..17 + total).ok_or("has a broken Huffman table")?;
            let table = HuffmanTable::new(&counts, symbols)?;
            let index = usize::from(head & 15);
            let slot = if head >> 4 == 0 { self.dc.get_mut(index) } else { self.ac.get_mut(index) };
            *slot.ok_or("has a broken Huffman table")? = Some(table);
            body = &body[17 + total..];
        }
        Ok(())
    }

    fn start_frame(&mut self, marker: u8, body: &[u8], max_px: usize) -> Result<(), Failure> {
        if self.frame.is_some() {
            return Err("holds two JPEG frames".into());
        }
        if body.len() < 6 || body.len() < 6 + 3 * usize::from(body[5]) {
            return Err("ends inside a JPEG header".into());
        }
        if body[0] != 8 {
            return Err(Failure::Unsupported(format!("is a {}-bit JPEG", body[0])));
        }
        let (height_px, width_px) = (be16(&body[1..]), be16(&body[3..]));
        let count = usize::from(body[5]);
        if width_px == 0 || height_px == 0 || !matches!(count, 1 | 3 | 4) {
            return Err(format!("is a JPEG of {width_px} x {height_px} px with {count} components").into());
        }
        let progressive = marker == 0xc2;
        // Coefficients kept for all scans weigh three times the samples.
        if width_px * height_px > if progressive { max_px / 2 } else { max_px } {
            let clause = format!("is a JPEG of {width_px} x {height_px} px, too large to decode");
            return Err(Failure::Unsupported(clause));
        }
        let mut components: Vec<Component> = body[6..6 + 3 * count]
            .chunks_exact(3)
            .map(|c| Component {
                id: c[0],
                across: usize::from(c[1] >> 4),
                down: usize::from(c[1] & 15),
                quant: usize::from(c[2]),
                ..Component::default()
            })
            .collect();
        if components.iter().any(|c| !(1..=4).contains(&c.across) || !(1..=4).contains(&c.down) || c.quant > 3) {
            return Err("has a broken JPEG frame header".into());
        }
        if count == 1 {
            // With one component the factors have no meaning: an MCU is one block.
            (components[0].across, components[0].down) = (1, 1);
        }
        let max_across = components.iter().map(|c| c.across).max().unwrap_or(1);
        let max_down = components.iter().map(|c| c.down).max().unwrap_or(1);
        if components.iter().any(|c| max_across % c.across != 0 || max_down % c.down != 0) {
            return Err(Failure::Unsupported("uses fractional chroma subsampling".into()));
        }
        let (mcus_wide, mcus_high) = (width_px.div_ceil(8 * max_across), height_px.div_ceil(8 * max_down));
        for c in &mut components {
            c.blocks_wide = (width_px * c.across).div_ceil(8 * max_across);
            c.blocks_high = (height_px * c.down).div_ceil(8 * max_down);
            (c.padded_wide, c.padded_high) = (mcus_wide * c.across, mcus_high * c.down);
        }
        self.frozen_quants = vec![None; count];
        self.frame =
            Some(Frame { progressive, width_px, height_px, components, max_across, max_down, mcus_wide, mcus_high });
        Ok(())
    }

    /// One scan: header `body`, entropy-coded data at the start of `data`. Returns the bytes of data consumed.
    fn scan(&mut self, body: &[u8], data: &[u8]) -> Result<usize, String> {
        let frame = self.frame.as_ref().ok_or("has a JPEG scan before its frame")?;
        self.scans += 1;
        let count = body.first().map_or(0, |&n| usize::from(n));
        if self.scans > MAX_SCANS || !(1..=frame.components.len()).contains(&count) || body.len() < 4 + 2 * count {
            return Err("has a broken JPEG scan header".into());
        }
        let mut members = Vec::with_capacity(count);
        for pair in body[1..1 + 2 * count].chunks_exact(2) {
            let index = frame
                .components
                .iter()
                .position(|c| c.id == pair[0])
                .filter(|i| !members.iter().any(|&(m, _, _)| m == *i))
                .ok_or("has a JPEG scan of an unknown component")?;
            members.push((index, usize::from(pair[1] >> 4), usize::from(pair[1] & 15)));
        }
        let tail = &body[1 + 2 * count..];
        let band = Band {
            first: usize::from(tail[0]),
            last: usize::from(tail[1]),
            high: u32::from(tail[2] >> 4),
            low: u32::from(tail[2] & 15),
        };
        let (bytes, ends, consumed) = entropy::intervals(data);
        // Every block takes at least one bit per coefficient class, so a large frame over little data is refused
        // before its samples are allocated.
        if self.scans == 1 {
            let blocks: usize = members
                .iter()
                .map(|&(i, _, _)| frame.components[i].blocks_wide * frame.components[i].blocks_high)
                .sum();
            let least_bits = if frame.progressive { blocks } else { 2 * blocks };
            if bytes.len() * 8 < least_bits {
                return Err("ends before its last JPEG block".into());
            }
            for c in &frame.components {
                let samples = c.padded_wide * c.padded_high * 64;
                if frame.progressive {
                    self.coefficients.push(vec![0; samples]);
                } else {
                    self.planes.push(vec![0; samples]);
                }
            }
        }
        for &(i, _, _) in &members {
            if self.frozen_quants[i].is_none() {
                self.frozen_quants[i] = self.quants[frame.components[i].quant].clone();
            }
        }
        let scan = Scan { members: &members, band, bytes: &bytes, ends: &ends };
        if frame.progressive {
            self.progressive_scan(&scan)?;
        } else {
            self.sequential_scan(&scan)?;
        }
        Ok(consumed)
    }

    fn sequential_scan(&mut self, scan: &Scan) -> Result<(), String> {
        let Some(frame) = &self.frame else { return Ok(()) };
        let mut tables = Vec::with_capacity(scan.members.len());
        for &(i, dc, ac) in scan.members {
            let huffman = |set: &'_ [Option<HuffmanTable>; 4], k: usize| set.get(k).is_some_and(|t| t.is_some());
            if !huffman(&self.dc, dc) || !huffman(&self.ac, ac) {
                return Err("uses a Huffman table that it does not define".into());
            }
            let quant = self.frozen_quants[i].as_ref().ok_or("uses a quantisation table that it does not define")?;
            tables.push((self.dc[dc].as_ref(), self.ac[ac].as_ref(), quant));
        }
        let planes = &mut self.planes;
        let mut previous = [0_i32; 4];
        let mut block = [0_i16; 64];
        walk(frame, scan, self.restart_interval, |bits, event| {
            let Step::Block { member, column, row } = event else {
                previous = [0; 4];
                return;
            };
            let (i, _, _) = scan.members[member];
            let (Some(dc), Some(ac), quant) = tables[member] else { return };
            let end = entropy::sequential_block(bits, dc, ac, &mut previous[member], &mut block);
            let stride = frame.components[i].padded_wide * 8;
            let out = &mut planes[i][row * 8 * stride + column * 8..];
            let out_len = out.len().min(7 * stride + 8);
            idct::block(&block, end, quant, &mut out[..out_len], stride);
            block = [0; 64];
        })
    }

    fn progressive_scan(&mut self, scan: &Scan) -> Result<(), String> {
        let Some(frame) = &self.frame else { return Ok(()) };
        let band = scan.band;
        let valid = band.first <= band.last && band.last < 64 && band.low < 14 && (band.first > 0 || band.last == 0);
        if !valid || (band.first > 0 && scan.members.len() != 1) {
            return Err("has a broken progressive JPEG scan".into());
        }
        for &(_, dc, ac) in scan.members {
            let missing = |set: &[Option<HuffmanTable>; 4], k: usize| set.get(k).is_none_or(|t| t.is_none());
            if (band.first == 0 && band.high == 0 && missing(&self.dc, dc)) || (band.first > 0 && missing(&self.ac, ac))
            {
                return Err("uses a Huffman table that it does not define".into());
            }
        }
        let (coefficients, dc_tables, ac_tables) = (&mut self.coefficients, &self.dc, &self.ac);
        let mut previous = [0_i32; 4];
        let mut end_run = 0;
        walk(frame, scan, self.restart_interval, |bits, event| {
            let Step::Block { member, column, row } = event else {
                (previous, end_run) = ([0; 4], 0);
                return;
            };
            let (i, dc, ac) = scan.members[member];
            let first = (row * frame.components[i].padded_wide + column) * 64;
            let block = &mut coefficients[i][first..first + 64];
            if band.first == 0 {
                let table = dc_tables.get(dc).and_then(|t| t.as_ref());
                entropy::progressive_dc(bits, table, band, &mut previous[member], block);
            } else if let Some(Some(table)) = ac_tables.get(ac) {
                if band.high == 0 {
                    entropy::progressive_ac_first(bits, table, band, &mut end_run, block);
                } else {
                    entropy::progressive_ac_refine(bits, table, band, &mut end_run, block);
                }
            }
        })
    }

    fn finish(mut self, colours: Colours) -> Result<Decoded, String> {
        let frame = self.frame.take().ok_or("holds no JPEG frame")?;
        if self.scans == 0 || self.frozen_quants.iter().any(|q| q.is_none()) {
            return Err("ends before all its JPEG components".into());
        }
        if frame.progressive && !self.ended {
            return Err("ends before its last JPEG scan".into());
        }
        if frame.progressive {
            for ((component, coefficients), quant) in
                frame.components.iter().zip(std::mem::take(&mut self.coefficients)).zip(&self.frozen_quants)
            {
                let stride = component.padded_wide * 8;
                let mut plane = vec![0; coefficients.len()];
                let (blocks, _) = coefficients.as_chunks::<64>();
                for (k, block) in blocks.iter().enumerate() {
                    let (row, column) = (k / component.padded_wide, k % component.padded_wide);
                    let out = &mut plane[row * 8 * stride + column * 8..];
                    let out_len = out.len().min(7 * stride + 8);
                    if let Some(quant) = quant {
                        idct::block(block, 64, quant, &mut out[..out_len], stride);
                    }
                }
                self.planes.push(plane);
            }
        }
        let planes: Vec<Plane> = frame
            .components
            .iter()
            .zip(std::mem::take(&mut self.planes))
            .map(|(c, samples)| Plane {
                samples,
                stride: c.padded_wide * 8,
                width: (frame.width_px * c.across).div_ceil(frame.max_across),
                height: (frame.height_px * c.down).div_ceil(frame.max_down),
            })
            .collect();
        let convert = planes.len() == 3
            && match colours {
                Colours::Rgb => self.jfif,
                Colours::Stored => false,
                Colours::YCbCr => true,
                Colours::FromMarkers => self.markers_say_ycbcr(&frame),
            };
        Ok(interleave(&frame, &planes, convert))
    }

    /// JFIF is YCbCr; an Adobe marker says; without either, component numbers that spell RGB are RGB.
    fn markers_say_ycbcr(&self, frame: &Frame) -> bool {
        match self.adobe_transform {
            _ if self.jfif => true,
            Some(transform) => transform != 0,
            None => !frame.components.iter().map(|c| c.id).eq(*b"RGB"),
        }
    }
}

struct Scan<'a> {
    /// Component index, DC table, AC table.
    members: &'a [(usize, usize, usize)],
    band: Band,
    bytes: &'a [u8],
    ends: &'a [usize],
}

enum Step {
    Restart,
    Block { member: usize, column: usize, row: usize },
}

/// Visits the blocks of a scan in coded order: MCUs if components are interleaved, else the component's own blocks.
fn walk(
    frame: &Frame,
    scan: &Scan,
    restart_interval: usize,
    mut visit: impl FnMut(&mut Bits, Step),
) -> Result<(), String> {
    let alone = match scan.members {
        [(i, _, _)] => Some(frame.components[*i]),
        _ => None,
    };
    let (units_wide, units_high) = match alone {
        Some(c) => (c.blocks_wide, c.blocks_high),
        None => (frame.mcus_wide, frame.mcus_high),
    };
    let per_interval = if restart_interval == 0 { usize::MAX } else { restart_interval };
    let mut intervals = scan.ends.iter().scan(0, |start, &end| {
        let interval = &scan.bytes[*start..end];
        *start = end;
        Some(interval)
    });
    let mut bits = Bits::new(if restart_interval == 0 { scan.bytes } else { intervals.next().unwrap_or(&[]) });
    let mut left = per_interval;
    for unit_row in 0..units_high {
        for unit_column in 0..units_wide {
            if left == 0 {
                if bits.overran() {
                    return Err("holds broken JPEG data".into());
                }
                bits = Bits::new(intervals.next().ok_or("ends before its last JPEG block")?);
                visit(&mut bits, Step::Restart);
                left = per_interval;
            }
            left -= 1;
            if alone.is_some() {
                visit(&mut bits, Step::Block { member: 0, column: unit_column, row: unit_row });
                continue;
            }
            for (member, &(i, _, _)) in scan.members.iter().enumerate() {
                let c = &frame.components[i];
                for y in 0..c.down {
                    for x in 0..c.across {
                        let (column, row) = (unit_column * c.across + x, unit_row * c.down + y);
                        visit(&mut bits, Step::Block { member, column, row });
                    }
                }
            }
        }
        if bits.overran() {
            return Err("holds broken JPEG data or ends before its last block".into());
        }
    }
    Ok(())
}

fn interleave(frame: &Frame, planes: &[Plane], convert: bool) -> Decoded {
    let (width_px, height_px, channels) = (frame.width_px, frame.height_px, planes.len());
    let mut samples = vec![0; width_px * height_px * channels];
    // Rows at full resolution; room for a last sample pair that sticks out.
    let mut upsampled = vec![vec![0_u8; width_px + 8]; channels];
    for (y, out) in samples.chunks_exact_mut(width_px * channels).enumerate() {
        let rows = planes.iter().zip(&frame.components).zip(&mut upsampled).map(|((plane, component), row)| {
            let (across, down) = (frame.max_across / component.across, frame.max_down / component.down);
            if (across, down) == (1, 1) {
                return plane.row(y);
            }
            row.resize((plane.width * across).max(width_px), 0);
            upsample::row(plane, across, down, y, row);
            &row[..]
        });
        let rows: Vec<&[u8]> = rows.collect();
        match &rows[..] {
            &[grey] => out.copy_from_slice(&grey[..width_px]),
            &[a, b, c] if convert => row_to_rgb(&a[..width_px], &b[..width_px], &c[..width_px], out),
            &[a, b, c] => {
                for (((o, &a), &b), &c) in out.chunks_exact_mut(3).zip(a).zip(b).zip(c) {
                    o.copy_from_slice(&[a, b, c]);
                }
            }
            rows => {
                for (x, o) in out.chunks_exact_mut(channels).enumerate() {
                    rows.iter().zip(o).for_each(|(row, o)| *o = row[x]);
                }
            }
        }
    }
    Decoded { width_px, height_px, channels, samples }
}
