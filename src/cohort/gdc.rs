//! GDC's two accompanying tables: the sample sheet, which says whose file is whose, and the download manifest.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use crate::{
    cohort::{
        barcode::Barcode,
        names::{NameIndex, is_uuid},
    },
    error::{Error, Result},
    io::table::{Table, is_missing},
};

/// One file of a GDC sample sheet. Fields that a sheet lacks are empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SheetEntry {
    pub file_id: String,
    pub file_name: String,
    pub data_type: String,
    pub project: String,
    pub patient: String,
    pub sample: String,
    /// GDC's words, as "Primary Tumor".
    pub sample_type: String,
    /// Why the entry says nothing: a cell with two different cases.
    pub contradiction: Option<String>,
}

/// A GDC sample sheet, found by a file's name or its folder's id.
#[derive(Clone, Debug, Default)]
pub struct SampleSheet {
    pub entries: Vec<SheetEntry>,
    by_name: HashMap<String, usize>,
    by_id: HashMap<String, usize>,
    /// Samples, file names and ids: what a matrix may call its columns.
    columns: NameIndex,
}

/// A file's name as a sheet and a disk have it in common: unpacked, in lower case.
fn plain_file_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    name.strip_suffix(".gz").map(str::to_string).unwrap_or(name)
}

/// Newer sheets list a value once per portion ("TCGA-AA-3489, TCGA-AA-3489"); one is enough where all are the same.
fn values_of(list: &str) -> Vec<&str> {
    let mut values: Vec<&str> = list.split([',', ';']).map(str::trim).filter(|v| !is_missing(v)).collect();
    let mut seen = HashSet::new();
    values.retain(|v| seen.insert(v.to_ascii_lowercase()));
    values
}

/// What two names of a cell have in common: samples that differ only in their vial are one sample.
fn same_sample(a: &str, b: &str) -> bool {
    let sample = |name: &str| Barcode::find(name).and_then(|b| b.sample());
    sample(a).is_some() && sample(a) == sample(b)
}

impl SampleSheet {
    /// Errors where the table has neither a sample nor a case, or no file names.
    pub fn read(path: impl AsRef<Path>) -> Result<SampleSheet> {
        let table = Table::read(path)?;
        let name = table.required(&["File Name", "filename", "file"])?;
        let sample = table.column(&["Sample ID", "sample", "sample_submitter_id", "sample barcode"])?;
        let patient = table.column(&["Case ID", "case", "patient", "patient_id", "case_submitter_id"])?;
        if sample.is_none() && patient.is_none() {
            let remedy = "download the sample sheet from the GDC cart";
            return Err(Error::input(&table.path, "has neither a column Sample ID nor Case ID", remedy));
        }
        let id = table.column(&["File ID", "id", "file_uuid"])?;
        let data_type = table.column(&["Data Type"])?;
        let project = table.column(&["Project ID", "project"])?;
        let sample_type = table.column(&["Sample Type", "Tissue Type", "Tumor Descriptor"])?;
        let mut sheet = SampleSheet::default();
        for row in &table.rows {
            let values = |c: Option<usize>| c.map(|c| values_of(row.get(c))).unwrap_or_default();
            let field = |c: Option<usize>| values(c).first().map(|v| v.to_string()).unwrap_or_default();
            let two = [("cases", patient), ("samples", sample), ("kinds of tissue", sample_type)].into_iter().find_map(
                |(what, column)| {
                    let values = values(column);
                    let (first, other) =
                        (values.first()?, values.get(1..)?.iter().find(|v| !same_sample(values[0], v))?);
                    Some(format!("line {} of the sample sheet gives it two {what}, {first} and {other}", row.line))
                },
            );
            let entry = SheetEntry {
                file_id: field(id),
                file_name: row.get(name).to_string(),
                data_type: field(data_type),
                project: field(project),
                patient: field(patient),
                sample: field(sample),
                sample_type: field(sample_type),
                contradiction: two,
            };
            sheet.add(entry, row.line);
        }
        Ok(sheet)
    }

    /// Adds an entry. A file that is listed twice, for two samples, belongs to neither for certain.
    fn add(&mut self, mut entry: SheetEntry, line: u64) {
        let name = plain_file_name(&entry.file_name);
        if let Some(&first) = self.by_name.get(&name) {
            let first = &mut self.entries[first];
            let differs = |a: &str, b: &str| !a.eq_ignore_ascii_case(b);
            if first.file_id.eq_ignore_ascii_case(&entry.file_id)
                && (differs(&first.patient, &entry.patient) || differs(&first.sample, &entry.sample))
                && !same_sample(&first.sample, &entry.sample)
            {
                let whose = |e: &SheetEntry| if e.sample.is_empty() { e.patient.clone() } else { e.sample.clone() };
                let (a, b) = (whose(first), whose(&entry));
                let words = format!("the sample sheet gives it to {a} and, on line {line}, to {b}");
                first.contradiction = Some(words.clone());
                entry.contradiction = Some(words);
            }
        }
        let place = self.entries.len();
        let columns = [&entry.sample, &name, &entry.file_id];
        columns.into_iter().filter(|n| !n.is_empty()).for_each(|n| self.columns.add(n, place));
        let keys = [(&mut self.by_name, name), (&mut self.by_id, entry.file_id.to_ascii_lowercase())];
        for (map, key) in keys.into_iter().filter(|(_, key)| !key.is_empty()) {
            map.entry(key).or_insert(place);
        }
        self.entries.push(entry);
    }

    /// The entry of a file on disk: by its name (packed or not), or by its id, which the GDC client makes the name of its
    /// folder and some people that of the file.
    pub fn of_file(&self, path: &Path) -> Option<&SheetEntry> {
        let name = path.file_name()?.to_string_lossy();
        let folder = path.parent().and_then(Path::file_name).map(|f| f.to_string_lossy().to_ascii_lowercase());
        let stem = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let by_id = |id: &str| self.by_id.get(id).filter(|_| is_uuid(id) || folder.as_deref() == Some(id));
        let by_name = self.by_name.get(&plain_file_name(&name));
        let place = by_name.or_else(|| by_id(folder.as_deref()?)).or_else(|| by_id(&stem));
        place.map(|&i| &self.entries[i])
    }

    /// The first entry of what a matrix calls a sample: a sample's barcode, a file's name or its id.
    pub fn of_sample(&self, sample: &str) -> Option<&SheetEntry> {
        let found = self.columns.find(sample).or_else(|| self.columns.find(&plain_file_name(sample)));
        found.and_then(|(_, entries)| entries.first().copied()).map(|i| &self.entries[i])
    }
}

/// One line of a download manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestEntry {
    pub file_id: String,
    pub file_name: String,
    pub md5: String,
    pub size_bytes: Option<u64>,
}

/// A GDC manifest: what a download should have brought.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    pub entries: Vec<ManifestEntry>,
}

impl Manifest {
    pub fn read(path: impl AsRef<Path>) -> Result<Manifest> {
        let table = Table::read(path)?;
        let (id, name) = (table.required(&["id", "file_id"])?, table.required(&["filename", "file_name"])?);
        let (md5, size) = (table.column(&["md5"])?, table.column(&["size"])?);
        let entries = table.rows.iter().map(|row| ManifestEntry {
            file_id: row.get(id).to_string(),
            file_name: row.get(name).to_string(),
            md5: row.present(md5).unwrap_or("").to_string(),
            size_bytes: row.present(size).and_then(|s| s.parse().ok()),
        });
        Ok(Manifest { entries: entries.collect() })
    }

    /// Files of the manifest that are not among `present`, or are shorter or longer than it says (an interrupted
    /// download), with the reason. A file that was unpacked since is not compared in size.
    pub fn problems(&self, present: &[PathBuf]) -> Vec<(String, String)> {
        let by_name: HashMap<String, &PathBuf> =
            present.iter().filter_map(|p| Some((plain_file_name(&p.file_name()?.to_string_lossy()), p))).collect();
        let mut out = Vec::new();
        for entry in &self.entries {
            let Some(path) = by_name.get(&plain_file_name(&entry.file_name)) else {
                out.push((entry.file_name.clone(), "is in the manifest but not on disk".to_string()));
                continue;
            };
            let same_form =
                path.file_name().is_some_and(|n| n.to_string_lossy().eq_ignore_ascii_case(&entry.file_name));
            let size = std::fs::metadata(path).map(|m| m.len()).ok();
            if let (true, Some(wanted), Some(size)) = (same_form, entry.size_bytes, size)
                && wanted != size
            {
                let reason = format!("has {size} bytes, the manifest says {wanted}: download it again");
                out.push((entry.file_name.clone(), reason));
            }
        }
        out
    }
}
