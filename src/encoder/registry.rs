//! What an encoder is.
//!
//! An encoder is one file of `encoder/` and one word in the list of [`super`]: its settings as a struct with serde's derives, an
//! [`EncoderSpec`] that says what it is called, and the two traits: [`Encoder`] for settings, [`PatchEncoder`] for the same with
//! everything loaded. Configuration, stages, command line and report go by the list; none of them knows an encoder by name.

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::ENCODERS;
use crate::{
    device::Device,
    error::{Error, Result},
    extractor::{Extractor, config::ExtractorConfig, patches::PatchSource, training::StepRecord},
    image::RgbImage,
    io::checksum::Digest,
    nn::precision::ComputePrecision,
    progress::Progress,
    select::{PatchList, SlideFrame},
};

/// Values of an encoder's settings by name.
pub type Parameters = Map<String, Value>;

/// What is true of an encoder whatever its settings.
pub struct EncoderSpec {
    /// As the configuration, the command line and tables call it.
    pub name: &'static str,
    /// As people call it.
    pub title: &'static str,
    /// Where it comes from.
    pub cites: &'static str,
    /// The encoder with these settings, the rest as by default. Nothing is checked yet.
    pub with: fn(Parameters) -> Result<Arc<dyn Encoder>>,
    /// It with settings that need no file: what tests run.
    pub cases: fn() -> Vec<Arc<dyn Encoder>>,
}

/// What one of the two encoders of a run is given beside its settings.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The folder that keeps what is learned from patches.
    pub dir: &'a Path,
    /// The StyleGAN pair of this scale.
    pub extractor: &'a ExtractorConfig,
    /// What networks compute in on a GPU; the pair's is in its configuration.
    pub precision: ComputePrecision,
}

/// An encoder with its settings.
pub trait Encoder: Debug + Send + Sync {
    fn spec(&self) -> &'static EncoderSpec;

    fn parameters(&self) -> Parameters;

    /// # Errors
    /// Settings that cannot be, files that are not there.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The same with its paths as `settle` makes them of those, where it has some.
    fn resolved(&self, settle: &dyn Fn(&Path) -> PathBuf) -> Option<Arc<dyn Encoder>> {
        let _ = settle;
        None
    }

    /// The terms under which others published its weights, for the user to read.
    fn licence(&self) -> Option<&'static str> {
        None
    }

    /// Whether cubes are made too where the configuration does not say: the same encoder on every fine patch.
    fn cells_by_default(&self) -> bool {
        false
    }

    /// Whether whole patches and fine ones have networks of their own, in sites of their own.
    fn differs_by_scale(&self) -> bool {
        false
    }

    /// Whether it learns from patches: then [`Encoder::learn`] comes before [`Encoder::load`], each scale in its own folder.
    fn learns(&self) -> bool {
        false
    }

    /// Learns from patches what it needs, into the site's folder; what is there of the same patches and settings is kept.
    ///
    /// # Errors
    /// Patches that cannot be read, a device that fails, an interruption.
    fn learn(&self, site: Site, source: &dyn PatchSource, device: &Device, progress: &dyn Progress) -> Result<()> {
        let _ = (site, source, device, progress);
        Ok(())
    }

    /// Whether the site's folder holds what [`Encoder::learn`] would leave there.
    ///
    /// # Errors
    /// Patches that cannot be read, an error of the machine; a damaged file is an answer.
    fn has_learned(&self, site: Site, source: &dyn PatchSource) -> Result<bool> {
        let _ = (site, source);
        Ok(true)
    }

    /// Looks at everything that it needs of the user's files, so that what cannot be used is refused before any work; gives
    /// the length of its vectors.
    ///
    /// # Errors
    /// What [`Encoder::load`] would say.
    fn probe(&self, site: Site) -> Result<usize> {
        Ok(self.load(site, &Device::cpu())?.d())
    }

    /// Values that learning changes.
    ///
    /// # Errors
    /// A configuration that cannot be.
    fn trainable(&self, site: Site) -> Result<usize> {
        let _ = site;
        Ok(0)
    }

    /// How its training went, where it is trained by gradient.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn curve(&self, site: Site) -> Result<Vec<StepRecord>> {
        let _ = site;
        Ok(Vec::new())
    }

    /// The only patches of a slide that it has vectors of, where those are to be the run's.
    ///
    /// # Errors
    /// A slide that it knows nothing of.
    fn patches(&self, slide: &str) -> Result<Option<Box<dyn PatchList>>> {
        let _ = slide;
        Ok(None)
    }

    /// Of everything that decides its vectors, files by their bytes and what was learned included.
    ///
    /// # Errors
    /// A file that cannot be read; nothing learned yet.
    fn digest(&self, site: Site) -> Result<Digest>;

    /// Loads what it needs. Networks compute on `device`.
    ///
    /// # Errors
    /// A file or a device that cannot be used.
    fn load(&self, site: Site, device: &Device) -> Result<Box<dyn PatchEncoder>>;
}

/// An encoder with everything loaded.
pub trait PatchEncoder {
    /// Length of a vector.
    fn d(&self) -> usize;

    /// As [`Encoder::digest`] gives it: two of one digest give the same vectors.
    fn digest(&self) -> Digest;

    /// Vectors `[images, d]`, row after row. Images of any size.
    ///
    /// # Errors
    /// An image without pixels, a device that fails.
    fn encode(&self, images: &[RgbImage]) -> Result<Vec<f32>>;

    /// Vectors of patches by where their corners lie on a slide, in level-0 pixels, from an encoder that needs no pixels.
    ///
    /// # Errors
    /// A slide or a corner that it knows nothing of.
    fn at(&self, slide: &str, frame: &SlideFrame, corners: &[[i64; 2]]) -> Result<Option<Vec<f32>>> {
        let _ = (slide, frame, corners);
        Ok(None)
    }

    /// The StyleGAN pair behind it, which can also draw what it understood.
    fn extractor(&self) -> Option<&Extractor> {
        None
    }
}

impl PartialEq for dyn Encoder {
    fn eq(&self, other: &dyn Encoder) -> bool {
        self.spec().name == other.spec().name && self.parameters() == other.parameters()
    }
}

impl dyn Encoder {
    pub fn name(&self) -> &'static str {
        self.spec().name
    }

    /// Of its settings and of what it computes in, as JSON without the paths in `but`; those count by the bytes they lead to.
    pub(super) fn digest_of_settings(&self, but: &[&str], files: &[Digest], precision: ComputePrecision) -> Digest {
        let mut settings = self.parameters();
        settings.retain(|key, _| !but.contains(&key.as_str()));
        Digest::of("encoder", &(self.name(), settings, files, precision))
    }
}

/// The encoder of this name with these settings.
///
/// # Errors
/// Another name, a setting that it does not have, a value of another kind.
pub fn named(name: &str, parameters: Parameters) -> Result<Arc<dyn Encoder>> {
    let spec = ENCODERS.iter().find(|spec| spec.name == name);
    let spec = spec.ok_or_else(|| Error::Usage(format!("there is no encoder `{name}`; choose one of {}", names())))?;
    (spec.with)(parameters)
}

/// The names of all encoders, with commas.
pub fn names() -> String {
    ENCODERS.iter().map(|spec| spec.name).collect::<Vec<_>>().join(", ")
}

/// For [`EncoderSpec::with`]: an encoder of its settings, whose struct refuses those it does not know.
pub(super) fn with<E: Encoder + DeserializeOwned + 'static>(
    name: &str,
    parameters: Parameters,
) -> Result<Arc<dyn Encoder>> {
    Ok(Arc::new(settings::<E>(name, parameters)?))
}

/// Settings by their names; `name` says whose they are.
pub(super) fn settings<S: DeserializeOwned>(name: &str, parameters: Parameters) -> Result<S> {
    serde_json::from_value(Value::Object(parameters)).map_err(|error| Error::Usage(format!("{name}: {error}")))
}

/// For [`Encoder::parameters`].
pub(super) fn parameters(encoder: &impl Serialize) -> Parameters {
    match serde_json::to_value(encoder) {
        Ok(Value::Object(parameters)) => parameters,
        _ => Parameters::new(),
    }
}
