//! Scores from a table: what somebody marked or another program computed, patch by patch. Nothing of a patch's pixels is looked at.
//!
//! A CSV or TSV with the columns `slide` (the file's name, with or without its ending), `x` and `y` (or `x_px`, `y_px`: the patch's
//! upper left corner, as `isg score` writes it) and the column of scores. With `isg synth --design modules` come two that bound every
//! selector: `nest`, which knows where the genes are, and `random`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Threshold,
    response::Response,
    selector::{self, Flag, Parameters, Score, Selector, SelectorSpec, Work},
};
use crate::{
    device::Device,
    error::{Error, Result},
    image::RgbImage,
    io::{checksum::Digest, table},
    slide::Slide,
};

pub static SPEC: SelectorSpec = SelectorSpec {
    name: "table",
    title: "Table",
    unit: "score of the table",
    counts_bits: false,
    flags: &[
        Flag { long: "table", key: "file", value_name: Some("FILE"), help: "table: slide,x,y and a column of scores" },
        Flag {
            long: "table-column",
            key: "column",
            value_name: Some("NAME"),
            help: "table: the column of scores [default: score]",
        },
    ],
    short_keys: &[],
    with: |parameters| selector::with::<Table>("table", parameters),
};

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Table {
    pub file: PathBuf,
    pub column: String,
}

impl Default for Table {
    fn default() -> Table {
        Table { file: PathBuf::new(), column: "score".into() }
    }
}

impl Selector for Table {
    fn spec(&self) -> &'static SelectorSpec {
        &SPEC
    }

    fn key(&self) -> String {
        format!("table {} {}", self.column, self.file.display())
    }

    fn parameters(&self) -> Parameters {
        selector::parameters(self)
    }

    fn check(&self) -> Result<()> {
        if self.file.as_os_str().is_empty() {
            let what =
                "table: name the file of scores, slide,x,y,score, with --table, or in a run as select.table.file";
            return Err(Error::Usage(what.into()));
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        !self.file.as_os_str().is_empty()
    }

    fn files(&self) -> Vec<PathBuf> {
        if self.is_complete() { vec![self.file.clone()] } else { Vec::new() }
    }

    fn resolved(&self, settle: &dyn Fn(&Path) -> PathBuf) -> Option<Arc<dyn Selector>> {
        let file = settle(&self.file);
        self.is_complete().then(|| Arc::new(Table { file, ..self.clone() }) as Arc<dyn Selector>)
    }

    fn digest(&self) -> Result<Digest> {
        Ok(Digest::of("table", &(Digest::of_file(&self.file)?, &self.column)))
    }

    /// Half of a patch, where scores are shares.
    fn default_threshold(&self) -> Threshold {
        Threshold::Min(0.5)
    }

    fn scorer(&self, _: &Device) -> Result<Box<dyn Score>> {
        Ok(Box::new(Scores::read(self)?))
    }
}

struct Scores {
    path: PathBuf,
    /// By slide, then by corner.
    of_slide: HashMap<String, HashMap<[u64; 2], f64>>,
}

impl Scores {
    fn read(settings: &Table) -> Result<Scores> {
        let path = &settings.file;
        let table = table::Table::read(path)?;
        let slide = table.required(&["slide"])?;
        let [x, y] = [&["x", "x_px"], &["y", "y_px"]].map(|names| table.required(names));
        let (x, y) = (table.numbers(x?)?, table.numbers(y?)?);
        let scores = table.numbers(table.required(&[&settings.column])?)?;
        let mut of_slide: HashMap<String, HashMap<[u64; 2], f64>> = HashMap::new();
        for (i, row) in table.rows.iter().enumerate() {
            let wrong = |problem: &str, remedy: &str| {
                Err(Error::input(path, format!("line {}: {problem}", row.line), remedy.to_string()))
            };
            if ![x[i], y[i]].iter().all(|v| v.fract() == 0.0 && (0.0..1e15).contains(v)) {
                return wrong("a corner that is no pixel", "give x and y as `isg score` writes them");
            }
            if !(scores[i] >= 0.0 && scores[i].is_finite()) {
                return wrong("a score that is negative or NaN", "give every patch a score, 0 for what is not wanted");
            }
            let of_slide = of_slide.entry(row.get(slide).to_string()).or_default();
            if of_slide.insert([x[i] as u64, y[i] as u64], scores[i]).is_some() {
                return wrong("a second score of one patch", "keep one of the two");
            }
        }
        Ok(Scores { path: path.clone(), of_slide })
    }
}

impl Score for Scores {
    fn work(&self, _: Option<u8>) -> Work<'_> {
        Work::Each(Box::new(|_| 0.0))
    }

    fn at(&self, slide: &Slide, corners: &[[u64; 2]]) -> Result<Option<Vec<f64>>> {
        let name = |part: Option<&std::ffi::OsStr>| part.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let names = [name(slide.path().file_name()), name(slide.path().file_stem())];
        let scores = names.iter().find_map(|name| self.of_slide.get(name)).ok_or_else(|| {
            let problem = format!("has no scores in {}", self.path.display());
            Error::input(slide.path(), problem, "add them, or leave the slide out")
        })?;
        let missing = corners.iter().filter(|corner| !scores.contains_key(*corner)).count();
        match corners.iter().find(|corner| !scores.contains_key(*corner)) {
            None => Ok(Some(corners.iter().map(|corner| scores[corner]).collect())),
            Some([x, y]) => {
                let problem = format!(
                    "has no score in {} of {missing} of its {} patches, such as the one at {x}, {y}",
                    self.path.display(),
                    corners.len()
                );
                let remedy =
                    "give one for every corner that `isg score SLIDE --out scores.csv` lists for patches of this size";
                Err(Error::input(slide.path(), problem, remedy))
            }
        }
    }

    /// Nothing is seen in pixels.
    fn response(&self, image: &RgbImage, _: Option<u8>) -> Result<Response> {
        Ok(Response::of(image, vec![0.0; image.width_px * image.height_px]))
    }
}
