//! A cohort: slides with the expression of their patients.
//!
//! One slide or table that cannot be used does not stop the others: it is left out and listed with the reason
//! ([`Findings`]). A gene that was asked for and is nowhere, names that fit two things, tables that contradict one
//! another, or a cohort of which nothing is left, are errors.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{
    cohort::{
        assemble::{assemble, rows_in_use},
        barcode::{Barcode, CptacName, sample_type_name},
        chosen_genes::{chosen_genes, with_values},
        config::CohortConfig,
        expression::{ExpressionTable, Sample, file_stem},
        expression_files,
        findings::{Excluded, ExcludedKind, Findings},
        gdc::SampleSheet,
        genes::{GeneMap, GeneName},
        labels::{Classes, LabelTable},
        matching::match_slides,
        names::folded,
        patients,
        slides::{FoundSlide, find_slides},
        splits::SplitPatient,
        targets::Transform,
    },
    error::{Error, Result},
    io::table::plain_name,
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
    /// What the targets stand for where they are labels.
    pub classes: Option<Classes>,
    /// Choices worth knowing: a gene that occurs twice, a table that may be on a log scale.
    pub remarks: Vec<String>,
}

impl Cohort {
    /// Reads and matches everything. See [`CohortConfig`]. `findings` is filled as far as this comes, also where it ends
    /// with an error.
    pub fn load(config: &CohortConfig, findings: &mut Findings, progress: &dyn Progress) -> Result<Cohort> {
        config.check()?;
        let labels = config.labels.as_ref().map(|path| LabelTable::read(path, config.label_low)).transpose()?;
        // Classes are targets as they are.
        let as_they_are = CohortConfig { transform: Transform::None, ..config.clone() };
        let config = if labels.is_some() { &as_they_are } else { config };
        let sheet = config.sample_sheet.as_ref().map(SampleSheet::read).transpose()?.unwrap_or_default();
        let map = config.gene_map.as_ref().map(GeneMap::read).transpose()?.unwrap_or_default();
        let slides = usable_slides(config, &sheet, findings)?;
        let mut table = match &labels {
            Some(labels) => labels.samples(),
            None => expression_files::read(config, &map, &slides, findings, progress)?,
        };
        let (samples, mut without) = usable_samples(config, &table, &sheet, findings);
        if let Some(labels) = &labels {
            labels.leave_out_undecided(findings, &mut without);
        }
        let mut remarks: Vec<String> = numbered_copies(&samples).into_iter().collect();
        let mut matched = match_slides(slides, &samples, &without, config, &table, findings)?;
        if matched.is_empty() {
            return Err(nothing_matched(config, findings));
        }
        let other_tissue = findings.matching.iter().filter(|m| m.rule.contains(NOT_PRIMARY)).count();
        if other_tissue > 0 {
            let remedy = "cohort.primary_tumour_only = false uses them";
            remarks.push(format!("{other_tissue} slides show other tissue than a primary tumour; {remedy}"));
        }
        patients::settle(&mut matched, &samples, &table, &mut remarks)?;
        let patient_of: HashMap<&str, &str> = matched.iter().map(|m| (&*m.slide.id, &*m.patient)).collect();
        for row in &mut findings.matching {
            if let Some(patient) = patient_of.get(&*row.slide) {
                row.patient = patient.to_string();
            }
        }
        let rows = rows_in_use(&matched);
        let (chosen, classes) = match &labels {
            Some(labels) => {
                let classes = labels.one_hot(&mut table, &rows)?;
                ((0..table.genes.len()).collect(), Some(classes))
            }
            None => {
                let chosen = chosen_genes(config, &table, &map, &mut remarks)?;
                (with_values(config, &table, chosen, &rows, findings, &mut remarks)?, None)
            }
        };
        let mut cohort = assemble(config, &table, &samples, chosen, matched, remarks, findings)?;
        if let Some(classes) = classes {
            cohort.remarks.push(classes.describe(&cohort.class_counts(&classes)));
            cohort.classes = Some(classes);
        }
        for gene in cohort.genes.iter_mut().filter(|g| g.symbol.is_none()) {
            gene.symbol = gene.ensembl.as_deref().and_then(|id| map.symbol_of(id)).map(str::to_string);
        }
        cohort.remarks.iter().for_each(|remark| progress.note(remark));
        Ok(cohort)
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
        let entry = |p: &PatientEntry| SplitPatient {
            id: p.id.clone(),
            site: p.site.clone(),
            project: p.project.clone(),
            label: self.classes.as_ref().map(|classes| classes.names[self.class_of(p, classes)].clone()),
        };
        self.patients.iter().map(entry).collect()
    }

    /// A patient's class: as the targets of their first slide say, since labels are the patients'.
    fn class_of(&self, patient: &PatientEntry, classes: &Classes) -> usize {
        let targets = patient.slides.first().map_or(&[][..], |&slide| self.target(slide));
        let hot = targets.iter().position(|t| *t == 1.0);
        if classes.names.len() == 2 { usize::from(hot.is_some()) } else { hot.unwrap_or_default() }
    }

    /// Patients by class.
    fn class_counts(&self, classes: &Classes) -> Vec<usize> {
        let mut counts = vec![0; classes.names.len()];
        self.patients.iter().for_each(|patient| counts[self.class_of(patient, classes)] += 1);
        counts
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

/// What a slide or a sample is left out for, where it is known to be no primary tumour.
const NOT_PRIMARY: &str = "not a primary tumour";

/// Why no slide is left, with the remedy that helps most of them.
fn nothing_matched(config: &CohortConfig, findings: &Findings) -> Error {
    let of_slides: Vec<&Excluded> = findings.excluded.iter().filter(|e| e.kind == ExcludedKind::Slide).collect();
    let count = |words: &str| of_slides.iter().filter(|e| e.reason.contains(words)).count();
    let n = of_slides.len();
    // Normal tissue is no help to anybody.
    let of_tumour = |e: &&Excluded| e.reason.contains(NOT_PRIMARY) && !e.reason.contains("normal");
    let only_other_samples = findings.excluded.iter().any(|e| e.kind == ExcludedKind::Sample && of_tumour(&e));
    let without_primary = if only_other_samples { count("only samples that are no primary tumour") } else { 0 };
    let other_tissue = of_slides.iter().copied().filter(of_tumour).count() + without_primary;
    let (zeros, alike) = (count("leading zeros"), count("is alike"));
    let remedy = if other_tissue > 0 && other_tissue * 2 >= n && config.primary_tumour_only {
        "set cohort.primary_tumour_only = false to use them"
    } else if zeros > 0 && zeros * 2 >= n {
        "write the names as text, with their zeros, or give a table slide,patient"
    } else if alike > 0 {
        "names match whole: give a table slide,patient that says whose slides they are"
    } else {
        "check the sample sheet, or give a table slide,patient"
    };
    let first = of_slides.first().map_or(String::new(), |e| format!(" ({} {})", e.name, e.reason));
    Error::Usage(format!("none of the {n} slides has {}{first}; {remedy}", config.wanted()))
}

/// The slides, with patient, site and project filled in, without normal tissue.
fn usable_slides(config: &CohortConfig, sheet: &SampleSheet, findings: &mut Findings) -> Result<Vec<FoundSlide>> {
    let (found, left_out) = find_slides(&config.slides)?;
    left_out.iter().for_each(|(name, reason)| findings.leave_out_slide(name, None, reason));
    if found.is_empty() {
        let why = left_out.first().map_or(String::new(), |(name, reason)| format!(" ({name} {reason})"));
        let places = config.slides.join(", ");
        return Err(Error::Usage(format!("no slide found in {places}{why}; name slides or their folder")));
    }
    let mut out = Vec::new();
    for mut slide in found {
        let entry = sheet.of_file(&slide.path);
        if let Some(reason) = entry.and_then(|e| e.contradiction.as_ref()) {
            findings.leave_out_slide(&slide.id, slide.known_patient(), reason);
            continue;
        }
        if let Some(entry) = entry {
            let given = |s: &String| Some(s.clone()).filter(|s| !s.is_empty());
            slide.patient = slide.patient.or_else(|| given(&entry.patient));
            slide.sheet_sample = given(&entry.sample);
            slide.project = slide.project.or_else(|| given(&entry.project));
            slide.barcode = slide.barcode.or_else(|| Barcode::find(&entry.sample));
        }
        if let Some(sample) = &slide.sample {
            slide.barcode = Barcode::find(sample).or(slide.barcode);
        }
        let words = entry.map(|e| e.sample_type.as_str());
        let kind = other_than_primary(slide.barcode.as_ref(), slide.cptac().as_ref(), words);
        if let Some(kind) = kind.filter(|_| config.primary_tumour_only) {
            let reason = format!("shows {kind}, {NOT_PRIMARY}");
            findings.leave_out_slide(&slide.id, slide.known_patient(), &reason);
            continue;
        }
        out.push(slide);
    }
    if out.is_empty() {
        return Err(nothing_matched(config, findings));
    }
    Ok(out)
}

/// What a sample is, where it is known to be no primary tumour: by its name, or else by a sheet's words.
fn other_than_primary(barcode: Option<&Barcode>, cptac: Option<&CptacName>, words: Option<&str>) -> Option<String> {
    if let Some(barcode) = barcode
        && let (Some(primary), Some(code)) = (barcode.is_primary_tumour(), barcode.sample_type)
    {
        return (!primary).then(|| sample_type_name(code).to_string());
    }
    if let Some(normal) = cptac.and_then(|c| c.normal) {
        return normal.then(|| "normal tissue".to_string());
    }
    let words = words.filter(|w| !w.is_empty())?;
    let plain = plain_name(words);
    let primary = plain.starts_with("primarytum") || matches!(plain.as_str(), "tumor" | "tumour" | "primary");
    (!primary).then(|| words.to_lowercase())
}

/// The table's samples with what the sheet knows of them, `None` where a sample is left out; and of the patients of those
/// why they have none.
fn usable_samples(
    config: &CohortConfig,
    table: &ExpressionTable,
    sheet: &SampleSheet,
    findings: &mut Findings,
) -> (Vec<Option<Sample>>, HashMap<String, String>) {
    let mut out = Vec::with_capacity(table.samples.len());
    let mut without = HashMap::new();
    let mut first_of: HashMap<String, Vec<usize>> = HashMap::new();
    for (row, sample) in table.samples.iter().enumerate() {
        let mut sample = sample.clone();
        let entry = if sample.name == file_stem(&sample.path) { sheet.of_file(&sample.path) } else { None };
        let entry = entry.or_else(|| sheet.of_sample(&sample.name));
        if let Some(reason) = entry.and_then(|e| e.contradiction.as_ref()) {
            findings.leave_out(ExcludedKind::Sample, sample.name, reason);
            out.push(None);
            continue;
        }
        if let Some(entry) = entry {
            let given = |s: &String| Some(s.clone()).filter(|s| !s.is_empty());
            if let Some(name) = given(&entry.sample).or_else(|| given(&entry.patient)) {
                sample.barcode = Barcode::find(&name).or(sample.barcode);
                sample.name = name;
            }
            sample.patient = sample.patient.or_else(|| given(&entry.patient));
            sample.project = sample.project.or_else(|| given(&entry.project));
            sample.sample_type = given(&entry.sample_type);
        }
        let kind = other_than_primary(sample.barcode.as_ref(), sample.cptac().as_ref(), sample.sample_type.as_deref());
        if let Some(kind) = kind.filter(|_| config.primary_tumour_only) {
            let only = || "has only samples that are no primary tumour".to_string();
            without.extend(sample.patient_name().map(|p| (folded(&p), only())));
            findings.leave_out(ExcludedKind::Sample, sample.name, format!("is {kind}, {NOT_PRIMARY}"));
            out.push(None);
            continue;
        }
        // A sample that is there twice is one where its values agree; where not, matching refuses to choose.
        let same_name = first_of.entry(sample.name.clone()).or_default();
        let same_patient =
            |first: usize| table.samples[first].patient.as_deref().map(folded) == sample.patient.as_deref().map(folded);
        if same_name.iter().any(|&first| table.same_values(first, row) && same_patient(first)) {
            findings.leave_out(ExcludedKind::Sample, sample.name, "is there twice with the same values; one is used");
            out.push(None);
            continue;
        }
        same_name.push(row);
        out.push(Some(sample));
    }
    (out, without)
}

/// R and pandas write a second column `P01` as `P01.1`: says where a table has both, since it cannot be known.
fn numbered_copies(samples: &[Option<Sample>]) -> Option<String> {
    let columns: HashSet<&str> = samples.iter().flatten().map(|s| s.column.as_str()).collect();
    let copies = samples.iter().flatten().filter_map(|sample| {
        let (first, number) = sample.column.rsplit_once('.')?;
        let numbered = (1..=2).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
        (numbered && columns.contains(first)).then_some((first, sample.column.as_str()))
    });
    let copies: Vec<(&str, &str)> = copies.collect();
    let (first, second) = copies.first()?;
    let n = copies.len();
    Some(format!(
        "{second} may be a second column {first}, as R and pandas write it ({n} such columns): check the table"
    ))
}
