//! TIFF files made byte by byte, right or wrong on purpose: directories of tags, blobs of data, then damage.

use std::collections::HashMap;

/// A tag's value: numbers, text, or the place of something else in the file (`@data0`, `@directory1`).
#[derive(Clone, Debug)]
pub enum Value {
    Numbers(Vec<u64>),
    Text(String),
    Places(Vec<String>),
}

#[derive(Clone, Debug, Default)]
pub struct Builder {
    pub big_endian: bool,
    pub big_tiff: bool,
    /// Tag, field type and value, by directory.
    pub directories: Vec<Vec<(u16, u16, Value)>>,
    pub data: Vec<Vec<u8>>,
    /// Directories that only tags point to.
    pub unchained: Vec<usize>,
    /// Where the last directory points: none, or a directory's number.
    pub last_points_to: Option<usize>,
}

fn unit(field_type: u16) -> usize {
    match field_type {
        1 | 2 | 7 => 1,
        3 => 2,
        4 | 13 => 4,
        _ => 8,
    }
}

impl Builder {
    pub fn number(&self, value: u64, bytes: usize) -> Vec<u8> {
        let mut raw = value.to_le_bytes()[..bytes].to_vec();
        if self.big_endian {
            raw.reverse();
        }
        raw
    }

    fn encode(&self, field_type: u16, value: &Value, places: &HashMap<String, u64>) -> (u64, Vec<u8>) {
        let all = |values: &[u64]| -> Vec<u8> {
            match field_type {
                // A rational is a pair of numbers.
                5 => values.iter().flat_map(|&v| self.number(v, 4)).collect(),
                _ => values.iter().flat_map(|&v| self.number(v, unit(field_type))).collect(),
            }
        };
        match value {
            Value::Numbers(values) if field_type == 5 => (values.len() as u64 / 2, all(values)),
            Value::Numbers(values) => (values.len() as u64, all(values)),
            Value::Text(text) => (text.len() as u64 + 1, [text.as_bytes(), &[0]].concat()),
            Value::Places(names) => {
                let values: Vec<u64> = names.iter().map(|n| places.get(n).copied().unwrap_or(0)).collect();
                (values.len() as u64, all(&values))
            }
        }
    }

    /// The file: header, data, then every directory with the values that do not fit into it.
    pub fn build(&self) -> Vec<u8> {
        let (header, count_bytes, entry_bytes, offset_bytes) =
            if self.big_tiff { (16, 8, 20, 8) } else { (8, 2, 12, 4) };
        let mut places = HashMap::new();
        let mut at = header;
        for (k, blob) in self.data.iter().enumerate() {
            places.insert(format!("@data{k}"), at as u64);
            at += blob.len();
        }
        let mut starts = Vec::new();
        for (k, tags) in self.directories.iter().enumerate() {
            places.insert(format!("@directory{k}"), at as u64);
            starts.push(at);
            at += count_bytes + tags.len() * entry_bytes + offset_bytes;
            for (_, field_type, value) in tags {
                let (_, raw) = self.encode(*field_type, value, &HashMap::new());
                at += if raw.len() > offset_bytes { raw.len() } else { 0 };
            }
        }
        let chain: Vec<usize> = (0..self.directories.len()).filter(|k| !self.unchained.contains(k)).collect();
        let mut file = if self.big_endian { b"MM".to_vec() } else { b"II".to_vec() };
        file.extend(self.number(if self.big_tiff { 43 } else { 42 }, 2));
        if self.big_tiff {
            file.extend([self.number(8, 2), self.number(0, 2)].concat());
        }
        file.extend(self.number(chain.first().map_or(0, |&k| starts[k] as u64), offset_bytes));
        file.extend(self.data.concat());
        for (k, tags) in self.directories.iter().enumerate() {
            let mut extra = Vec::new();
            let extra_start = starts[k] + count_bytes + tags.len() * entry_bytes + offset_bytes;
            file.extend(self.number(tags.len() as u64, count_bytes));
            for (tag, field_type, value) in tags {
                let (count, mut raw) = self.encode(*field_type, value, &places);
                file.extend([self.number(u64::from(*tag), 2), self.number(u64::from(*field_type), 2)].concat());
                file.extend(self.number(count, offset_bytes));
                if raw.len() > offset_bytes {
                    file.extend(self.number((extra_start + extra.len()) as u64, offset_bytes));
                    extra.extend(raw);
                } else {
                    raw.resize(offset_bytes, 0);
                    file.extend(raw);
                }
            }
            let next = match chain.iter().position(|&c| c == k) {
                Some(place) if place + 1 < chain.len() => starts[chain[place + 1]] as u64,
                Some(_) => self.last_points_to.map_or(0, |k| starts[k] as u64),
                None => 0,
            };
            file.extend(self.number(next, offset_bytes));
            file.extend(extra);
        }
        file
    }
}

pub const SHORT: u16 = 3;
pub const LONG: u16 = 4;

/// The tags of an uncompressed or deflated image in strips or tiles, its data being the blobs `first_blob..`.
pub fn image_tags(
    (width, height): (u64, u64),
    tile: Option<(u64, u64)>,
    rows_per_strip: u64,
    (samples, bits): (u64, u64),
    compression: u64,
    blobs: std::ops::Range<usize>,
    counts: Vec<u64>,
) -> Vec<(u16, u16, Value)> {
    let numbers = |v: u64| Value::Numbers(vec![v]);
    let places = Value::Places(blobs.map(|k| format!("@data{k}")).collect());
    let mut tags = vec![
        (256, LONG, numbers(width)),
        (257, LONG, numbers(height)),
        (258, SHORT, Value::Numbers(vec![bits; samples as usize])),
        (259, SHORT, numbers(compression)),
        (262, SHORT, numbers(if samples >= 3 { 2 } else { 1 })),
        (277, SHORT, numbers(samples)),
    ];
    match tile {
        Some((w, h)) => tags.extend([
            (322, LONG, numbers(w)),
            (323, LONG, numbers(h)),
            (324, LONG, places),
            (325, LONG, Value::Numbers(counts)),
        ]),
        None => tags.extend([
            (273, LONG, places),
            (278, LONG, numbers(rows_per_strip)),
            (279, LONG, Value::Numbers(counts)),
        ]),
    }
    tags
}
