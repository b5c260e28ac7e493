//! Which slides there are: folders, patterns, lists of files, or a table `slide,patient[,site,mpp,project,sample]`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use crate::{
    cohort::{
        barcode::Barcode,
        labels::{PATIENT_COLUMNS, patient_name},
        names::{NameIndex, folded, plain_number, without_uuid},
    },
    error::{Error, Result},
    io::table::Table,
    slide::{
        file_name::{FileKind, SLIDE_COLUMNS, slide_id, with_extensions},
        mpp_table::MPP_COLUMNS,
    },
};

/// Folders nested deeper than this are not searched; links could make it endless.
const MAX_DEPTH: usize = 16;

/// A slide before it is matched with expression.
#[derive(Clone, PartialEq, Debug)]
pub struct FoundSlide {
    /// The file's name without its extension; unique in a cohort.
    pub id: String,
    pub path: PathBuf,
    /// Of the name, or of the sample that a table states.
    pub barcode: Option<Barcode>,
    /// As the slide table or the sample sheet says; otherwise the barcode decides.
    pub patient: Option<String>,
    /// As the slide table says.
    pub sample: Option<String>,
    /// As the sample sheet says.
    pub sheet_sample: Option<String>,
    pub site: Option<String>,
    pub project: Option<String>,
    /// Micrometres per pixel at level 0, where the table overrides the slide's own.
    pub mpp: Option<f64>,
}

/// Slides that are left out, with the reason.
pub type LeftOut = Vec<(String, String)>;

/// Whether a path names a table rather than a slide.
pub(super) fn is_table(path: &Path) -> bool {
    let name = path.to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    [".csv", ".tsv", ".txt"].iter().any(|e| name.ends_with(e))
}

/// Finds the slides of a configuration. Returns them in order of their ids, and those left out with the reason: a file
/// of a format that is not read, a second file of the same name, a row of a table whose file does not exist.
pub fn find_slides(specifications: &[String]) -> Result<(Vec<FoundSlide>, LeftOut)> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut tables: Vec<PathBuf> = Vec::new();
    let mut not_read: Vec<(PathBuf, String)> = Vec::new();
    for specification in specifications {
        for path in expand(specification)? {
            if path.is_dir() && FileKind::of(&path) == FileKind::Other {
                walk(&path, 0, &mut |p| match FileKind::of(p) {
                    FileKind::Slide if p.is_file() => files.push(p.to_path_buf()),
                    FileKind::Slide => not_read.push((p.to_path_buf(), "is not a file".into())),
                    FileKind::NotRead(reason) => not_read.push((p.to_path_buf(), reason)),
                    FileKind::Other => {}
                })?;
            } else if is_table(&path) {
                tables.push(path);
            } else if let FileKind::NotRead(reason) = FileKind::of(&path) {
                not_read.push((path, reason));
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files.dedup();
    not_read.sort();
    not_read.dedup();
    let scans: Vec<PathBuf> = not_read.iter().map(|(p, _)| p.clone()).collect();
    files.retain(|file| !is_part_of_scan(file, &scans));
    let mut left_out: LeftOut = not_read.into_iter().map(|(p, why)| (file_name(&p), why)).collect();
    let mut found: BTreeMap<String, FoundSlide> = BTreeMap::new();
    // Where a table is given it says which slides belong to the cohort; folders beside it only say where files lie.
    let listed = if tables.is_empty() {
        files.into_iter().map(from_file).collect()
    } else {
        read_slide_tables(&tables, &files, &mut left_out)?
    };
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

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Hamamatsu's VMS and VMU lie in parts, JPEG files named after the scan.
fn is_part_of_scan(file: &Path, scans: &[PathBuf]) -> bool {
    let is_jpeg = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("jpg"));
    is_jpeg
        && scans.iter().any(|scan| {
            let in_parts =
                scan.extension().is_some_and(|e| e.eq_ignore_ascii_case("vms") || e.eq_ignore_ascii_case("vmu"));
            let (name, scan_name) = (slide_id(file), slide_id(scan));
            let rest = name.strip_prefix(&scan_name);
            let is_part =
                rest.is_some_and(|r| r.is_empty() || ["(", "_macro", "_map"].iter().any(|p| r.starts_with(p)));
            in_parts && scan.parent() == file.parent() && is_part
        })
}

fn from_file(path: PathBuf) -> FoundSlide {
    let id = slide_id(&path);
    let barcode = Barcode::find(&id);
    let (patient, sample, sheet_sample, site, project, mpp) = Default::default();
    FoundSlide { id, path, barcode, patient, sample, sheet_sample, site, project, mpp }
}

/// Where the files lie that tables list.
struct Files<'a> {
    files: &'a [PathBuf],
    by_name: NameIndex,
    /// Without the id that GDC appends, which tables often leave out.
    by_bare_name: NameIndex,
}

impl<'a> Files<'a> {
    fn new(files: &'a [PathBuf]) -> Files<'a> {
        let (mut by_name, mut by_bare_name) = (NameIndex::default(), NameIndex::default());
        for (i, file) in files.iter().enumerate() {
            let id = slide_id(file);
            by_name.add(&id, i);
            by_bare_name.add(without_uuid(&id).unwrap_or(&id), i);
        }
        Files { files, by_name, by_bare_name }
    }

    /// The file that a table's row names: by its path from the table, by its name among the known files, or by its path
    /// from here. Errors name two files that fit.
    fn find(&self, table: &Path, named: &Path) -> Result<Option<PathBuf>, String> {
        let beside = table.parent().unwrap_or(Path::new(".")).join(named);
        if beside.is_file() {
            return Ok(Some(beside));
        }
        let id = slide_id(named);
        let bare = without_uuid(&id).unwrap_or(&id);
        if let Some((_, found)) = self.by_name.find(&id).or_else(|| self.by_bare_name.find(bare)) {
            let fitting = |&i: &usize| self.files[i].ends_with(named);
            let better: Vec<usize> = found.iter().copied().filter(fitting).collect();
            let found = if better.is_empty() { found } else { better };
            let same_id = |&i: &usize| slide_id(&self.files[i]) == slide_id(&self.files[found[0]]);
            return match found.iter().find(|i| !same_id(i)) {
                None => Ok(Some(self.files[found[0]].clone())),
                Some(&other) => Err(format!("{} and {}", self.files[found[0]].display(), self.files[other].display())),
            };
        }
        let text = beside.to_string_lossy().into_owned();
        let extended = with_extensions(&text).map(PathBuf::from).find(|p| p.is_file());
        Ok(extended.or_else(|| named.is_file().then(|| named.to_path_buf())))
    }
}

impl Files<'_> {
    /// A file whose name is the same number, but for zeros before it.
    fn differing_by_zeros(&self, named: &Path) -> Option<String> {
        let wanted = slide_id(named);
        let wanted = plain_number(&wanted)?;
        self.files.iter().map(|f| slide_id(f)).find(|id| plain_number(id) == Some(wanted))
    }
}

/// A row of a slide table, for comparing two of one slide.
struct Listed {
    table: PathBuf,
    line: u64,
    slide: FoundSlide,
}

/// Reads slide tables. A row that repeats another is one slide; one that contradicts it is an error.
fn read_slide_tables(tables: &[PathBuf], files: &[PathBuf], left_out: &mut LeftOut) -> Result<Vec<FoundSlide>> {
    let files = Files::new(files);
    let mut listed: Vec<Listed> = Vec::new();
    let mut by_path: HashMap<PathBuf, usize> = HashMap::new();
    for table in tables {
        for row in read_slide_table(table, &files, left_out)? {
            match by_path.get(&row.slide.path) {
                Some(&first) => listed[first].merge(row)?,
                None => {
                    by_path.insert(row.slide.path.clone(), listed.len());
                    listed.push(row);
                }
            }
        }
    }
    let in_tables = tables.iter().map(|t| t.display().to_string()).collect::<Vec<_>>().join(", ");
    let unlisted = files.files.iter().filter(|f| !by_path.contains_key(*f));
    left_out.extend(unlisted.map(|f| (slide_id(f), format!("is not listed in {in_tables}"))));
    Ok(listed.into_iter().map(|row| row.slide).collect())
}

impl Listed {
    /// Takes in another row of the same slide.
    fn merge(&mut self, other: Listed) -> Result<()> {
        let fields = [
            ("patient", &mut self.slide.patient, other.slide.patient),
            ("sample", &mut self.slide.sample, other.slide.sample),
            ("site", &mut self.slide.site, other.slide.site),
            ("project", &mut self.slide.project, other.slide.project),
        ];
        let lines = |first: u64| {
            let place = if self.table == other.table { String::new() } else { format!(" of {}", self.table.display()) };
            format!("lines {first}{place} and {}", other.line)
        };
        let refuse = |what: &str, a: &str, b: &str| {
            let problem = format!("{}: slide {} has {what} {a} and {what} {b}", lines(self.line), other.slide.id);
            Err(Error::input(&other.table, problem, "keep the row that is right"))
        };
        for (what, mine, theirs) in fields {
            match (&*mine, &theirs) {
                (Some(a), Some(b)) if folded(a) != folded(b) => return refuse(what, a, b),
                (None, Some(_)) => *mine = theirs,
                _ => {}
            }
        }
        match (self.slide.mpp, other.slide.mpp) {
            (Some(a), Some(b)) if a != b => refuse("mpp", &a.to_string(), &b.to_string()),
            (mine, theirs) => {
                self.slide.mpp = mine.or(theirs);
                Ok(())
            }
        }
    }
}

/// Reads a slide table. A slide is named by a path (relative to the table), or by an id that a file found elsewhere has.
fn read_slide_table(path: &Path, files: &Files, left_out: &mut LeftOut) -> Result<Vec<Listed>> {
    let table = Table::read(path)?;
    let slide = table.required(&SLIDE_COLUMNS)?;
    let location = table.column(&["path", "slide_path", "file_path"])?.filter(|c| *c != slide);
    let patient = table.column(&PATIENT_COLUMNS)?;
    let sample = table.column(&["sample", "sample_id", "rna_sample", "sample_submitter_id"])?;
    let site = table.column(&["site", "tss", "tissue_source_site", "center", "centre", "hospital", "institution"])?;
    let project = table.column(&["project", "project_id", "tcga_project", "cancer", "cancer_type", "cohort"])?;
    let scales = table.column(&MPP_COLUMNS)?.map(|c| scales(&table, c)).transpose()?;
    let mut out = Vec::new();
    for (i, row) in table.rows.iter().enumerate() {
        let Some(name) = row.present(Some(slide)) else { continue };
        // A table from Windows has backslashes in its paths.
        let named = PathBuf::from(row.present(location).unwrap_or(name).replace('\\', "/"));
        let file = files.find(path, &named).map_err(|both| {
            Error::input(path, format!("line {}: {name} fits two files, {both}", row.line), "give their paths")
        })?;
        let Some(file) = file else {
            let hint = match files.differing_by_zeros(&named) {
                Some(other) => {
                    format!(" ({other} lies there, which differs by leading zeros that a spreadsheet drops)")
                }
                None => String::new(),
            };
            let reason = format!("is listed in {} but its file was not found{hint}", path.display());
            left_out.push((name.to_string(), reason));
            continue;
        };
        if let FileKind::NotRead(reason) = FileKind::of(&file) {
            left_out.push((name.to_string(), reason));
            continue;
        }
        let mut slide = from_file(file);
        slide.patient = row.present(patient).map(patient_name);
        slide.sample = row.present(sample).map(str::to_string);
        slide.site = row.present(site).map(str::to_string);
        slide.project = row.present(project).map(str::to_string);
        slide.mpp = scales.as_ref().map(|s| s[i]).filter(|v| !v.is_nan());
        let of_name = slide.barcode.as_ref().map(Barcode::patient);
        let of_table = slide.patient.as_deref().and_then(Barcode::find).map(|b| b.patient());
        if let (Some(a), Some(b)) = (of_name, of_table)
            && a != b
        {
            let problem = format!("line {}: slide {name} is listed for patient {b} but its name says {a}", row.line);
            return Err(Error::input(path, problem, "correct the row"));
        }
        out.push(Listed { table: path.to_path_buf(), line: row.line, slide });
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

/// Calls `visit` for every file below a folder, in order of names; a folder that is a slide (OME-Zarr) counts as a file.
pub(super) fn walk(folder: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut paths: Vec<PathBuf> =
        entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(|e| Error::io(folder, e))?;
    paths.sort();
    for path in paths {
        if path.is_dir() && FileKind::of(&path) == FileKind::Other {
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
