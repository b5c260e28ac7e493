//! µm per pixel by slide, from a table with the columns `slide` and `mpp`.

use std::path::{Path, PathBuf};

use super::{
    file_name::{SLIDE_COLUMNS, slide_id},
    scale::check_override,
};
use crate::{
    error::{Error, Result},
    io::table::{Table, is_missing},
};

/// Columns that hold µm per pixel in people's tables.
pub const MPP_COLUMNS: [&str; 6] = ["mpp", "um_per_px", "µm_per_px", "microns_per_pixel", "um_per_pixel", "mpp_x"];

/// Scales that override the slides' own. A slide is named by its path, its file's name, or its file's name without the
/// extension.
#[derive(Clone, Debug, Default)]
pub struct MppTable {
    path: PathBuf,
    rows: Vec<ScaleRow>,
}

#[derive(Clone, Debug)]
struct ScaleRow {
    line: u64,
    slide: String,
    mpp: f64,
}

impl ScaleRow {
    fn fits(&self, slide: &Path) -> bool {
        let named = Path::new(&self.slide);
        named == slide
            || slide.file_name().is_some_and(|n| n == named.as_os_str())
            || slide_id(slide) == self.slide
            || (named.components().count() > 1 && slide.ends_with(named))
    }
}

impl MppTable {
    /// Errors where a column or a value is missing, or a value is no scale of a slide.
    pub fn read(path: impl AsRef<Path>) -> Result<MppTable> {
        let table = Table::read(path)?;
        let (slide, mpp) = (table.required(&SLIDE_COLUMNS)?, table.required(&MPP_COLUMNS)?);
        let values = table.numbers(mpp)?;
        let mut rows = Vec::with_capacity(values.len());
        for (row, value) in table.rows.iter().zip(values) {
            let bad = |problem: String| {
                let problem = format!("line {}: {problem}", row.line);
                Error::input(&table.path, problem, "give every slide its µm per pixel, as 0.25 or 0.5")
            };
            if is_missing(row.get(slide)) || value.is_nan() {
                return Err(bad(format!("slide {:?} has mpp {:?}", row.get(slide), row.get(mpp))));
            }
            let mpp = check_override(value).map_err(|e| bad(e.to_string()))?;
            rows.push(ScaleRow { line: row.line, slide: row.get(slide).to_string(), mpp });
        }
        Ok(MppTable { path: table.path, rows })
    }

    /// The scale of each slide, `None` where the table does not mention it. Errors where a row fits no slide or two, or
    /// two rows give one slide different scales.
    pub fn of_slides(&self, slides: &[PathBuf]) -> Result<Vec<Option<f64>>> {
        let mut scales: Vec<Option<(f64, u64)>> = vec![None; slides.len()];
        let bad = |problem: String, remedy: &str| Err(Error::input(&self.path, problem, remedy));
        for row in &self.rows {
            let found: Vec<usize> = (0..slides.len()).filter(|&i| row.fits(&slides[i])).collect();
            let [first, others @ ..] = &found[..] else {
                let problem = format!("line {}: {:?} is none of the slides", row.line, row.slide);
                return bad(problem, "correct the name, or remove the row");
            };
            if let Some(other) = others.iter().find(|&&i| slides[i] != slides[*first]) {
                let (a, b) = (slides[*first].display(), slides[*other].display());
                let problem = format!("line {}: {:?} fits two slides, {a} and {b}", row.line, row.slide);
                return bad(problem, "give their paths");
            }
            for &i in &found {
                if let Some((mpp, line)) = scales[i].replace((row.mpp, row.line))
                    && mpp != row.mpp
                {
                    let problem = format!("lines {line} and {}: {} has two scales", row.line, slides[i].display());
                    return bad(problem, "keep one of them");
                }
            }
        }
        Ok(scales.into_iter().map(|s| s.map(|(mpp, _)| mpp)).collect())
    }
}
