//! Which slides there are: folders, patterns, lists of files, or a table `slide,patient[,site,mpp,project,sample]`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::{
    cohort::{barcode::Barcode, labels::patient_name},
    error::{Error, Result},
    io::table::Table,
};

/// Extensions of whole-slide images and plain images, the longest first.
const SLIDE_EXTENSIONS: [&str; 15] = [
    ".ome.tiff",
    ".ome.tif",
    ".tiff",
    ".tif",
    ".svs",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".bif",
    ".vms",
    ".dcm",
    ".png",
    ".jpeg",
    ".jpg",
    ".jp2",
];
/// Folders nested deeper than this are not searched; links could make it endless.
const MAX_DEPTH: usize = 16;

/// A slide before it is matched with expression.
#[derive(Clone, PartialEq, Debug)]
pub struct FoundSlide {
    /// The file's name without its extension; unique in a cohort.
    pub id: String,
    pub path: PathBuf,
    pub barcode: Option<Barcode>,
    /// As the slide table says; otherwise the barcode decides.
    pub patient: Option<String>,
    pub sample: Option<String>,
    pub site: Option<String>,
    pub project: Option<String>,
    /// Micrometres per pixel at level 0, where the table overrides the slide's own.
    pub mpp: Option<f64>,
}

/// Slides that are left out, with the reason.
pub type LeftOut = Vec<(String, String)>;

/// The name of a slide: its file's name without the extension of an image.
pub fn slide_id(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let lower = name.to_ascii_lowercase();
    match SLIDE_EXTENSIONS.iter().find(|e| lower.ends_with(*e) && lower.len() > e.len()) {
        Some(extension) => name[..name.len() - extension.len()].to_string(),
        None => name,
    }
}

fn is_slide(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    !name.starts_with('.') && SLIDE_EXTENSIONS.iter().any(|e| name.ends_with(e))
}

/// Whether a path names a table rather than a slide.
pub(super) fn is_table(path: &Path) -> bool {
    let name = path.to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    [".csv", ".tsv", ".txt"].iter().any(|e| name.ends_with(e))
}

/// Finds the slides of a configuration. Returns them in order of their ids, and those left out with the reason (a second
/// file of the same name, a row of a table whose file does not exist).
pub fn find_slides(specifications: &[String]) -> Result<(Vec<FoundSlide>, LeftOut)> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut tables: Vec<PathBuf> = Vec::new();
    for specification in specifications {
        for path in expand(specification)? {
            if path.is_dir() {
                walk(&path, 0, &mut |p| {
                    if is_slide(p) {
                        files.push(p.to_path_buf())
                    }
                })?;
            } else if is_table(&path) {
                tables.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files.dedup();
    let mut left_out = LeftOut::new();
    let mut found: BTreeMap<String, FoundSlide> = BTreeMap::new();
    let mut in_tables = Vec::new();
    for table in &tables {
        in_tables.extend(read_slide_table(table, &files, &mut left_out)?);
    }
    // Where a table is given it says which slides belong to the cohort; folders beside it only say where files lie.
    let listed = if tables.is_empty() { files.into_iter().map(from_file).collect() } else { in_tables };
    for slide in listed {
        match found.get(&slide.id) {
            Some(first) => {
                let reason = format!("has the same name as {}, which is used", first.path.display());
                left_out.push((slide.path.display().to_string(), reason));
            }
            None => drop(found.insert(slide.id.clone(), slide)),
        }
    }
    Ok((found.into_values().collect(), left_out))
}

fn from_file(path: PathBuf) -> FoundSlide {
    let id = slide_id(&path);
    let barcode = Barcode::find(&id);
    FoundSlide { id, path, barcode, patient: None, sample: None, site: None, project: None, mpp: None }
}

/// Reads a slide table. A slide is named by a path (relative to the table), or by an id that a file found elsewhere has.
fn read_slide_table(path: &Path, files: &[PathBuf], left_out: &mut LeftOut) -> Result<Vec<FoundSlide>> {
    let table = Table::read(path)?;
    let slide = table.required(&[
        "slide",
        "slide_id",
        "path",
        "file",
        "filename",
        "wsi_file_name",
        "wsi",
        "slide_path",
        "image",
        "slide_name",
    ])?;
    let location = table.column(&["path", "slide_path", "file_path", "filepath"])?.filter(|c| *c != slide);
    let patient = table.column(&["patient", "patient_id", "case", "case_id", "case_submitter_id", "submitter_id"])?;
    let sample = table.column(&["sample", "sample_id", "rna_sample", "sample_submitter_id"])?;
    let site = table.column(&["site", "tss", "tissue_source_site", "center", "centre", "hospital"])?;
    let project = table.column(&["project", "project_id", "tcga_project", "cancer", "cancer_type", "cohort"])?;
    let mpp = table.column(&["mpp", "um_per_px", "microns_per_pixel"])?;
    let scales = mpp.map(|c| scales(&table, c)).transpose()?;
    let by_id: BTreeMap<String, &PathBuf> = files.iter().map(|p| (slide_id(p), p)).collect();
    let by_start: BTreeMap<String, &PathBuf> =
        files.iter().map(|p| (before_dot(&slide_id(p)).to_string(), p)).collect();
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut out = Vec::new();
    for (i, row) in table.rows.iter().enumerate() {
        let Some(name) = row.present(Some(slide)) else { continue };
        let named = PathBuf::from(row.present(location).unwrap_or(name));
        let beside = folder.join(&named);
        let with_extension = || {
            let text = beside.as_os_str().to_string_lossy().into_owned();
            SLIDE_EXTENSIONS.iter().map(|e| PathBuf::from(format!("{text}{e}"))).find(|p| p.is_file())
        };
        let id = slide_id(&named);
        let file = if beside.is_file() {
            Some(beside.clone())
        } else {
            let known = by_id.get(&id).or_else(|| by_start.get(before_dot(&id))).map(|p| p.to_path_buf());
            known.or_else(with_extension).or_else(|| named.is_file().then(|| named.clone()))
        };
        let Some(file) = file else {
            left_out.push((name.to_string(), format!("is listed in {} but its file was not found", path.display())));
            continue;
        };
        let mut slide = from_file(file);
        slide.patient = row.present(patient).map(patient_name);
        slide.sample = row.present(sample).map(str::to_string);
        slide.site = row.present(site).map(str::to_string);
        slide.project = row.present(project).map(str::to_string);
        slide.mpp = scales.as_ref().map(|s| s[i]).filter(|v| !v.is_nan());
        out.push(slide);
    }
    if out.is_empty() && table.rows.is_empty() {
        return Err(Error::input(path, "lists no slide", "add rows slide,patient"));
    }
    Ok(out)
}

/// A column of micrometres per pixel; NaN where a row gives none.
fn scales(table: &Table, column: usize) -> Result<Vec<f64>> {
    let values = table.numbers(column)?;
    match values.iter().position(|v| *v <= 0.0) {
        None => Ok(values),
        Some(i) => {
            let row = &table.rows[i];
            let problem =
                format!("line {}: mpp {:?} is not a length in micrometres per pixel", row.line, row.get(column));
            Err(Error::input(&table.path, problem, "write a number such as 0.25, or leave it empty"))
        }
    }
}

/// GDC appends a file's id to a slide's barcode, after a dot; tables often leave it out.
pub(super) fn before_dot(id: &str) -> &str {
    id.split('.').next().unwrap_or(id)
}

/// Calls `visit` for every file below a folder, in order of names.
pub(super) fn walk(folder: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut paths: Vec<PathBuf> =
        entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(|e| Error::io(folder, e))?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if depth < MAX_DEPTH {
                walk(&path, depth + 1, visit)?;
            }
        } else {
            visit(&path);
        }
    }
    Ok(())
}

/// The files a specification means: itself, or what a pattern (`*`, `?`, `**` for any folders) matches, sorted.
/// Errors where there is none.
pub fn expand(specification: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new(specification);
    if path.exists() {
        return Ok(vec![path.to_path_buf()]);
    }
    if !specification.contains(['*', '?']) {
        return Err(Error::input(path, "does not exist", "name a file, a folder or a pattern such as slides/*.svs"));
    }
    let fixed: PathBuf =
        path.components().take_while(|c| !c.as_os_str().to_string_lossy().contains(['*', '?'])).collect();
    let root = if fixed.as_os_str().is_empty() { PathBuf::from(".") } else { fixed.clone() };
    let pattern: Vec<String> = path
        .strip_prefix(&fixed)
        .unwrap_or(path)
        .components()
        .map(|c| c.as_os_str().to_string_lossy().into_owned())
        .collect();
    let mut found = BTreeSet::new();
    if root.is_dir() {
        walk(&root, 0, &mut |file| {
            let parts: Vec<String> = file
                .strip_prefix(&root)
                .unwrap_or(file)
                .components()
                .map(|c| c.as_os_str().to_string_lossy().into_owned())
                .collect();
            if matches_path(&pattern, &parts) {
                found.insert(file.to_path_buf());
            }
        })?;
    }
    if found.is_empty() {
        return Err(Error::input(path, "matches no file", "check the pattern and the folder"));
    }
    Ok(found.into_iter().collect())
}

fn matches_path(pattern: &[String], parts: &[String]) -> bool {
    match (pattern.split_first(), parts.split_first()) {
        (None, None) => true,
        (Some((p, rest)), _) if p == "**" => {
            matches_path(rest, parts) || (!parts.is_empty() && matches_path(pattern, &parts[1..]))
        }
        (Some((p, rest)), Some((part, more))) => {
            matches_name(&p.chars().collect::<Vec<_>>(), &part.chars().collect::<Vec<_>>()) && matches_path(rest, more)
        }
        _ => false,
    }
}

/// `*` any characters, `?` one. The last star is the only one that needs a second try.
fn matches_name(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p + 1, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((after, from)) = star {
            p = after;
            n = from + 1;
            star = Some((after, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}
