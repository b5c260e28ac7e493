//! Artefacts of an earlier arm under a later one's directory, where the settings that decide them are the same.

use std::{fs, path::Path};

use crate::{
    error::{Error, Result},
    pipeline::RunConfig,
};

/// Links scores, encoders and features of earlier runs into the new run's directory, where it has none yet.
pub fn from_earlier(earlier: &[RunConfig], config: &RunConfig) -> Result<()> {
    let scores = |a: &RunConfig, b: &RunConfig| {
        let same = (&a.select.selectors, a.select.patch_px, a.select.mpp)
            == (&b.select.selectors, b.select.patch_px, b.select.mpp);
        same && a.select.selector == b.select.selector
    };
    let encoder =
        |a: &RunConfig, b: &RunConfig| a.encoder == b.encoder && a.extractor == b.extractor && a.seed == b.seed;
    let features = |a: &RunConfig, b: &RunConfig| encoder(a, b) && a.select == b.select;
    type Same<'a> = &'a dyn Fn(&RunConfig, &RunConfig) -> bool;
    let kinds: [(&str, Same); 3] = [("slides", &scores), ("extractor", &encoder), ("features", &features)];
    for (folder, same) in kinds {
        let to = config.out.join(folder);
        if to.exists() {
            continue;
        }
        if let Some(from) = earlier.iter().rev().find(|run| same(run, config)).map(|run| run.out.join(folder)) {
            link(&from, &to)?;
        }
    }
    Ok(())
}

/// A folder's files under another: large ones are linked, for nobody writes into them again, small ones copied.
fn link(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(to).map_err(|e| Error::io(to, e))?;
    for entry in fs::read_dir(from).map_err(|e| Error::io(from, e))? {
        let path = entry.map_err(|e| Error::io(from, e))?.path();
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if path.is_dir() {
            link(&path, &target)?;
            continue;
        }
        let immutable = path.extension().is_some_and(|e| e == "safetensors");
        // Another file system, or one without links.
        if !(immutable && fs::hard_link(&path, &target).is_ok()) {
            fs::copy(&path, &target).map_err(|e| Error::io(&target, e))?;
        }
    }
    Ok(())
}
