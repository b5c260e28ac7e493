//! How a slide was stained, scanned and handled: everything that varies between slides without meaning anything.
//!
//! Stain is a property of the laboratory (the site code of a barcode) plus a smaller variation from slide to slide; none
//! of it depends on the morphology, so a model that reads stain learns nothing about the planted genes.

use super::random::Stream;

/// Optical density of unit stain in red, green and blue: the reference vectors of Macenko et al., "A method for
/// normalizing histology slides for quantitative analysis", ISBI 2009.
const HAEMATOXYLIN: [f64; 3] = [0.5626, 0.7201, 0.4062];
const EOSIN: [f64; 3] = [0.2159, 0.8012, 0.5581];

#[derive(Clone, Debug)]
pub struct Appearance {
    /// Optical density per unit of stain, natural logarithm, red, green, blue.
    pub haematoxylin: [f32; 3],
    pub eosin: [f32; 3],
    /// Colour of the empty glass.
    pub glass: [f32; 3],
    /// Standard deviation of the sensor noise in grey levels.
    pub noise: f32,
    pub jpeg_quality: u8,
    pub pen: Vec<PenStroke>,
    pub blur: Vec<BlurSpot>,
}

/// A line of felt pen on the cover glass.
#[derive(Clone, Debug)]
pub struct PenStroke {
    pub points_um: Vec<(f32, f32)>,
    pub half_width_um: f32,
    /// Share of light let through in red, green and blue where the ink is full.
    pub transmittance: [f32; 3],
}

/// A round region out of focus.
#[derive(Clone, Copy, Debug)]
pub struct BlurSpot {
    pub x_um: f32,
    pub y_um: f32,
    pub radius_um: f32,
    /// Standard deviation of the blur at the centre.
    pub sigma_um: f32,
}

impl Appearance {
    /// `site` is the stream of the laboratory, `slide` that of the slide.
    pub fn draw(size_um: f32, site: &mut Stream, slide: &mut Stream) -> Appearance {
        let mut vary = |vector: [f64; 3], gain: (f64, f64)| {
            let tint = vector.map(|v| v * (1.0 + 0.05 * site.normal() + 0.035 * slide.normal()));
            let norm = tint.iter().map(|v| v * v).sum::<f64>().sqrt();
            let gain = site.uniform(gain.0, gain.1) * slide.uniform(0.85, 1.18);
            tint.map(|v| (v / norm * gain) as f32)
        };
        let haematoxylin = vary(HAEMATOXYLIN, (1.05, 1.4));
        let eosin = vary(EOSIN, (0.85, 1.2));
        let white = slide.uniform(238.0, 247.0);
        let glass = [0.0, -0.5, 0.5].map(|shift| (white + shift + 0.9 * slide.normal()) as f32);
        let noise = slide.uniform(1.0, 2.2) as f32;
        let jpeg_quality = (80.0 + slide.uniform(0.0, 11.0)) as u8;
        let pen = if slide.chance(0.2) { draw_pen(size_um, slide) } else { vec![] };
        let spots = if slide.chance(0.25) { 1 + slide.below(2) } else { 0 };
        let blur = (0..spots)
            .map(|_| BlurSpot {
                x_um: size_um * slide.uniform(0.15, 0.85) as f32,
                y_um: size_um * slide.uniform(0.15, 0.85) as f32,
                radius_um: size_um * slide.uniform(0.1, 0.22) as f32,
                sigma_um: slide.uniform(1.2, 2.6) as f32,
            })
            .collect();
        Appearance { haematoxylin, eosin, glass, noise, jpeg_quality, pen, blur }
    }
}

/// Mostly along an edge of the slide, as pathologists circle tissue or dot its margin.
fn draw_pen(size_um: f32, slide: &mut Stream) -> Vec<PenStroke> {
    let inks = [[0.16, 0.25, 0.62], [0.1, 0.46, 0.3], [0.13, 0.13, 0.15], [0.25, 0.42, 0.8]];
    let transmittance = inks[slide.below(inks.len())].map(|t: f32| t.powf(slide.uniform(0.8, 1.3) as f32));
    let half_width_um = slide.uniform(11.0, 19.0) as f32 * (size_um / 768.0).max(0.5);
    let strokes = 1 + slide.below(2);
    (0..strokes)
        .map(|_| {
            // A wavy line along one of the four edges.
            let inset = slide.uniform(0.04, 0.13) as f32;
            let (from, to) = (slide.uniform(0.02, 0.4) as f32, slide.uniform(0.6, 0.98) as f32);
            let bow = slide.uniform(-0.07, 0.1) as f32;
            let wave = (slide.uniform(2.0, 7.0) as f32, slide.angle());
            let edge = slide.below(4);
            let points_um = (0..=40)
                .map(|i| {
                    let t = i as f32 / 40.0;
                    let along = from + (to - from) * t;
                    let across =
                        inset + bow * 4.0 * t * (1.0 - t) + 0.008 * (wave.0 * t * std::f32::consts::TAU + wave.1).sin();
                    let (u, v) = match edge {
                        0 => (along, across),
                        1 => (along, 1.0 - across),
                        2 => (across, along),
                        _ => (1.0 - across, along),
                    };
                    (u * size_um, v * size_um)
                })
                .collect();
            PenStroke { points_um, half_width_um, transmittance }
        })
        .collect()
}
