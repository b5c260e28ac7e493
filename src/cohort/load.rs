//! A cohort: slides with the expression of their patients.
//!
//! One slide or table that cannot be used does not stop the others: it is left out and listed with the reason
//! ([`Excluded`]). A gene that was asked for and is nowhere, or a cohort of which nothing is left, is an error.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    cohort::{
        barcode::{Barcode, sample_type_name},
        config::{CohortConfig, MatchBy},
        expression::{ExpressionTable, ReadOptions, Sample, file_stem},
        gdc::{Manifest, SampleSheet},
        genes::{self, GeneIndex, GeneMap, GeneName},
        labels::patient_name,
        slides::{FoundSlide, before_dot, expand, find_slides, is_table, walk},
        splits::SplitPatient,
        targets::{TableScale, Transform},
    },
    error::{Error, Result},
    eval::stats,
    io::{atomic, table::plain_name},
    progress::Progress,
};

/// A slide with expression.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SlideEntry {
    /// The file's name without its extension.
    pub id: String,
    pub path: PathBuf,
    pub patient: String,
    /// Place in [`Cohort::patients`].
    pub patient_index: usize,
    /// The expression sample it is matched with.
    pub sample: String,
    /// Row of [`Cohort::targets`].
    pub sample_index: usize,
    pub site: Option<String>,
    pub project: Option<String>,
    /// Micrometres per pixel at level 0 where the slide table overrides the slide's own.
    pub mpp: Option<f64>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PatientEntry {
    pub id: String,
    pub site: Option<String>,
    pub project: Option<String>,
    /// Places in [`Cohort::slides`].
    pub slides: Vec<usize>,
}

/// What was left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExcludedKind {
    Slide,
    Sample,
    Gene,
    File,
}

/// A slide, expression sample, gene or file that is not used, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Excluded {
    pub kind: ExcludedKind,
    pub name: String,
    pub reason: String,
}

impl Excluded {
    fn new(kind: ExcludedKind, name: impl Into<String>, reason: impl Into<String>) -> Excluded {
        Excluded { kind, name: name.into(), reason: reason.into() }
    }
}

/// Slides, patients and regression targets.
#[derive(Clone, PartialEq, Debug)]
pub struct Cohort {
    pub genes: Vec<GeneName>,
    /// In order of ids.
    pub slides: Vec<SlideEntry>,
    /// In order of ids.
    pub patients: Vec<PatientEntry>,
    /// Expression samples in use.
    pub samples: Vec<Sample>,
    /// `[samples, genes]`, transformed, not scaled; every number is finite.
    pub targets: Vec<f64>,
    pub transform: Transform,
    /// Choices worth knowing: a gene that occurs twice, a table that may be on a log scale.
    pub remarks: Vec<String>,
}

impl Cohort {
    /// Reads and matches everything. See [`CohortConfig`].
    pub fn load(config: &CohortConfig, progress: &dyn Progress) -> Result<(Cohort, Vec<Excluded>)> {
        if config.slides.is_empty() || config.expression.is_empty() {
            let missing = if config.slides.is_empty() { "slides" } else { "expression" };
            return Err(Error::Usage(format!("the cohort names no {missing}; set cohort.{missing}")));
        }
        let mut excluded = Vec::new();
        let sheet = config.sample_sheet.as_ref().map(SampleSheet::read).transpose()?.unwrap_or_default();
        let map = config.gene_map.as_ref().map(GeneMap::read).transpose()?.unwrap_or_default();
        let slides = usable_slides(config, &sheet, &mut excluded)?;
        let table = expression(config, &map, &slides, &mut excluded, progress)?;
        let (samples, no_tumour) = usable_samples(config, &table, &sheet, &mut excluded);
        let mut remarks = Vec::new();
        let chosen = chosen_genes(config, &table, &map, &mut remarks)?;
        let matched = match_slides(config, slides, &samples, &no_tumour, &mut excluded);
        if matched.is_empty() {
            let of_slides = excluded.iter().filter(|e| e.kind == ExcludedKind::Slide);
            let first = of_slides.clone().next().map_or(String::new(), |e| format!(" ({} {})", e.name, e.reason));
            let remedy = "check the sample sheet, or give a table slide,patient";
            let n = of_slides.count();
            return Err(Error::Usage(format!("none of the {n} slides has expression{first}; {remedy}")));
        }
        let mut cohort = assemble(config, &table, &samples, chosen, matched, remarks, &mut excluded)?;
        for gene in cohort.genes.iter_mut().filter(|g| g.symbol.is_none()) {
            gene.symbol = gene.ensembl.as_deref().and_then(|id| map.symbol_of(id)).map(str::to_string);
        }
        cohort.remarks.iter().for_each(|remark| progress.note(remark));
        Ok((cohort, excluded))
    }

    /// One slide's targets, per gene.
    pub fn target(&self, slide: usize) -> &[f64] {
        let n = self.genes.len();
        let row = self.slides[slide].sample_index;
        &self.targets[row * n..(row + 1) * n]
    }

    /// `[patients, genes]`: the mean over each patient's slides.
    pub fn patient_targets(&self) -> Vec<f64> {
        let mut out = Vec::with_capacity(self.patients.len() * self.genes.len());
        for patient in &self.patients {
            for gene in 0..self.genes.len() {
                let sum: f64 = patient.slides.iter().map(|&s| self.target(s)[gene]).sum();
                out.push(sum / patient.slides.len() as f64);
            }
        }
        out
    }

    /// Names of the genes, symbols where they are known.
    pub fn gene_labels(&self) -> Vec<String> {
        self.genes.iter().map(|g| g.label().to_string()).collect()
    }

    /// The patients as the splits need them.
    pub fn split_patients(&self) -> Vec<SplitPatient> {
        let entry =
            |p: &PatientEntry| SplitPatient { id: p.id.clone(), site: p.site.clone(), project: p.project.clone() };
        self.patients.iter().map(entry).collect()
    }

    /// Slides of the named patients, in order.
    pub fn slides_of(&self, patients: &[String]) -> Vec<usize> {
        let wanted: HashSet<&str> = patients.iter().map(String::as_str).collect();
        (0..self.slides.len()).filter(|&i| wanted.contains(self.slides[i].patient.as_str())).collect()
    }

    /// Projects of the cohort, sorted; empty where none is known.
    pub fn projects(&self) -> Vec<String> {
        let mut out: Vec<String> = self.patients.iter().filter_map(|p| p.project.clone()).collect();
        out.sort();
        out.dedup();
        out
    }
}

/// Writes what was left out as CSV: kind,name,reason.
pub fn write_excluded_csv(path: impl AsRef<Path>, excluded: &[Excluded]) -> Result<()> {
    let path = path.as_ref();
    let mut out = csv::Writer::from_writer(Vec::new());
    let failed = |e: csv::Error| Error::Usage(format!("{}: {e}", path.display()));
    out.write_record(["kind", "name", "reason"]).map_err(failed)?;
    for e in excluded {
        let kind = format!("{:?}", e.kind).to_lowercase();
        out.write_record([&kind, &e.name, &e.reason]).map_err(failed)?;
    }
    let bytes = out.into_inner().map_err(|e| Error::io(path, e.into_error()))?;
    atomic::write_bytes(path, &bytes)
}

/// The slides, with patient, site and project filled in, without normal tissue.
fn usable_slides(config: &CohortConfig, sheet: &SampleSheet, excluded: &mut Vec<Excluded>) -> Result<Vec<FoundSlide>> {
    let (found, left_out) = find_slides(&config.slides)?;
    excluded.extend(left_out.into_iter().map(|(name, reason)| Excluded::new(ExcludedKind::Slide, name, reason)));
    if found.is_empty() {
        return Err(Error::Usage(format!(
            "no slide found in {}; name slides or their folder",
            config.slides.join(", ")
        )));
    }
    let mut out = Vec::new();
    for mut slide in found {
        if let Some(entry) = sheet.of_file(&slide.path) {
            let given = |s: &String| Some(s.clone()).filter(|s| !s.is_empty());
            slide.patient = slide.patient.or_else(|| given(&entry.patient));
            slide.sample = slide.sample.or_else(|| given(&entry.sample));
            slide.project = slide.project.or_else(|| given(&entry.project));
            slide.barcode = slide.barcode.or_else(|| Barcode::find(&entry.sample));
        }
        if let Some(sample) = &slide.sample {
            slide.barcode = Barcode::find(sample).or(slide.barcode);
        }
        let words = sheet.of_file(&slide.path).map(|e| e.sample_type.as_str());
        if let Some(kind) = other_than_primary(slide.barcode.as_ref(), words).filter(|_| config.primary_tumour_only) {
            let reason = format!("shows {kind}, not a primary tumour");
            excluded.push(Excluded::new(ExcludedKind::Slide, slide.id, reason));
            continue;
        }
        out.push(slide);
    }
    Ok(out)
}

/// What a sample is, where it is known to be no primary tumour: by its barcode, or else by a sheet's words.
fn other_than_primary(barcode: Option<&Barcode>, words: Option<&str>) -> Option<String> {
    if let Some(code) = barcode.and_then(|b| b.sample_type) {
        return (code != 1).then(|| sample_type_name(code).to_string());
    }
    let words = words.filter(|w| !w.is_empty())?;
    let plain = plain_name(words);
    let primary = plain.starts_with("primarytum") || matches!(plain.as_str(), "tumor" | "tumour" | "primary");
    (!primary).then(|| words.to_lowercase())
}

/// Names that accompany expression tables in a folder and are none.
fn is_expression_file(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let unpacked = name.strip_suffix(".gz").unwrap_or(&name);
    let table = is_table(path) || [".tab", ".counts", ".gct", ".results"].iter().any(|e| unpacked.ends_with(e));
    let plain = plain_name(unpacked);
    let other =
        ["gdcsamplesheet", "samplesheet", "gdcmanifest", "manifest", "annotations", "clinical", "biospecimen", "truth"];
    table && !name.starts_with('.') && !other.iter().any(|o| plain.starts_with(o))
}

fn expression_files(config: &CohortConfig) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for specification in &config.expression {
        for path in expand(specification)? {
            if path.is_dir() {
                let before = files.len();
                walk(&path, 0, &mut |p| {
                    if is_expression_file(p) {
                        files.push(p.to_path_buf())
                    }
                })?;
                if files.len() == before {
                    return Err(Error::input(
                        &path,
                        "holds no expression table",
                        "name the folder of the .tsv or .txt files",
                    ));
                }
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// Reads the expression files. Of several, a damaged one is left out; a single one must be readable.
fn expression(
    config: &CohortConfig,
    map: &GeneMap,
    slides: &[FoundSlide],
    excluded: &mut Vec<Excluded>,
    progress: &dyn Progress,
) -> Result<ExpressionTable> {
    let files = expression_files(config)?;
    if let Some(path) = &config.manifest {
        let problems = Manifest::read(path)?.problems(&files);
        excluded.extend(problems.into_iter().map(|(name, why)| Excluded::new(ExcludedKind::File, name, why)));
    }
    let names = slides.iter().flat_map(|s| {
        let patient = s.patient.clone().or_else(|| s.barcode.as_ref().map(Barcode::patient));
        [Some(s.id.clone()), s.sample.clone(), patient].into_iter().flatten()
    });
    let options = ReadOptions {
        format: config.expression_format,
        orientation: config.orientation,
        measure: config.measure,
        wanted: (!config.genes.is_empty()).then(|| genes::wanted_names(&config.genes, map)),
        known_samples: names.map(|n| n.to_ascii_lowercase()).collect(),
    };
    progress.begin("expression", files.len() as u64, "tables");
    let read: Vec<(PathBuf, Result<ExpressionTable>)> = files
        .into_par_iter()
        .map(|path| {
            let table = progress.check().and_then(|()| ExpressionTable::read(&path, &options));
            progress.advance(1);
            (path, table)
        })
        .collect();
    progress.end();
    progress.check()?;
    let mut tables = Vec::new();
    let mut first_error = None;
    for (path, table) in read {
        match table {
            Ok(table) => tables.push(table),
            Err(e) => {
                excluded.push(Excluded::new(ExcludedKind::File, path.display().to_string(), e.to_string()));
                first_error.get_or_insert(e);
            }
        }
    }
    match (tables.is_empty(), first_error) {
        (true, Some(e)) => Err(e),
        _ => Ok(ExpressionTable::merge(tables)),
    }
}

/// The table's samples with what the sheet knows of them, `None` where a sample is left out; and the patients of those.
fn usable_samples(
    config: &CohortConfig,
    table: &ExpressionTable,
    sheet: &SampleSheet,
    excluded: &mut Vec<Excluded>,
) -> (Vec<Option<Sample>>, HashSet<String>) {
    let complete = |sample: &Sample| {
        let mut sample = sample.clone();
        let entry = if sample.name == file_stem(&sample.path) { sheet.of_file(&sample.path) } else { None };
        if let Some(entry) = entry.or_else(|| sheet.of_sample(&sample.name)) {
            let given = |s: &String| Some(s.clone()).filter(|s| !s.is_empty());
            if let Some(name) = given(&entry.sample).or_else(|| given(&entry.patient)) {
                sample.barcode = Barcode::find(&name).or(sample.barcode);
                sample.name = name;
            }
            sample.patient = sample.patient.or_else(|| given(&entry.patient));
            sample.project = sample.project.or_else(|| given(&entry.project));
            sample.sample_type = given(&entry.sample_type);
        }
        sample
    };
    let mut out = Vec::with_capacity(table.samples.len());
    let mut left_out = HashSet::new();
    for sample in table.samples.iter().map(complete) {
        let other = other_than_primary(sample.barcode.as_ref(), sample.sample_type.as_deref());
        match other.filter(|_| config.primary_tumour_only) {
            Some(kind) => {
                let reason = format!("is {kind}, not a primary tumour");
                left_out.extend(sample.patient_name().map(|p| p.to_ascii_lowercase()));
                excluded.push(Excluded::new(ExcludedKind::Sample, sample.name, reason));
                out.push(None);
            }
            None => out.push(Some(sample)),
        }
    }
    (out, left_out)
}

/// Columns of the table for the wanted genes; all where none is named.
fn chosen_genes(
    config: &CohortConfig,
    table: &ExpressionTable,
    map: &GeneMap,
    remarks: &mut Vec<String>,
) -> Result<Vec<usize>> {
    if config.genes.is_empty() {
        // Duplicated genes: the first is kept.
        let mut seen = HashMap::new();
        let mut twice = Vec::new();
        let mut out = Vec::new();
        for (i, gene) in table.genes.iter().enumerate() {
            match seen.insert(gene.key(), i) {
                None => out.push(i),
                Some(_) => twice.push(gene.label()),
            }
        }
        if !twice.is_empty() {
            twice.dedup();
            let first = twice.iter().take(5).copied().collect::<Vec<_>>().join(", ");
            remarks.push(format!("{} genes occur more than once; the first is used ({first}, ...)", twice.len()));
        }
        return Ok(out);
    }
    let index = GeneIndex::new(&table.genes);
    let (mut out, mut unknown) = (Vec::new(), Vec::new());
    for gene in &config.genes {
        match index.find(gene, map) {
            Ok(found) => {
                remarks.extend(found.remark);
                if out.contains(&found.index) {
                    remarks.push(format!("{gene} is asked for twice"));
                } else {
                    out.push(found.index);
                }
            }
            Err(_) => unknown.push(gene),
        }
    }
    if unknown.is_empty() {
        return Ok(out);
    }
    let all = GeneIndex::new(&table.all_genes);
    let words: Vec<String> = unknown
        .iter()
        .map(|gene| match all.find(gene, map) {
            Err(near) if !near.is_empty() => format!("{gene} (near: {})", near.join(", ")),
            _ => gene.to_string(),
        })
        .collect();
    let only_ids = !all.has_symbols() && unknown.iter().any(|g| !genes::is_ensembl(g));
    let remedy = if only_ids {
        "it names genes by Ensembl id only: give ids, or a table of ids and symbols as gene_map"
    } else {
        "correct the names in cohort.genes"
    };
    Err(Error::Usage(format!("{}: has no gene {}; {remedy}", config.expression.join(", "), words.join(", "))))
}

/// A slide with the row of the table it is matched with.
struct Matched {
    slide: FoundSlide,
    patient: String,
    row: usize,
}

type RowsByName = BTreeMap<String, Vec<usize>>;

/// Rows of the table by everything they are called, in lower case.
#[derive(Default)]
struct SampleIndex {
    by_name: RowsByName,
    by_vial: RowsByName,
    by_sample: RowsByName,
    by_patient: RowsByName,
}

impl SampleIndex {
    fn new(samples: &[Option<Sample>]) -> SampleIndex {
        let mut index = SampleIndex::default();
        let mut order: Vec<usize> = (0..samples.len()).filter(|&i| samples[i].is_some()).collect();
        order.sort_by_key(|&i| samples[i].as_ref().map(|s| s.name.clone()));
        for i in order {
            let Some(sample) = &samples[i] else { continue };
            let mut add = |map: fn(&mut SampleIndex) -> &mut RowsByName, key: Option<String>| {
                if let Some(key) = key {
                    map(&mut index).entry(key.to_ascii_lowercase()).or_default().push(i);
                }
            };
            add(|x| &mut x.by_name, Some(sample.name.clone()));
            let start = before_dot(&sample.name);
            if start != sample.name {
                add(|x| &mut x.by_name, Some(start.to_string()));
            }
            let barcode = sample.barcode.as_ref();
            add(|x| &mut x.by_vial, barcode.and_then(Barcode::sample_vial));
            add(|x| &mut x.by_sample, barcode.and_then(Barcode::sample));
            add(|x| &mut x.by_patient, sample.patient_name().or_else(|| Some(sample.name.clone())));
        }
        index
    }

    /// The rows of a slide, at the first level that has any.
    fn find(&self, slide: &FoundSlide, patient: &str, by: MatchBy) -> &[usize] {
        let levels: [(&RowsByName, Option<String>); 6] = [
            (&self.by_name, Some(slide.id.clone())),
            (&self.by_name, Some(before_dot(&slide.id).to_string())),
            (&self.by_name, slide.sample.clone()),
            (&self.by_vial, slide.barcode.as_ref().and_then(Barcode::sample_vial)),
            (&self.by_sample, slide.barcode.as_ref().and_then(Barcode::sample)),
            (&self.by_patient, Some(patient.to_string())),
        ];
        let allowed = match by {
            MatchBy::Auto => 0..6,
            MatchBy::Sample => 0..5,
            MatchBy::Patient => 5..6,
        };
        for (map, key) in &levels[allowed] {
            if let Some(rows) = key.as_ref().and_then(|k| map.get(&k.to_ascii_lowercase())) {
                return rows;
            }
        }
        if by != MatchBy::Sample && slide.barcode.is_none() && slide.patient.is_none() {
            // "C3L-00001-21" is a slide of the patient "C3L-00001".
            let mut start = slide.id.to_ascii_lowercase();
            while let Some(end) = start.rfind(['-', '_', '.', ' ']) {
                start.truncate(end);
                if let Some(rows) = self.by_name.get(&start).or_else(|| self.by_patient.get(&start)) {
                    return rows;
                }
            }
        }
        &[]
    }
}

fn match_slides(
    config: &CohortConfig,
    slides: Vec<FoundSlide>,
    samples: &[Option<Sample>],
    no_tumour: &HashSet<String>,
    excluded: &mut Vec<Excluded>,
) -> Vec<Matched> {
    let index = SampleIndex::new(samples);
    let mut used: HashMap<usize, String> = HashMap::new();
    let mut passed_over: BTreeMap<usize, usize> = BTreeMap::new();
    let mut out = Vec::new();
    for slide in slides {
        let barcode = slide.barcode.as_ref();
        let patient =
            slide.patient.clone().or_else(|| barcode.map(Barcode::patient)).unwrap_or_else(|| slide.id.clone());
        let kind = barcode.and_then(|b| b.sample_type);
        let agrees = |row: usize| {
            let other = samples[row].as_ref().and_then(|s| s.barcode.as_ref()).and_then(|b| b.sample_type);
            config.match_by == MatchBy::Patient || kind.is_none() || other.is_none() || kind == other
        };
        let found = index.find(&slide, &patient, config.match_by);
        let rows: Vec<usize> = found.iter().copied().filter(|&r| agrees(r)).collect();
        let Some((&row, others)) = rows.split_first() else {
            let reason = match barcode.and_then(Barcode::sample) {
                _ if no_tumour.contains(&patient.to_ascii_lowercase()) => {
                    format!("has no expression: patient {patient} has only samples that are no primary tumour")
                }
                Some(sample) => {
                    format!("has no expression: neither sample {sample} nor patient {patient} is in the table")
                }
                None => format!("has no expression: patient {patient} is not in the table"),
            };
            excluded.push(Excluded::new(ExcludedKind::Slide, slide.id, reason));
            continue;
        };
        used.entry(row).or_insert_with(|| slide.id.clone());
        passed_over.extend(others.iter().map(|&other| (other, row)));
        let of_sample = || samples[row].as_ref().map(|s| s.patient_name().unwrap_or_else(|| s.name.clone()));
        let known = slide.patient.clone().or_else(|| barcode.map(Barcode::patient));
        let patient = known.or_else(of_sample).map_or(patient, |name| patient_name(&name));
        out.push(Matched { slide, patient, row });
    }
    for (row, sample) in samples.iter().enumerate() {
        let Some(sample) = sample.as_ref().filter(|_| !used.contains_key(&row)) else { continue };
        let reason = match passed_over.get(&row).and_then(|r| samples[*r].as_ref()) {
            Some(other) => format!("is another sample of the same patient; {} is used", other.name),
            None => "has no slide".to_string(),
        };
        excluded.push(Excluded::new(ExcludedKind::Sample, sample.name.clone(), reason));
    }
    out
}

/// Transforms the used part of the table and drops what has missing values.
fn assemble(
    config: &CohortConfig,
    table: &ExpressionTable,
    samples: &[Option<Sample>],
    chosen: Vec<usize>,
    matched: Vec<Matched>,
    mut remarks: Vec<String>,
    excluded: &mut Vec<Excluded>,
) -> Result<Cohort> {
    let mut rows: Vec<usize> = matched.iter().map(|m| m.row).collect();
    rows.sort_unstable();
    rows.dedup();
    let value = |row: usize, gene: usize| table.sample_values(row)[gene];
    let named = !config.genes.is_empty();
    let kept: Vec<usize> = chosen
        .into_iter()
        .filter(|&g| {
            let column: Vec<f64> = rows.iter().map(|&r| value(r, g)).collect();
            let missing = column.iter().filter(|v| v.is_nan()).count();
            if missing as f64 > config.max_missing_fraction * rows.len() as f64 {
                let reason = format!("has no value in {missing} of {} samples", rows.len());
                excluded.push(Excluded::new(ExcludedKind::Gene, table.genes[g].label(), reason));
                return false;
            }
            named || stats::median(&column).is_some_and(|m| m != 0.0)
        })
        .collect();
    if kept.is_empty() {
        let problem = "none of the genes has values (or all medians are zero)";
        return Err(Error::Usage(format!("{}: {problem}; name genes in cohort.genes", config.expression.join(", "))));
    }
    if config.table_scale == TableScale::Linear && config.transform != Transform::None {
        let largest = rows.iter().flat_map(|&r| kept.iter().map(move |&g| value(r, g))).fold(0.0f64, |m, v| m.max(v));
        if largest < 30.0 && rows.len() * kept.len() >= 20 {
            remarks.push(format!(
                "no expression value exceeds {largest:.1}: if the table is on a log scale already, state cohort.table_scale"
            ));
        }
    }
    let mut cohort = Cohort {
        genes: kept.iter().map(|&g| table.genes[g].clone()).collect(),
        slides: Vec::new(),
        patients: Vec::new(),
        samples: Vec::new(),
        targets: Vec::new(),
        transform: config.transform,
        remarks,
    };
    let mut place: HashMap<usize, usize> = HashMap::new();
    let mut patients: BTreeMap<String, PatientEntry> = BTreeMap::new();
    for Matched { slide, patient, row } in matched {
        let Some(sample) = &samples[row] else { continue };
        if let Some(&gene) = kept.iter().find(|&&g| value(row, g).is_nan()) {
            let reason = format!("has no value of {} in its sample {}", table.genes[gene].label(), sample.name);
            excluded.push(Excluded::new(ExcludedKind::Slide, slide.id, reason));
            continue;
        }
        let sample_index = match place.get(&row) {
            Some(&i) => i,
            None => {
                for &gene in &kept {
                    let target = config.transform.apply(value(row, gene), config.table_scale).filter(|t| t.is_finite());
                    cohort.targets.push(target.ok_or_else(|| {
                        let problem = format!("{} is {} in {}", table.genes[gene].label(), value(row, gene), sample.name);
                        let remedy = "the table is on another scale than stated: set cohort.table_scale, or transform = \"none\"";
                        Error::input(&sample.path, format!("{problem}, which has no logarithm"), remedy)
                    })?);
                }
                cohort.samples.push(sample.clone());
                place.insert(row, cohort.samples.len() - 1);
                cohort.samples.len() - 1
            }
        };
        let project = slide.project.clone().or_else(|| sample.project.clone());
        let project = project.map(|p| config.project_groups.get(&p).cloned().unwrap_or(p));
        let barcode = slide.barcode.as_ref().or(sample.barcode.as_ref());
        let site = slide.site.clone().or_else(|| barcode.map(|b| b.site.clone()));
        let entry = patients.entry(patient.clone()).or_insert_with(|| PatientEntry {
            id: patient.clone(),
            site: site.clone(),
            project: project.clone(),
            slides: Vec::new(),
        });
        entry.slides.push(cohort.slides.len());
        cohort.slides.push(SlideEntry {
            id: slide.id,
            path: slide.path,
            patient,
            patient_index: 0,
            sample: sample.name.clone(),
            sample_index,
            site,
            project,
            mpp: slide.mpp,
        });
    }
    if cohort.slides.is_empty() {
        return Err(Error::Usage("every slide's expression has missing values; name other genes".to_string()));
    }
    cohort.patients = patients.into_values().collect();
    for (index, patient) in cohort.patients.iter().enumerate() {
        patient.slides.iter().for_each(|&s| cohort.slides[s].patient_index = index);
    }
    Ok(cohort)
}
