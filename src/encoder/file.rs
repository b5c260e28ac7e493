//! Vectors made elsewhere: one file a slide, looked up by where patches lie.
//!
//! `FOLDER/SLIDE.h5`, `.safetensors`, `.npz`, `.pt` or `.npy` holds vectors and where their patches lie, as TRIDENT, CLAM, STAMP,
//! HE2RNA and runs of this program write them (the table is in `feature_file.rs`). With `patches = "file"` the run's patches are the
//! file's. With `patches = "grid"`, the default, they are the run's own, and every one that it keeps must be in the file;
//! `isg score SLIDE --out scores.csv` lists the corners of a run's grid for the program that makes the vectors.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Encoder, EncoderSpec, Parameters, PatchEncoder, Site,
    feature_file::{ENDINGS, FeatureFile},
    registry,
};
use crate::{
    device::Device,
    error::{Error, Result},
    image::RgbImage,
    io::{checksum::Digest, file_name},
    select::{PatchList, SlideFrame},
};

pub const SPEC: EncoderSpec = EncoderSpec {
    name: "file",
    title: "vectors from files",
    cites: "made by another program",
    with: |parameters| registry::with::<File>(SPEC.name, parameters),
    cases: Vec::new,
};

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// The folder with a file for every slide.
    pub features: PathBuf,
    pub patches: Patches,
}

/// Whose patches a run has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Patches {
    /// Its own, without overlap from the upper left corner.
    #[default]
    Grid,
    /// Those that files have vectors of, wherever they lie.
    File,
}

/// What people are told to name.
const FOLDER: &str = "the folder that holds SLIDE.h5, .safetensors, .npz, .pt or .npy";

impl File {
    /// Every file that may be a slide's, in the order of their names.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let io = |e| Error::io(&self.features, e);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.features).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|e| ENDINGS.iter().any(|ending| e.eq_ignore_ascii_case(ending))) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

/// A slide's file.
fn file_of(folder: &Path, slide: &str) -> Result<PathBuf> {
    file_name::find(folder, slide, &ENDINGS).map_err(|path| {
        let problem = format!("is not there, nor with another ending ({})", ENDINGS.join(", "));
        Error::input(path, problem, "make the slide's features, or leave the slide out")
    })
}

impl Encoder for File {
    fn spec(&self) -> &'static EncoderSpec {
        &SPEC
    }

    fn parameters(&self) -> Parameters {
        registry::parameters(self)
    }

    fn check(&self) -> Result<()> {
        if self.features.as_os_str().is_empty() {
            return Err(Error::Usage(format!("encoder.features is missing: name {FOLDER}")));
        }
        Ok(())
    }

    fn resolved(&self, settle: &dyn Fn(&Path) -> PathBuf) -> Option<Arc<dyn Encoder>> {
        Some(Arc::new(File { features: settle(&self.features), ..self.clone() }))
    }

    fn digest(&self, _: Site) -> Result<Digest> {
        let of =
            |path: &PathBuf| Ok((path.file_name().map(|n| n.to_string_lossy().into_owned()), Digest::of_file(path)?));
        let files = self.files()?.iter().map(of).collect::<Result<Vec<_>>>()?;
        Ok(Digest::of("features of files", &files))
    }

    fn load(&self, site: Site, _: &Device) -> Result<Box<dyn PatchEncoder>> {
        let files = self.files()?;
        let Some(first) = files.first() else {
            let remedy = format!("name {FOLDER} (encoder.features)");
            return Err(Error::input(&self.features, "holds no file of features", remedy));
        };
        let d = FeatureFile::read(first)?.d;
        Ok(Box::new(Stored { folder: self.features.clone(), d, digest: self.digest(site)? }))
    }

    fn patches(&self, slide: &str) -> Result<Option<Box<dyn PatchList>>> {
        match self.patches {
            Patches::Grid => Ok(None),
            Patches::File => Ok(Some(Box::new(FeatureFile::read(&file_of(&self.features, slide)?)?))),
        }
    }
}

struct Stored {
    folder: PathBuf,
    d: usize,
    digest: Digest,
}

impl PatchEncoder for Stored {
    fn d(&self) -> usize {
        self.d
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn encode(&self, _: &[RgbImage]) -> Result<Vec<f32>> {
        let problem = "holds vectors of patches of slides and makes none of images";
        Err(Error::input(
            &self.folder,
            problem,
            "use another encoder for images, and for cubes (encoder.cells = false)",
        ))
    }

    fn at(&self, slide: &str, frame: &SlideFrame, corners: &[[i64; 2]]) -> Result<Option<Vec<f32>>> {
        let path = &file_of(&self.folder, slide)?;
        let file = FeatureFile::read(path)?;
        if file.d != self.d {
            let problem = format!("holds vectors of {} numbers, other slides' have {}", file.d, self.d);
            return Err(Error::input(path, problem, "make the features of all slides with one encoder"));
        }
        let rows = file.corners(frame)?.into_iter().zip(file.values.chunks_exact(self.d));
        let rows: HashMap<[i64; 2], &[f32]> = rows.collect();
        let missing: Vec<&[i64; 2]> = corners.iter().filter(|corner| !rows.contains_key(*corner)).collect();
        if let Some([x, y]) = missing.first() {
            let problem = format!(
                "holds no vector of {} of the {} patches kept, such as the one at {x}, {y}",
                missing.len(),
                corners.len()
            );
            let remedy = "set encoder.patches = \"file\" to have the file's own patches, or make the features at the corners that \
                          `isg score SLIDE --out scores.csv` lists";
            return Err(Error::input(path, problem, remedy));
        }
        Ok(Some(corners.iter().flat_map(|corner| rows[corner]).copied().collect()))
    }
}
