//! Vectors made elsewhere: one file a slide, looked up by where patches lie.
//!
//! `FOLDER/SLIDE.safetensors` or `FOLDER/SLIDE.npz` holds `features` `[n, d]` (or, as runs store them, `global`) and `coords`
//! `[n, 2]`: x and y of each patch's upper left corner in level-0 pixels. Every patch that the run keeps must be among them;
//! `isg score SLIDE --out scores.csv` lists the corners of a run's grid for the program that makes the vectors.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Encoder, EncoderSpec, Parameters, PatchEncoder, Site, registry};
use crate::{
    device::Device,
    error::{Error, Result},
    image::RgbImage,
    io::{array::NamedArray, checksum::Digest, file_name, npz, safetensors::SafetensorsFile},
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
}

impl File {
    /// Every file that may be a slide's, in the order of their names.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let io = |e| Error::io(&self.features, e);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.features).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|e| e == "safetensors" || e == "npz") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
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
            let message = "encoder.features is missing: name the folder that holds SLIDE.safetensors or SLIDE.npz";
            return Err(Error::Usage(message.into()));
        }
        Ok(())
    }

    fn resolved(&self, settle: &dyn Fn(&Path) -> PathBuf) -> Option<Arc<dyn Encoder>> {
        Some(Arc::new(File { features: settle(&self.features) }))
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
            let remedy = "name the folder that holds SLIDE.safetensors or SLIDE.npz (encoder.features)";
            return Err(Error::input(&self.features, "holds no file of features", remedy));
        };
        let d = Vectors::read(first)?.d;
        Ok(Box::new(Stored { folder: self.features.clone(), d, digest: self.digest(site)? }))
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

    fn at(&self, slide: &str, corners: &[[i64; 2]]) -> Result<Option<Vec<f32>>> {
        let name = file_name::escaped(slide);
        let named = ["safetensors", "npz"].map(|ending| self.folder.join(format!("{name}.{ending}")));
        let Some(path) = named.iter().find(|path| path.is_file()) else {
            return Err(Error::input(&named[0], "is not there", "make the slide's features, or leave the slide out"));
        };
        let vectors = Vectors::read(path)?;
        if vectors.d != self.d {
            let problem = format!("holds vectors of {} numbers, other slides' have {}", vectors.d, self.d);
            return Err(Error::input(path, problem, "make the features of all slides with one encoder"));
        }
        let mut found = Vec::with_capacity(corners.len() * self.d);
        let missing: Vec<&[i64; 2]> = corners.iter().filter(|corner| !vectors.rows.contains_key(*corner)).collect();
        if let Some([x, y]) = missing.first() {
            let problem = format!(
                "holds no vector of {} of the {} patches kept, such as the one at {x}, {y}",
                missing.len(),
                corners.len()
            );
            let remedy =
                "make the features at the corners that `isg score SLIDE --out scores.csv` lists for the run's patches";
            return Err(Error::input(path, problem, remedy));
        }
        for corner in corners {
            let row = vectors.rows[corner];
            found.extend_from_slice(&vectors.values[row * self.d..][..self.d]);
        }
        Ok(Some(found))
    }
}

/// One file.
struct Vectors {
    d: usize,
    /// `[n, d]`
    values: Vec<f32>,
    /// Row by corner.
    rows: HashMap<[i64; 2], usize>,
}

impl Vectors {
    fn read(path: &Path) -> Result<Vectors> {
        let arrays: Vec<NamedArray> = if path.extension().is_some_and(|e| e == "npz") {
            npz::read(path)?
        } else {
            SafetensorsFile::open(path)?.read_all()?
        };
        let unusable = |problem: String| {
            let remedy = "write `features` [n, d] and `coords` [n, 2], the corners in level-0 pixels";
            Error::input(path, problem, remedy)
        };
        let find = |name: &str| arrays.iter().find(|array| array.name == name);
        let features =
            find("features").or_else(|| find("global")).ok_or_else(|| unusable("has no `features`".into()))?;
        let coords = find("coords").ok_or_else(|| unusable("has no `coords`".into()))?;
        let (&[n, d], &[corners, 2]) = (&features.shape[..], &coords.shape[..]) else {
            return Err(unusable(format!("has features {:?} and coords {:?}", features.shape, coords.shape)));
        };
        let values = features.to_f32();
        if corners != n || d == 0 || values.iter().any(|v| !v.is_finite()) {
            return Err(unusable(format!(
                "has features {:?} of {corners} corners, or NaN or infinite values",
                features.shape
            )));
        }
        let whole = |v: f64| (v.fract() == 0.0 && v.abs() < 2f64.powi(53)).then_some(v as i64);
        let coords = coords.view().to_i64().or_else(|| coords.to_f64().into_iter().map(whole).collect());
        let coords = coords.ok_or_else(|| unusable("has corners that are no whole numbers".into()))?;
        let rows = coords.as_chunks::<2>().0.iter().enumerate().map(|(row, corner)| (*corner, row)).collect();
        Ok(Vectors { d, values, rows })
    }
}
