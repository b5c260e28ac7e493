//! Every selector under one name: parameters ([`Selector`]), and the same made ready to score ([`Scorer`]).

use serde::{Deserialize, Serialize};

use super::{
    Codec, PatchScore, Threshold,
    canny::{self, Canny},
    dexined::{Dexined, DexinedOptions},
    gaussian::{BandPass, Dog, Log},
    gradient,
    grey::GreyImage,
    jpeg, order0,
    otsu::{self, Otsu, OtsuOver},
};
use crate::{
    device::Device,
    error::{Error, Result},
    image::RgbImage,
    io::checksum::Digest,
    select::kernels::{shannon, texture::MAX_RADIUS},
    slide::Slide,
};

/// What a patch is scored by.
#[derive(Clone, PartialEq, Debug)]
pub enum Selector {
    /// Bits of a compressed form, the paper's choice.
    Shannon(Codec),
    /// Share of tissue, HE2RNA's choice.
    Otsu(Otsu),
    /// Mean image gradient.
    Gradient,
    /// Share of edge pixels.
    Canny(Canny),
    /// Energy of the difference of Gaussians.
    Dog(Dog),
    /// Energy of the Laplacian of Gaussian.
    Log(Log),
    /// Mean edge probability of a network.
    Dexined(DexinedOptions),
}

impl Default for Selector {
    fn default() -> Selector {
        Selector::Shannon(Codec::default())
    }
}

/// Parameters of all selectors, of which a name chooses one's.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub codec: String,
    pub jpeg_quality: u8,
    pub otsu: Otsu,
    pub canny: Canny,
    pub dog: Dog,
    pub log: Log,
    pub dexined: DexinedOptions,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            codec: "lz".to_string(),
            jpeg_quality: jpeg::DEFAULT_QUALITY,
            otsu: Otsu::default(),
            canny: Canny::default(),
            dog: Dog::default(),
            log: Log::default(),
            dexined: DexinedOptions::default(),
        }
    }
}

/// The names of all selectors.
pub const NAMES: [&str; 7] = ["shannon", "otsu", "gradient", "canny", "dog", "log", "dexined"];

impl Selector {
    /// By name, with its parameters from `settings`.
    ///
    /// # Errors
    /// Another name, or parameters that cannot be.
    pub fn named(name: &str, settings: &Settings) -> Result<Selector> {
        let selector = match name {
            "shannon" => Selector::Shannon(Codec::named(&settings.codec, settings.jpeg_quality)?),
            "otsu" => Selector::Otsu(settings.otsu),
            "gradient" => Selector::Gradient,
            "canny" => Selector::Canny(settings.canny),
            "dog" => Selector::Dog(settings.dog),
            "log" => Selector::Log(settings.log),
            "dexined" => Selector::Dexined(settings.dexined.clone()),
            _ => {
                return Err(Error::Usage(format!("there is no selector `{name}`; choose one of {}", NAMES.join(", "))));
            }
        };
        selector.check()?;
        Ok(selector)
    }

    /// # Errors
    /// Parameters that cannot be.
    pub fn check(&self) -> Result<()> {
        match self {
            Selector::Canny(canny) => canny.check(),
            Selector::Dog(dog) => dog.filter().map(drop),
            Selector::Log(log) => log.filter().map(drop),
            Selector::Dexined(options) => options.check(),
            Selector::Shannon(_) | Selector::Otsu(_) | Selector::Gradient => Ok(()),
        }
    }

    /// As the command line and tables call it.
    pub fn name(&self) -> &'static str {
        match self {
            Selector::Shannon(_) => "shannon",
            Selector::Otsu(_) => "otsu",
            Selector::Gradient => "gradient",
            Selector::Canny(_) => "canny",
            Selector::Dog(_) => "dog",
            Selector::Log(_) => "log",
            Selector::Dexined(_) => "dexined",
        }
    }

    /// As people call it.
    pub fn title(&self) -> &'static str {
        match self {
            Selector::Shannon(_) => "Shannon",
            Selector::Otsu(_) => "Otsu",
            Selector::Gradient => "Gradient",
            Selector::Canny(_) => "Canny",
            Selector::Dog(_) => "DoG",
            Selector::Log(_) => "LoG",
            Selector::Dexined(_) => "DexiNed",
        }
    }

    /// What a score is a number of.
    pub fn unit(&self) -> &'static str {
        match self {
            Selector::Shannon(_) => "bits per pixel",
            Selector::Otsu(_) => "share of tissue",
            Selector::Gradient => "grey levels per pixel",
            Selector::Canny(_) => "share of edge pixels",
            Selector::Dog(_) | Selector::Log(_) => "squared grey levels",
            Selector::Dexined(_) => "mean edge probability",
        }
    }

    /// Everything that decides a score, in one line: equal lines give equal scores.
    pub fn key(&self) -> String {
        match self {
            Selector::Shannon(Codec::Jpeg { quality }) => format!("shannon jpeg q{quality}"),
            Selector::Shannon(codec) => format!("shannon {}", codec.name()),
            Selector::Otsu(Otsu { over: OtsuOver::Slide }) => "otsu slide".to_string(),
            Selector::Otsu(Otsu { over: OtsuOver::Patch }) => "otsu patch".to_string(),
            Selector::Gradient => "gradient".to_string(),
            Selector::Canny(Canny { low, high, aperture, l2 }) => {
                format!("canny {low} {high} {aperture} {}", if *l2 { "L2" } else { "L1" })
            }
            Selector::Dog(dog) => format!("dog {} px", dog.sigma_px),
            Selector::Log(log) => format!("log {} px", log.sigma_px),
            Selector::Dexined(options) => format!("dexined {} {} px", options.weights.display(), options.longest_px),
        }
    }

    /// Of everything that decides a score; a file of weights counts by its bytes, wherever it lies.
    pub fn digest(&self) -> Result<Digest> {
        Ok(match self {
            Selector::Dexined(DexinedOptions { weights, longest_px }) => {
                Digest::of("dexined", &(Digest::of_file(weights)?, longest_px))
            }
            selector => Digest::of("selector", &selector.key()),
        })
    }

    /// Which patches are kept where nothing else is asked for: those of mean + 1 standard deviation, as the paper explains its
    /// number; for a share of tissue, at least half.
    pub fn default_threshold(&self) -> Threshold {
        match self {
            Selector::Otsu(_) => Threshold::Min(otsu::DEFAULT_LEAST_TISSUE),
            _ => Threshold::default(),
        }
    }

    /// # Errors
    /// A threshold in bits for a selector that counts none.
    pub fn accepts(&self, threshold: Threshold) -> Result<Threshold> {
        match (self, threshold) {
            (Selector::Shannon(_), _) | (_, Threshold::Sigma(_) | Threshold::Top(_) | Threshold::Min(_)) => {
                threshold.check()
            }
            (_, Threshold::Bits(_)) => {
                let name = self.name();
                Err(Error::Usage(format!("{name} counts no bits; give a least score (min), sigma or top")))
            }
        }
    }

    /// What was measured on a patch of `pixels`, as a row of the table: bits for `shannon`, else the score itself.
    pub fn patch_score(&self, [x, y]: [u64; 2], measured: f64, pixels: usize) -> PatchScore {
        match self {
            Selector::Shannon(_) => {
                let score = measured / pixels.max(1) as f64;
                PatchScore { x, y, bits: Some(measured as u64), score, ..PatchScore::default() }
            }
            _ => PatchScore { x, y, score: measured, ..PatchScore::default() },
        }
    }
}

/// What a selector sees in an image: one number a pixel, more where it finds more.
#[derive(Clone, PartialEq, Debug)]
pub struct Response {
    pub width_px: usize,
    pub height_px: usize,
    pub values: Vec<f32>,
}

impl Response {
    /// Its largest value; 0 where there is none.
    pub fn largest(&self) -> f32 {
        self.values.iter().copied().fold(0.0, f32::max)
    }

    /// Black at 0, white from `white` on.
    pub fn picture(&self, white: f32) -> RgbImage {
        let scale = if white > 0.0 { 255.0 / white } else { 0.0 };
        let grey = |v: &f32| [(v * scale).round().clamp(0.0, 255.0) as u8; 3];
        let pixels = self.values.iter().flat_map(grey).collect();
        RgbImage { width_px: self.width_px, height_px: self.height_px, pixels }
    }

    /// As a file that NumPy loads: f32, `(height, width)`.
    pub fn to_npy(&self) -> Vec<u8> {
        let shape = format!("({}, {})", self.height_px, self.width_px);
        let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        // Magic, version and length take 10 bytes; data begin at a multiple of 64, behind a line break.
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        self.values.iter().for_each(|v| file.extend(v.to_le_bytes()));
        file
    }
}

/// A selector with everything it needs loaded.
pub struct Scorer {
    selector: Selector,
    kind: Kind,
}

enum Kind {
    Codec(Codec),
    CodecOn(Codec, Device),
    Otsu(OtsuOver),
    Gradient,
    Canny(Canny),
    BandPass(BandPass),
    Network(Box<Dexined>),
    /// One of Otsu, gradient, Canny and the band passes, whose scores are a device's.
    OnDevice(Box<Kind>, Device),
}

/// A score that any thread may ask for.
pub type Each<'a> = Box<dyn Fn(&RgbImage) -> f64 + Sync + 'a>;
/// A score that uses all threads itself, and may fail.
pub type InTurn<'a> = Box<dyn Fn(&RgbImage) -> Result<f64> + 'a>;

/// Scores that a device is busy with; the call waits for them.
pub type Pending = Box<dyn FnOnce() -> Result<Vec<f64>>>;
/// Scores of patches of one size by a device that works while its caller does other things.
pub type Queued<'a> = Box<dyn Fn(&[RgbImage]) -> Result<Pending> + 'a>;

/// How patches are scored: each alone on any thread, one after the other by something that uses all threads itself, or
/// several at once by something that needs no thread.
pub enum Work<'a> {
    Each(Each<'a>),
    InTurn(InTurn<'a>),
    Queued(Queued<'a>),
}

impl Scorer {
    /// Loads what the selector needs. Networks and, where it is a GPU, everything else computes on `device`, but for filters of a
    /// radius beyond [`MAX_RADIUS`], which have no kernel: those are the processor's everywhere.
    pub fn new(selector: &Selector, device: &Device) -> Result<Scorer> {
        selector.check()?;
        let kind = match selector {
            Selector::Shannon(codec) if device.is_same(&Device::cpu()) => Kind::Codec(*codec),
            Selector::Shannon(codec) => Kind::CodecOn(*codec, device.clone()),
            Selector::Otsu(otsu) => Kind::Otsu(otsu.over),
            Selector::Gradient => Kind::Gradient,
            Selector::Canny(canny) => Kind::Canny(*canny),
            Selector::Dog(dog) => Kind::BandPass(dog.filter()?),
            Selector::Log(log) => Kind::BandPass(log.filter()?),
            Selector::Dexined(options) => Kind::Network(Box::new(Dexined::load(options, device)?)),
        };
        let on_device = match &kind {
            Kind::Otsu(_) | Kind::Gradient | Kind::Canny(_) => true,
            Kind::BandPass(filter) => filter.radius() <= MAX_RADIUS,
            _ => false,
        };
        let kind = match on_device && !device.is_same(&Device::cpu()) {
            true => Kind::OnDevice(Box::new(kind), device.clone()),
            false => kind,
        };
        Ok(Scorer { selector: selector.clone(), kind })
    }

    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// The threshold between tissue and glass of a whole slide, for a selector that has one.
    pub fn slide_threshold(&self, slide: &Slide) -> Result<Option<u8>> {
        match self.kind.on_host() {
            Kind::Otsu(OtsuOver::Slide) => Ok(Some(otsu::threshold(&overview(slide)?))),
            _ => Ok(None),
        }
    }

    /// Scores patches; `tissue` is the slide's threshold, each patch's own without it.
    pub fn work(&self, tissue: Option<u8>) -> Work<'_> {
        match &self.kind {
            Kind::Codec(codec) => Work::Each(Box::new(|image| codec.bits(image) as f64)),
            Kind::CodecOn(codec, device) => Work::Queued(Box::new(|images| queue(*codec, images, device))),
            Kind::Otsu(_) => Work::Each(Box::new(move |image| {
                let grey = GreyImage::of(image);
                otsu::tissue_fraction(&grey, tissue.unwrap_or_else(|| otsu::threshold(&grey)))
            })),
            Kind::Gradient => Work::Each(Box::new(|image| gradient::score(&GreyImage::of(image)))),
            Kind::Canny(canny) => Work::Each(Box::new(|image| canny::score(&GreyImage::of(image), canny))),
            Kind::BandPass(filter) => Work::Each(Box::new(|image| filter.energy(&GreyImage::of(image)))),
            Kind::Network(network) => Work::InTurn(Box::new(|image| network.score(image))),
            Kind::OnDevice(kind, device) => Work::Queued(Box::new(move |images| kind.queue(images, tissue, device))),
        }
    }

    /// What is measured on one image: bits for `shannon`, else the score.
    pub fn measure(&self, image: &RgbImage, tissue: Option<u8>) -> Result<f64> {
        match self.work(tissue) {
            Work::Each(score) => Ok(score(image)),
            Work::InTurn(score) => score(image),
            Work::Queued(start) => Ok(start(std::slice::from_ref(image))?()?[0]),
        }
    }

    /// What the selector sees in an image: predicted cost in bits (`shannon`, under the image's own residual
    /// statistics), 1 on tissue or edges (`otsu`, `canny`), gradient, absolute filter response, edge probability. DexiNed's is of the
    /// size that the network saw.
    pub fn response(&self, image: &RgbImage, tissue: Option<u8>) -> Result<Response> {
        let (width_px, height_px) = (image.width_px, image.height_px);
        let whole = |values| Response { width_px, height_px, values };
        Ok(match self.kind.on_host() {
            Kind::Codec(_) | Kind::CodecOn(..) => whole(order0::costs(image)),
            Kind::Network(network) => {
                let (width_px, height_px, values) = network.probabilities(image)?;
                Response { width_px, height_px, values }
            }
            kind => {
                let grey = GreyImage::of(image);
                whole(match kind {
                    Kind::Otsu(_) => {
                        let threshold = tissue.unwrap_or_else(|| otsu::threshold(&grey));
                        grey.values.iter().map(|&v| f32::from(u8::from(v <= threshold))).collect()
                    }
                    Kind::Canny(canny) => {
                        canny::edges(&grey, canny).values.iter().map(|&v| f32::from(v) / 255.0).collect()
                    }
                    Kind::BandPass(filter) => filter.response(&grey).into_iter().map(f32::abs).collect(),
                    _ => gradient::response(&grey),
                })
            }
        })
    }
}

impl Kind {
    /// The same without its device.
    fn on_host(&self) -> &Kind {
        match self {
            Kind::OnDevice(kind, _) => kind,
            kind => kind,
        }
    }

    /// Scores of images of one size by a device.
    fn queue(&self, images: &[RgbImage], tissue: Option<u8>, device: &Device) -> Result<Pending> {
        let pixels = images.first().map_or(1, |image| image.width_px * image.height_px).max(1) as f64;
        let batch = shannon::batch(images, device)?;
        Ok(match self {
            Kind::Otsu(_) => {
                let histograms = batch.grey_histogram()?;
                Box::new(move || {
                    let counts = histograms.to_vec::<i32>()?;
                    let fraction = |counts: &[i32; 256]| {
                        let counts = counts.map(|count| u64::from(count.cast_unsigned()));
                        let threshold = tissue.unwrap_or_else(|| otsu::threshold_of(&counts));
                        counts[..=usize::from(threshold)].iter().sum::<u64>() as f64 / pixels
                    };
                    Ok(counts.as_chunks().0.iter().map(fraction).collect())
                })
            }
            Kind::Gradient => {
                let steps = batch.gradient_steps()?;
                let level = move |steps: u64| steps as f64 * gradient::STEP_LEVELS / pixels;
                Box::new(move || Ok(steps.to_scores()?.into_iter().map(level).collect()))
            }
            Kind::Canny(canny) => {
                let [_, counts] = batch.canny_edges(canny)?;
                Box::new(move || Ok(counts.to_scores()?.into_iter().map(|count| count as f64 / pixels).collect()))
            }
            Kind::BandPass(filter) => {
                let energies = batch.band_energy(filter)?;
                Box::new(move || energies.to_vec::<f64>())
            }
            _ => return Err(Error::Usage("this selector's scores are not a device's".to_string())),
        })
    }
}

/// Starts counting bits on a device: the numbers of [`Codec::bits`].
fn queue(codec: Codec, images: &[RgbImage], device: &Device) -> Result<Pending> {
    let pixels = shannon::batch(images, device)?;
    let scores = match codec {
        Codec::Lz => pixels.shannon_bits()?,
        Codec::Order0 => pixels.shannon_order0()?,
        Codec::Jpeg { quality } => pixels.shannon_jpeg(quality)?,
    };
    let bits = move |score: u64| match codec {
        Codec::Lz => score,
        Codec::Order0 => order0::whole_bits(score),
        Codec::Jpeg { .. } => jpeg::file_bits(score),
    };
    Ok(Box::new(move || Ok(scores.to_scores()?.into_iter().map(|score| bits(score) as f64).collect())))
}

/// The slide in grey, whole where it is small enough.
fn overview(slide: &Slide) -> Result<GreyImage> {
    let (width, height) = slide.levels().first().map_or((0, 0), |level| (level.width_px, level.height_px));
    let image = if width.max(height) <= otsu::THUMBNAIL_PX as u64 {
        slide.read_region(0, 0, 0, width as usize, height as usize)?
    } else {
        slide.thumbnail(otsu::THUMBNAIL_PX)?
    };
    Ok(GreyImage::of(&image))
}
