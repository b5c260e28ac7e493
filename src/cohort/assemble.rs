//! A cohort out of matched slides: targets, patients, what has no value.

use std::collections::{BTreeMap, HashMap};

use crate::{
    cohort::{
        CohortConfig,
        expression::{ExpressionTable, Sample},
        findings::{ExcludedKind, Findings},
        load::{Cohort, PatientEntry, SlideEntry},
        matching::Matched,
        targets::{TableScale, Transform},
    },
    error::{Error, Result},
};

/// Rows of the table that slides are matched with.
pub(super) fn rows_in_use(matched: &[Matched]) -> Vec<usize> {
    let mut rows: Vec<usize> = matched.iter().map(|m| m.row).collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// Transforms the used part of the table and drops what has missing values.
pub(super) fn assemble(
    config: &CohortConfig,
    table: &ExpressionTable,
    samples: &[Option<Sample>],
    kept: Vec<usize>,
    matched: Vec<Matched>,
    mut remarks: Vec<String>,
    findings: &mut Findings,
) -> Result<Cohort> {
    let rows = rows_in_use(&matched);
    let value = |row: usize, gene: usize| table.sample_values(row)[gene];
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
        classes: None,
        remarks,
    };
    let mut place: HashMap<usize, usize> = HashMap::new();
    let mut patients: BTreeMap<String, PatientEntry> = BTreeMap::new();
    for Matched { slide, patient, row } in matched {
        let Some(sample) = &samples[row] else { continue };
        if let Some(&gene) = kept.iter().find(|&&g| value(row, g).is_nan()) {
            let reason = format!("has no value of {} in its sample {}", table.genes[gene].label(), sample.name);
            if let Some(row) = findings.matching.iter_mut().find(|m| m.slide == slide.id) {
                (row.sample, row.column, row.rule) = (String::new(), String::new(), reason.clone());
            }
            findings.leave_out(ExcludedKind::Slide, slide.id, reason);
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
        let site = slide.site.clone().or_else(|| barcode.and_then(|b| b.site().map(str::to_string)));
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
