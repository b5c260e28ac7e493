//! What a selector is.
//!
//! A selector is one file of `select/` and one word in the list of [`super`]: its parameters as a struct with serde's derives, a
//! [`SelectorSpec`] that says what it is called, and the two traits: [`Selector`] for parameters, [`Score`] for the same with
//! everything loaded on a device. The configuration, the command line, the report, tests and benches go by the list; none of
//! them knows a selector by name. One with a kernel has an op in [`super::kernels`].

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{PatchScore, SELECTORS, Threshold, response::Response};
use crate::{
    device::Device,
    error::{Error, Result},
    image::RgbImage,
    io::checksum::Digest,
    slide::Slide,
};

/// Values of a selector's parameters by name.
pub type Parameters = Map<String, Value>;

/// What is true of a selector whatever its parameters.
pub struct SelectorSpec {
    /// As the command line, the configuration and tables call it.
    pub name: &'static str,
    /// As people call it.
    pub title: &'static str,
    /// What a score is a number of.
    pub unit: &'static str,
    /// What is measured on a patch is bits, and the score is those divided by its pixels.
    pub counts_bits: bool,
    /// Its parameters on the command line. Selectors may share a flag.
    pub flags: &'static [Flag],
    /// Parameters that also stand in `[select]` itself, not only in `[select.NAME]`.
    pub short_keys: &'static [&'static str],
    /// The selector with these parameters, the rest as by default. Nothing is checked yet.
    pub with: fn(Parameters) -> Result<Arc<dyn Selector>>,
}

/// A parameter on the command line.
pub struct Flag {
    /// `--LONG`.
    pub long: &'static str,
    pub key: &'static str,
    /// What stands for its value in the help; without it, the flag alone sets the parameter to true.
    pub value_name: Option<&'static str>,
    pub help: &'static str,
}

/// A selector with its parameters.
pub trait Selector: Debug + Send + Sync {
    fn spec(&self) -> &'static SelectorSpec;

    /// Everything that decides a score, in one line: equal lines give equal scores.
    fn key(&self) -> String;

    fn parameters(&self) -> Parameters;

    /// # Errors
    /// Parameters that cannot be.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Whether it can be used as it is by default: not if it needs a file that only the user has.
    fn is_complete(&self) -> bool {
        true
    }

    /// Files that it reads.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// The same with its paths as `settle` makes them of those, where it has some.
    fn resolved(&self, settle: &dyn Fn(&Path) -> PathBuf) -> Option<Arc<dyn Selector>> {
        let _ = settle;
        None
    }

    /// Of everything that decides a score; a file counts by its bytes, wherever it lies.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn digest(&self) -> Result<Digest> {
        Ok(Digest::of("selector", &self.key()))
    }

    /// Which patches are kept where nothing else is asked for.
    fn default_threshold(&self) -> Threshold {
        Threshold::default()
    }

    /// Loads what it needs. Networks and, where it is a GPU, everything that has a kernel compute on `device`.
    ///
    /// # Errors
    /// A file or a device that cannot be used.
    fn scorer(&self, device: &Device) -> Result<Box<dyn Score>>;
}

impl PartialEq for dyn Selector {
    fn eq(&self, other: &dyn Selector) -> bool {
        self.spec().name == other.spec().name && self.parameters() == other.parameters()
    }
}

/// The first of the list, as by default.
pub fn default_selector() -> Arc<dyn Selector> {
    Selectors::default().0.swap_remove(0)
}

impl dyn Selector {
    pub fn name(&self) -> &'static str {
        self.spec().name
    }

    pub fn title(&self) -> &'static str {
        self.spec().title
    }

    pub fn unit(&self) -> &'static str {
        self.spec().unit
    }

    pub fn counts_bits(&self) -> bool {
        self.spec().counts_bits
    }

    /// # Errors
    /// A threshold in bits for a selector that counts none.
    pub fn accepts(&self, threshold: Threshold) -> Result<Threshold> {
        match threshold {
            Threshold::Bits(_) if !self.counts_bits() => {
                let name = self.name();
                Err(Error::Usage(format!("{name} counts no bits; give a least score (min), sigma or top")))
            }
            threshold => threshold.check(),
        }
    }

    /// What was measured on a patch of `pixels`, as a row of the table.
    pub fn patch_score(&self, [x, y]: [u64; 2], measured: f64, pixels: usize) -> PatchScore {
        if self.counts_bits() {
            let score = measured / pixels.max(1) as f64;
            return PatchScore { x, y, bits: Some(measured as u64), score, ..PatchScore::default() };
        }
        PatchScore { x, y, score: measured, ..PatchScore::default() }
    }
}

/// Every selector of the list, each with its parameters. Written as one table a selector; read from the same, with the
/// [short keys](SelectorSpec::short_keys) beside them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(into = "Parameters", try_from = "Parameters")]
pub struct Selectors(Vec<Arc<dyn Selector>>);

impl Default for Selectors {
    fn default() -> Selectors {
        let default = |spec: &&SelectorSpec| (spec.with)(Parameters::new()).expect("a selector has defaults");
        Selectors(SELECTORS.iter().map(default).collect())
    }
}

impl Selectors {
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Selector>> {
        self.0.iter()
    }

    /// Gives the selector of this name other parameters, those left out as by default.
    ///
    /// # Errors
    /// Another name, an unknown parameter, a value of another kind.
    pub fn set(&mut self, name: &str, parameters: Parameters) -> Result<()> {
        let place = place(name)?;
        self.0[place] = (SELECTORS[place].with)(parameters)?;
        Ok(())
    }

    /// The one of this name, fit for use.
    ///
    /// # Errors
    /// Another name, or parameters that cannot be.
    pub fn named(&self, name: &str) -> Result<Arc<dyn Selector>> {
        let selector = self.0[place(name)?].clone();
        selector.check()?;
        Ok(selector)
    }

    /// Makes every path of a selector's what `settle` makes of it.
    pub fn resolve(&mut self, settle: &dyn Fn(&Path) -> PathBuf) {
        for selector in &mut self.0 {
            if let Some(resolved) = selector.resolved(settle) {
                *selector = resolved;
            }
        }
    }
}

impl From<Selectors> for Parameters {
    fn from(selectors: Selectors) -> Parameters {
        let table = |selector: &Arc<dyn Selector>| (selector.name().to_string(), Value::Object(selector.parameters()));
        selectors.all().filter(|selector| !selector.parameters().is_empty()).map(table).collect()
    }
}

impl TryFrom<Parameters> for Selectors {
    type Error = Error;

    fn try_from(mut tables: Parameters) -> Result<Selectors> {
        let mut selectors = Selectors::default();
        for spec in SELECTORS {
            let mut parameters = match tables.remove(spec.name) {
                None => Parameters::new(),
                Some(Value::Object(parameters)) => parameters,
                Some(_) => return Err(Error::Usage(format!("{0} is a table of parameters: [select.{0}]", spec.name))),
            };
            for key in spec.short_keys {
                if let Some(value) = tables.remove(*key)
                    && parameters.insert(key.to_string(), value).is_some()
                {
                    return Err(Error::Usage(format!("{key} is given twice, by itself and in [select.{}]", spec.name)));
                }
            }
            selectors.set(spec.name, parameters)?;
        }
        match tables.keys().next() {
            None => Ok(selectors),
            Some(unknown) => Err(Error::Usage(format!(
                "unknown key `{unknown}`; it is no key of [select] and no selector, which are {}",
                names()
            ))),
        }
    }
}

/// The names of all selectors, with commas.
pub fn names() -> String {
    SELECTORS.iter().map(|spec| spec.name).collect::<Vec<_>>().join(", ")
}

fn place(name: &str) -> Result<usize> {
    SELECTORS
        .iter()
        .position(|spec| spec.name == name)
        .ok_or_else(|| Error::Usage(format!("there is no selector `{name}`; choose one of {}", names())))
}

/// For [`SelectorSpec::with`]: a selector of its parameters, whose struct refuses those it does not know.
pub(super) fn with<S: Selector + DeserializeOwned + 'static>(
    name: &str,
    parameters: Parameters,
) -> Result<Arc<dyn Selector>> {
    match serde_json::from_value::<S>(Value::Object(parameters)) {
        Ok(selector) => Ok(Arc::new(selector)),
        Err(error) => Err(Error::Usage(format!("{name}: {error}"))),
    }
}

/// For [`Selector::parameters`].
pub(super) fn parameters(selector: &impl Serialize) -> Parameters {
    match serde_json::to_value(selector) {
        Ok(Value::Object(parameters)) => parameters,
        _ => Parameters::new(),
    }
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

/// A selector with everything it needs loaded.
pub trait Score {
    /// The threshold between tissue and glass of a whole slide, for a selector that has one.
    ///
    /// # Errors
    /// The slide cannot be read.
    fn slide_threshold(&self, slide: &Slide) -> Result<Option<u8>> {
        let _ = slide;
        Ok(None)
    }

    /// Scores of patches by where their corners lie, as tables of scores write them, from a selector that looks at no pixels.
    ///
    /// # Errors
    /// A slide or a corner that it knows nothing of.
    fn at(&self, slide: &Slide, corners: &[[u64; 2]]) -> Result<Option<Vec<f64>>> {
        let _ = (slide, corners);
        Ok(None)
    }

    /// Scores patches; `tissue` is the slide's threshold, each patch's own without it.
    fn work(&self, tissue: Option<u8>) -> Work<'_>;

    /// What the selector sees in an image, one number a pixel.
    ///
    /// # Errors
    /// The device fails.
    fn response(&self, image: &RgbImage, tissue: Option<u8>) -> Result<Response>;
}

/// A selector with its [`Score`].
pub struct Scorer {
    selector: Arc<dyn Selector>,
    score: Box<dyn Score>,
}

impl Scorer {
    /// # Errors
    /// Parameters, files or a device that cannot be used.
    pub fn new(selector: &Arc<dyn Selector>, device: &Device) -> Result<Scorer> {
        selector.check()?;
        Ok(Scorer { selector: selector.clone(), score: selector.scorer(device)? })
    }

    pub fn selector(&self) -> &Arc<dyn Selector> {
        &self.selector
    }

    /// What is measured on one image: bits for a selector that counts them, else the score.
    pub fn measure(&self, image: &RgbImage, tissue: Option<u8>) -> Result<f64> {
        match self.work(tissue) {
            Work::Each(score) => Ok(score(image)),
            Work::InTurn(score) => score(image),
            Work::Queued(start) => Ok(start(std::slice::from_ref(image))?()?[0]),
        }
    }
}

impl std::ops::Deref for Scorer {
    type Target = dyn Score;

    fn deref(&self) -> &(dyn Score + 'static) {
        &*self.score
    }
}

/// `device` unless it is the CPU, on which a selector computes for itself.
pub(super) fn accelerator(device: &Device) -> Option<Device> {
    (!device.is_same(&Device::cpu())).then(|| device.clone())
}

/// Pixels of each of some images of one size, at least 1.
pub(super) fn pixels_each(images: &[RgbImage]) -> f64 {
    images.first().map_or(1, |image| image.width_px * image.height_px).max(1) as f64
}
