//! Encoders named on a command line, ready to use.

use std::path::Path;

use serde_json::Value;

use crate::{
    device::Device,
    encoder::{self, Parameters, PatchEncoder, Site},
    error::{Error, Result},
    extractor::{self, config::ExtractorConfig},
    progress::Progress,
};

/// The encoder of this name with these settings. What it learned is in the folder `learned`, and so are the sizes of a StyleGAN
/// pair, which are `pair`'s without one.
///
/// # Errors
/// Another name or setting, a file that cannot be used, nothing learned where it learns.
pub(super) fn load(
    name: &str,
    settings: Parameters,
    learned: Option<&Path>,
    pair: ExtractorConfig,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Box<dyn PatchEncoder>> {
    let encoder = encoder::named(name, settings)?;
    encoder.check()?;
    if learned.is_none() && encoder.learns() {
        return Err(Error::Usage(format!("encoder {name}: give the folder of what it learned as its extractor")));
    }
    let dir = learned.unwrap_or(Path::new("."));
    let config = learned.map(extractor::config_of).transpose()?.flatten().unwrap_or(pair);
    if let Some(terms) = encoder.licence() {
        progress.note(terms);
    }
    encoder.load(Site { dir, extractor: &config, precision: config.precision }, device)
}

/// `KEY=VALUE`.
///
/// # Errors
/// There is no `=`.
pub(super) fn setting(text: &str) -> Result<(String, Value)> {
    let (key, value) = text.split_once('=').ok_or_else(|| Error::Usage(format!("{text}: KEY=VALUE is wanted")))?;
    Ok((key.trim().to_string(), value_of(value.trim())))
}

/// A number or a truth value where the text is one, else the text itself.
fn value_of(text: &str) -> Value {
    serde_json::from_str(text).ok().filter(|v: &Value| !v.is_object()).unwrap_or_else(|| text.into())
}
