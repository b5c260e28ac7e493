//! One chunk: residuals to counts to bits. The bit layout is in the parent module's page.

use super::{
    bits::{Count, Reader, Sink, Writer},
    huffman::{self, Builder, Decoder, MAX_SYMBOLS, code_lengths, put_lengths, take_lengths},
    matches::{BUCKETS, Bucket, Counts, Finder, LEAD, LEAST_PX, Match, Padded, RESIDUALS, bucket, bucket_start},
    predict::{self, CONTEXTS, ChunkArea, Symbol, context_of, residual_of},
};
use crate::image::RgbImage;

/// The index of the match symbol in a literal table.
const MATCH: usize = 256;

/// Code lengths of a chunk's ten tables.
struct Tables {
    literals: [[u8; MAX_SYMBOLS]; CONTEXTS],
    lengths: [u8; BUCKETS],
    distances: [u8; BUCKETS],
}

impl Tables {
    fn put(&self, has_matches: bool, sink: &mut impl Sink) {
        sink.put(u32::from(has_matches), 1);
        for table in &self.literals {
            if has_matches {
                sink.put(u32::from(table[MATCH]), 4);
            }
            put_lengths(sink, &table[..MATCH]);
        }
        if has_matches {
            put_lengths(sink, &self.lengths);
            put_lengths(sink, &self.distances);
        }
    }
}

/// Everything needed to count or write the bits of one chunk; reused from chunk to chunk.
pub struct Coder {
    padded: Box<Padded>,
    /// Symbols of a few samples: as many as stay in the nearest cache from where they are made to where they are counted.
    symbols: Box<[Symbol; SLAB]>,
    /// Four interleaved histograms: neighbouring samples often have the same value, and would wait for each other.
    partial: Box<Partial>,
    counts: Counts,
    finder: Finder,
    builder: Builder,
    tables: Tables,
}

impl Default for Coder {
    fn default() -> Coder {
        Coder {
            padded: Box::new([0; LEAD + RESIDUALS]),
            symbols: Box::new([0; SLAB]),
            partial: vec![[0; 4]; 1 << 16].into_boxed_slice().try_into().expect("as many entries as a Partial has"),
            counts: Counts { literals: [[0; 256]; CONTEXTS] },
            finder: Finder::default(),
            builder: Builder::default(),
            tables: Tables { literals: [[0; MAX_SYMBOLS]; CONTEXTS], lengths: [0; BUCKETS], distances: [0; BUCKETS] },
        }
    }
}

impl Coder {
    /// Bytes of the chunk's payload, whether coded or stored. Writes nothing.
    pub fn payload_bytes(&mut self, image: &RgbImage, area: ChunkArea) -> usize {
        let coded = self.analyse(image, area).div_ceil(8) as usize;
        coded.min(area.bytes())
    }

    /// The chunk's payload: coded, or the plain pixels if that is not longer.
    pub fn payload(&mut self, image: &RgbImage, area: ChunkArea) -> Vec<u8> {
        let coded = self.analyse(image, area).div_ceil(8) as usize;
        if coded < area.bytes() {
            let payload = self.write(area);
            debug_assert_eq!(payload.len(), coded);
            payload
        } else {
            image.crop(area.x_px, area.y_px, area.width_px, area.height_px).pixels
        }
    }

    /// Predicts, finds the copies and builds the tables; returns the length of the coded chunk in bits.
    fn analyse(&mut self, image: &RgbImage, area: ChunkArea) -> u64 {
        let n = area.bytes();
        predict::residuals(image, area, &mut self.padded[LEAD..][..n]);

        self.partial[..SYMBOLS].fill([0; 4]);
        self.count(area.width_px, 0..n, 1);
        add_up(&self.partial, &mut self.counts);
        self.finder.parse(&self.padded, area.width_px, n, &self.counts);

        let mut starts = [0u32; CONTEXTS];
        let (mut lengths, mut distances) = ([0u32; BUCKETS], [0u32; BUCKETS]);
        let mut extra_bits = 0;
        for index in 0..self.finder.matches.len() {
            let copy = self.finder.matches[index];
            let first = self.count(area.width_px, copy.samples(), u16::MAX);
            starts[context_of(first)] += 1;
            let (length, distance) = buckets(copy);
            lengths[length.symbol as usize] += 1;
            distances[distance.symbol as usize] += 1;
            extra_bits += u64::from(length.extra_bits + distance.extra_bits);
        }

        if !self.finder.matches.is_empty() {
            add_up(&self.partial, &mut self.counts);
        }

        let payload = |counts: &[u32], lengths: &[u8]| -> u64 {
            counts.iter().zip(lengths).map(|(&count, &length)| u64::from(count) * u64::from(length)).sum()
        };
        let mut bits = Count(extra_bits);
        for (context, &start) in starts.iter().enumerate() {
            let mut counts = [0; MAX_SYMBOLS];
            counts[..MATCH].copy_from_slice(&self.counts.literals[context]);
            counts[MATCH] = start;
            let table = &mut self.tables.literals[context];
            code_lengths(&mut self.builder, &counts, table);
            bits.0 += payload(&counts, table);
        }
        for (counts, table) in [(&lengths, &mut self.tables.lengths), (&distances, &mut self.tables.distances)] {
            code_lengths(&mut self.builder, counts, table);
            bits.0 += payload(counts, table);
        }
        self.tables.put(!self.finder.matches.is_empty(), &mut bits);
        bits.0
    }

    /// Adds `step` to the histogram for each of some samples; returns the first one's symbol.
    fn count(&mut self, width_px: usize, samples: std::ops::Range<usize>, step: u16) -> Symbol {
        let mut first = None;
        for start in samples.clone().step_by(SLAB) {
            let symbols = &mut self.symbols[..SLAB.min(samples.end - start)];
            let before = LEAD + start - 3 * width_px;
            predict::symbols(&self.padded[before..][..3 * width_px + symbols.len()], width_px, symbols);
            count(symbols, step, &mut self.partial);
            first = first.or(symbols.first().copied());
        }
        first.unwrap_or_default()
    }

    /// Writes the chunk that [`Coder::analyse`] was last given.
    fn write(&self, area: ChunkArea) -> Vec<u8> {
        let (n, stride) = (area.bytes(), 3 * area.width_px);
        let mut symbols = vec![0; n];
        predict::symbols(&self.padded[LEAD - stride..][..stride + n], area.width_px, &mut symbols);
        let mut out = Writer::default();
        self.tables.put(!self.finder.matches.is_empty(), &mut out);
        let words = self.tables.literals.each_ref().map(|table| huffman::code_words(table));
        let length_words = huffman::code_words(&self.tables.lengths);
        let distance_words = huffman::code_words(&self.tables.distances);
        let put = |out: &mut Writer, context: usize, symbol: usize| {
            out.put(u32::from(words[context][symbol]), u32::from(self.tables.literals[context][symbol]));
        };
        let mut at = 0;
        for copy in &self.finder.matches {
            let samples = copy.samples();
            symbols[at..samples.start].iter().for_each(|&s| put(&mut out, context_of(s), residual_of(s)));
            put(&mut out, context_of(symbols[samples.start]), MATCH);
            let (length, distance) = buckets(*copy);
            for (part, words, lengths) in
                [(length, &length_words, &self.tables.lengths), (distance, &distance_words, &self.tables.distances)]
            {
                let symbol = part.symbol as usize;
                out.put(u32::from(words[symbol]), u32::from(lengths[symbol]));
                out.put(part.extra, part.extra_bits);
            }
            at = samples.end;
        }
        symbols[at..].iter().for_each(|&s| put(&mut out, context_of(s), residual_of(s)));
        out.finish()
    }
}

fn buckets(copy: Match) -> (Bucket, Bucket) {
    (bucket(u32::from(copy.length_px) - LEAST_PX as u32), bucket(u32::from(copy.distance_px) - 1))
}

/// Samples whose symbols are made at once.
const SLAB: usize = 4096;

/// Symbols there are: residuals in contexts.
const SYMBOLS: usize = 256 * CONTEXTS;

/// Histograms by symbol, with an entry for every 16-bit number so that none needs a bounds check; only the first [`SYMBOLS`] are
/// used, and the others never become memory.
type Partial = [[u16; 4]; 1 << 16];

/// Adds `step` for every symbol, modulo 2^16: 1 counts, `u16::MAX` takes back.
fn count(symbols: &[Symbol], step: u16, partial: &mut Partial) {
    let mut add = |symbol: Symbol, part: usize, step: u16| {
        let count = &mut partial[usize::from(symbol)][part];
        *count = count.wrapping_add(step);
    };
    let (groups, rest) = symbols.as_chunks::<8>();
    let mut zeros = 0u16;
    for group in groups {
        // Flat areas are nothing but symbol 0, and would wait for one count.
        if group.iter().fold(0, |any, symbol| any | symbol) == 0 {
            zeros = zeros.wrapping_add(8);
            continue;
        }
        for (k, &symbol) in group.iter().enumerate() {
            add(symbol, k % 4, step);
        }
    }
    add(0, 0, zeros.wrapping_mul(step));
    rest.iter().for_each(|&symbol| add(symbol, 0, step));
}

/// The sums of the interleaved histograms; each may have wrapped around, their sums (below 2^16) have not.
fn add_up(partial: &Partial, counts: &mut Counts) {
    for (total, parts) in counts.literals.as_flattened_mut().iter_mut().zip(partial) {
        *total = u32::from(parts.iter().fold(0u16, |sum, &part| sum.wrapping_add(part)));
    }
}

/// Pixels of a coded or stored chunk into `pixels` (exactly the area's bytes); an error says what is wrong.
pub fn decode(payload: &[u8], area: ChunkArea, pixels: &mut [u8]) -> Result<(), &'static str> {
    let (n, stride) = (area.bytes(), 3 * area.width_px);
    if payload.len() == n {
        pixels.copy_from_slice(payload);
        return Ok(());
    }
    let mut reader = Reader::new(payload);
    let has_matches = reader.take(1) == 1;
    let mut literals = Vec::with_capacity(CONTEXTS);
    for _ in 0..CONTEXTS {
        let mut lengths = [0; MAX_SYMBOLS];
        let match_length = if has_matches { reader.take(4) as u8 } else { 0 };
        take_lengths(&mut reader, &mut lengths[..MATCH])?;
        lengths[MATCH] = match_length;
        literals.push(Decoder::new(&lengths)?);
    }
    let mut bucket_table = || -> Result<Decoder, &'static str> {
        let mut lengths = [0; BUCKETS];
        if has_matches {
            take_lengths(&mut reader, &mut lengths)?;
        }
        Decoder::new(&lengths)
    };
    let (length_table, distance_table) = (bucket_table()?, bucket_table()?);
    let take_bucket = |reader: &mut Reader, table: &Decoder| -> Result<usize, &'static str> {
        let (start, extra_bits) = bucket_start(table.take(reader)? as u32);
        Ok((start + reader.take(extra_bits)) as usize)
    };

    let mut padded = vec![0u8; stride + n];
    let [left, up, up_right] = predict::neighbours(area.width_px);
    let mut at = stride;
    while at < padded.len() {
        let context = predict::context(padded[at - left], padded[at - up], padded[at - up_right]);
        let symbol = literals[usize::from(context)].take(&mut reader)?;
        if reader.overran() {
            return Err("a chunk ends too early");
        }
        if symbol < MATCH {
            padded[at] = symbol as u8;
            at += 1;
            continue;
        }
        if !(at - stride).is_multiple_of(3) {
            return Err("a copy starts within a pixel");
        }
        let length = 3 * (take_bucket(&mut reader, &length_table)? + LEAST_PX);
        let distance = 3 * (take_bucket(&mut reader, &distance_table)? + 1);
        if distance > at - stride {
            return Err("a copy starts before its chunk");
        }
        if length > padded.len() - at {
            return Err("a copy runs past its chunk");
        }
        for i in at..at + length {
            padded[i] = padded[i - distance];
        }
        at += length;
    }
    if !reader.ended_well() {
        return Err("a chunk has the wrong length");
    }
    predict::restore(&padded[stride..], area, pixels);
    Ok(())
}
