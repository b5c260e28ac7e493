//! Canny's edges (Canny 1986), pixel for pixel those of OpenCV's `Canny`, and the share of pixels that are edges.
//!
//! Sobel derivatives of the grey image, the border pixel repeated; strength `|dx| + |dy|`, or with `l2` the squared length
//! `dx² + dy²` against squared thresholds. A pixel is a candidate if it is stronger than `low` and no neighbour across the edge is
//! stronger: the direction falls into one of four sectors by `tan 22.5°` in 15 fractional bits, and of two equally strong pixels side by
//! side or one above the other the later one stays (diagonally neither). Candidates stronger than `high` are edges, and so is every
//! candidate that touches an edge, also diagonally.

use serde::{Deserialize, Serialize};

use super::{
    gradient::{Aperture, Sobel},
    grey::GreyImage,
    kernels::shannon::batch,
    response::Response,
    selector::{self, Flag, Parameters, Score, Selector, SelectorSpec, Work},
};
use crate::{
    device::Device,
    error::{Error, Result},
    image::RgbImage,
    vectorised,
};

/// Parameters as OpenCV's.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Canny {
    pub low: f64,
    pub high: f64,
    /// Side of the Sobel kernels: 3, 5 or 7.
    pub aperture: usize,
    /// Strength is the gradient's length instead of the sum of its parts.
    pub l2: bool,
}

impl Default for Canny {
    fn default() -> Canny {
        Canny { low: 100.0, high: 200.0, aperture: 3, l2: false }
    }
}

impl Canny {
    /// # Errors
    /// A threshold that is NaN or negative, an aperture that OpenCV does not have.
    pub fn check_parameters(&self) -> Result<()> {
        if !(self.low >= 0.0 && self.high >= 0.0 && self.low.is_finite() && self.high.is_finite()) {
            let message = format!("canny: thresholds of {} and {}; give two numbers from 0", self.low, self.high);
            return Err(Error::Usage(message));
        }
        self.sobel().map(|_| ())
    }

    fn sobel(&self) -> Result<Aperture> {
        match self.aperture {
            3 => Ok(Aperture::Three),
            5 => Ok(Aperture::Five),
            7 => Ok(Aperture::Seven),
            other => Err(Error::Usage(format!("canny: an aperture of {other}; give 3, 5 or 7"))),
        }
    }

    /// The two thresholds on integer strengths.
    pub fn levels(&self) -> [i32; 2] {
        let scale = if self.aperture == 7 { 1.0 / 16.0 } else { 1.0 };
        let level = |threshold: f64| {
            let threshold = threshold * scale;
            let threshold = if self.l2 { threshold.min(32767.0) * threshold.min(32767.0) } else { threshold };
            threshold.floor().min(f64::from(i32::MAX)) as i32
        };
        [level(self.low.min(self.high)), level(self.low.max(self.high))]
    }
}

/// Share of the pixels that are edges; 0 for an image without pixels.
pub fn score(grey: &GreyImage, canny: &Canny) -> f64 {
    let edges = edges(grey, canny);
    let count: u64 = edges.values.chunks(4096).map(|p| p.iter().map(|&v| u64::from(v != 0)).sum::<u64>()).sum();
    count as f64 / edges.values.len().max(1) as f64
}

/// A pixel that may yet turn out an edge, one that cannot, and one that is.
const CANDIDATE: u8 = 0;
const NONE: u8 = 1;
const EDGE: u8 = 2;

/// 255 on edges, else 0. An aperture that [`Canny::check_parameters`] refuses counts as 3.
pub fn edges(grey: &GreyImage, canny: &Canny) -> GreyImage {
    let (width, height) = (grey.width_px, grey.height_px);
    let [low, high] = canny.levels();
    let mut sobel = Sobel::new(grey, canny.sobel().unwrap_or(Aperture::Three));
    // One row and column more on each side, so that no pixel needs a test whether its neighbours exist.
    let stride = width + 2;
    let mut map = vec![NONE; stride * (height + 2)];
    let mut strong = Vec::new();
    let mut strengths = [(); 3].map(|()| vec![0i32; stride]);
    let mut slopes = [(); 2].map(|()| (vec![0i16; width], vec![0i16; width]));
    for y in 0..=height {
        let row = &mut strengths[y % 3];
        if y < height {
            let (dx, dy) = &mut slopes[y % 2];
            sobel.row(y, dx, dy);
            strength(dx, dy, canny.l2, &mut row[1..=width]);
        } else {
            row.fill(0);
        }
        if y > 0 {
            let [above, here, below] = [y + 1, y + 2, y].map(|i| &strengths[i % 3][..]);
            let (dx, dy) = &slopes[(y - 1) % 2];
            let out = y * stride + 1;
            thin([above, here, below], [dx, dy], [low, high], &mut map[out..out + width], out, &mut strong);
        }
    }
    // From every strong pixel to the candidates that it touches.
    while let Some(at) = strong.pop() {
        for start in [at - stride - 1, at - 1, at + stride - 1] {
            for (column, state) in map[start..start + 3].iter_mut().enumerate() {
                if *state == CANDIDATE {
                    *state = EDGE;
                    strong.push(start + column);
                }
            }
        }
    }
    let mut values = Vec::with_capacity(width * height);
    for row in map[stride..].chunks_exact(stride).take(height) {
        values.extend(row[1..=width].iter().map(|&v| if v == EDGE { 255 } else { 0 }));
    }
    GreyImage { width_px: width, height_px: height, values }
}

fn strength(dx: &[i16], dy: &[i16], l2: bool, out: &mut [i32]) {
    vectorised!({
        if l2 {
            for (out, (&dx, &dy)) in out.iter_mut().zip(dx.iter().zip(dy)) {
                let (dx, dy) = (i32::from(dx), i32::from(dy));
                *out = dx * dx + dy * dy;
            }
        } else {
            for (out, (&dx, &dy)) in out.iter_mut().zip(dx.iter().zip(dy)) {
                *out = i32::from(dx).abs() + i32::from(dy).abs();
            }
        }
    });
}

/// tan 22.5° in 15 fractional bits. With derivatives of at most 12240 (the 5 x 5 kernels') all products below fit into 32 bits.
pub const TAN_22: i32 = 13573;

/// Writes which pixels of a row are candidates and which edges; the latter also go to `strong`, as places of the whole map.
/// Strengths have a column more on each side.
fn thin(
    [above, here, below]: [&[i32]; 3],
    [dx, dy]: [&[i16]; 2],
    [low, high]: [i32; 2],
    out: &mut [u8],
    first: usize,
    strong: &mut Vec<usize>,
) {
    let width = out.len();
    vectorised!({
        let (above, here, below) = (&above[..width + 2], &here[..width + 2], &below[..width + 2]);
        let (dx, dy) = (&dx[..width], &dy[..width]);
        for x in 0..width {
            // The pixel itself is in column x + 1 of the strengths. Every sector is computed and one chosen: no branch.
            let strength = here[x + 1];
            let (dx, dy) = (i32::from(dx[x]), i32::from(dy[x]));
            let (across, down) = (dx.abs(), dy.abs() << 15);
            let tan_22 = across * TAN_22;
            let level = (strength > here[x]) & (strength >= here[x + 2]);
            let upright = (strength > above[x + 1]) & (strength >= below[x + 1]);
            let rising = (strength > above[x + 2]) & (strength > below[x]);
            let falling = (strength > above[x]) & (strength > below[x + 2]);
            let slanted = if (dx ^ dy) < 0 { rising } else { falling };
            let steep = if down > tan_22 + (across << 16) { upright } else { slanted };
            let peak = if down < tan_22 { level } else { steep };
            let state = if strength > high { EDGE } else { CANDIDATE };
            out[x] = if peak & (strength > low) { state } else { NONE };
        }
    });
    for (block, states) in out.chunks(64).enumerate() {
        if states.iter().fold(0, |all, state| all | state) & EDGE != 0 {
            let edges = states.iter().enumerate().filter(|(_, state)| **state == EDGE);
            strong.extend(edges.map(|(i, _)| first + 64 * block + i));
        }
    }
}

pub static SPEC: SelectorSpec = SelectorSpec {
    name: "canny",
    title: "Canny",
    unit: "share of edge pixels",
    counts_bits: false,
    flags: &[
        Flag {
            long: "canny-low",
            key: "low",
            value_name: Some("T"),
            help: "canny: edges touch a pixel stronger than the higher of the two thresholds and are stronger than the lower one \
                   [default: 100 and 200]",
        },
        Flag { long: "canny-high", key: "high", value_name: Some("T"), help: "canny: the other threshold" },
        Flag {
            long: "canny-aperture",
            key: "aperture",
            value_name: Some("N"),
            help: "canny: side of the Sobel kernels, 3, 5 or 7 [default: 3]",
        },
        Flag {
            long: "canny-l2",
            key: "l2",
            value_name: None,
            help: "canny: strength is the gradient's length instead of |dx| + |dy|",
        },
    ],
    short_keys: &[],
    with: |parameters| selector::with::<Canny>("canny", parameters),
};

impl Selector for Canny {
    fn spec(&self) -> &'static SelectorSpec {
        &SPEC
    }

    fn key(&self) -> String {
        let Canny { low, high, aperture, l2 } = self;
        format!("canny {low} {high} {aperture} {}", if *l2 { "L2" } else { "L1" })
    }

    fn parameters(&self) -> Parameters {
        selector::parameters(self)
    }

    fn check(&self) -> Result<()> {
        self.check_parameters()
    }

    fn scorer(&self, device: &Device) -> Result<Box<dyn Score>> {
        Ok(Box::new(CannyScore { canny: *self, device: selector::accelerator(device) }))
    }
}

struct CannyScore {
    canny: Canny,
    device: Option<Device>,
}

impl Score for CannyScore {
    fn work(&self, _: Option<u8>) -> Work<'_> {
        let canny = &self.canny;
        match &self.device {
            None => Work::Each(Box::new(|image| score(&GreyImage::of(image), canny))),
            Some(device) => Work::Queued(Box::new(|images| {
                let pixels = selector::pixels_each(images);
                let [_, counts] = batch(images, device)?.canny_edges(canny)?;
                Ok(Box::new(move || Ok(counts.to_scores()?.into_iter().map(|count| count as f64 / pixels).collect())))
            })),
        }
    }

    fn response(&self, image: &RgbImage, _: Option<u8>) -> Result<Response> {
        let edges = edges(&GreyImage::of(image), &self.canny);
        Ok(Response::of(image, edges.values.iter().map(|&v| f32::from(v) / 255.0).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dark square on white: its outline is one closed edge, one pixel wide.
    #[test]
    fn a_square_has_its_outline() {
        let side = 24;
        let inside = |i: usize| (6..18).contains(&(i % side)) && (6..18).contains(&(i / side));
        let values = (0..side * side).map(|i| if inside(i) { 20 } else { 230 }).collect();
        let edges = edges(&GreyImage { width_px: side, height_px: side, values }, &Canny::default());
        let count = edges.values.iter().filter(|v| **v == 255).count();
        assert!((40..=52).contains(&count), "{count} edge pixels");
        assert!((0..side).all(|i| edges.values[i] == 0 && edges.values[12 * side + 12] == 0));
    }

    #[test]
    fn weak_pixels_live_by_strong_ones() {
        // A step that grows weaker to the right: with a high threshold nothing, else all of it down to `low`.
        let (width_px, height_px) = (40, 12);
        let level = |i: usize| if i / width_px < 6 { 128 } else { 128 + 80 - 2 * (i % width_px) as u8 };
        let grey = GreyImage { width_px, height_px, values: (0..width_px * height_px).map(level).collect() };
        let count = |low, high| {
            edges(&grey, &Canny { low, high, ..Canny::default() }).values.iter().filter(|v| **v > 0).count()
        };
        assert_eq!(count(100.0, 400.0), 0);
        let (linked, alone) = (count(100.0, 250.0), count(250.0, 250.0));
        assert!(linked > alone && alone > 0, "{linked} {alone}");
    }

    #[test]
    fn thresholds_become_levels() {
        let levels = |low, high, aperture, l2| Canny { low, high, aperture, l2 }.levels();
        assert_eq!(levels(200.0, 100.9, 3, false), [100, 200]);
        assert_eq!(levels(1.5, 40000.0, 3, true), [2, 32767 * 32767]);
        assert_eq!(levels(1600.0, 3200.0, 7, false), [100, 200]);
        assert!(Canny { aperture: 4, ..Canny::default() }.check().is_err());
        assert!(Canny { low: f64::NAN, ..Canny::default() }.check().is_err());
    }
}
