//! Labels of patients: microsatellite instability (MSI), as HE2RNA's and GDC's tables give it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    cohort::barcode::Barcode,
    error::{Error, Result},
    io::table::{Table, is_missing, plain_name},
};

/// Columns that hold patients in people's tables, in order of preference.
pub const PATIENT_COLUMNS: [&str; 9] = [
    "patient",
    "patient_id",
    "case",
    "case_id",
    "case_submitter_id",
    "submitter_id",
    "bcr_patient_barcode",
    "subject",
    "subject_id",
];

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum MsiStatus {
    /// Microsatellite instable, high.
    High,
    /// Low: neither class for most authors.
    Low,
    /// Microsatellite stable.
    Stable,
    Indeterminate,
}

impl MsiStatus {
    /// Reads the spellings in use: MSI-H, MSIH, MSIMUT, MSS, MSI-L, Indeterminate.
    pub fn parse(text: &str) -> Option<MsiStatus> {
        Some(match plain_name(text).as_str() {
            "msih" | "msihigh" | "msimut" | "msi" => MsiStatus::High,
            "msil" | "msilow" => MsiStatus::Low,
            "mss" | "stable" => MsiStatus::Stable,
            "indeterminate" | "nottested" | "unknown" => MsiStatus::Indeterminate,
            _ => return None,
        })
    }
}

/// What becomes of MSI-L patients in a two-class task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MsiLow {
    /// Left out, as HE2RNA.
    #[default]
    Drop,
    /// Counted as stable, as Kather et al.
    Stable,
}

/// MSI status by patient.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MsiLabels {
    pub by_patient: BTreeMap<String, MsiStatus>,
    /// Patients whom the table gives two different statuses; they are left out.
    pub contradictory: Vec<String>,
}

impl MsiLabels {
    /// Reads a table with a column of patients and one of statuses, whatever they are called (HE2RNA's call them `0` and
    /// `1`): the columns are told by their contents.
    pub fn read(path: impl AsRef<Path>) -> Result<MsiLabels> {
        let table = Table::read(path)?;
        let share = |column: usize, is: &dyn Fn(&str) -> bool| {
            let present: Vec<&str> = table.rows.iter().map(|r| r.get(column)).filter(|v| !is_missing(v)).collect();
            (!present.is_empty()) && present.iter().filter(|v| is(v)).count() * 10 >= present.len() * 9
        };
        let columns = 0..table.header.len();
        let status = columns.clone().find(|&c| share(c, &|v| MsiStatus::parse(v).is_some()));
        let named = table.column(&PATIENT_COLUMNS)?;
        let patient = columns.clone().find(|&c| share(c, &|v| Barcode::find(v).is_some())).or(named);
        let (Some(status), Some(patient)) = (status, patient) else {
            let problem = "has no column of MSI statuses, or none of patients";
            return Err(Error::input(&table.path, problem, "give the columns patient and msi (MSI-H, MSS, MSI-L)"));
        };
        let mut labels = MsiLabels::default();
        let mut contradictory = BTreeSet::new();
        for row in table.rows.iter().filter(|r| !is_missing(r.get(patient)) && !is_missing(r.get(status))) {
            let name = patient_name(row.get(patient));
            let Some(value) = MsiStatus::parse(row.get(status)) else {
                let problem = format!("{name}: MSI status {:?} is unknown", row.get(status));
                return Err(Error::input(&table.path, problem, "write MSI-H, MSI-L, MSS or Indeterminate"));
            };
            if labels.by_patient.insert(name.clone(), value).is_some_and(|before| before != value) {
                contradictory.insert(name);
            }
        }
        labels.by_patient.retain(|name, _| !contradictory.contains(name));
        labels.contradictory = contradictory.into_iter().collect();
        Ok(labels)
    }

    /// Whether a patient is MSI-H; `None` where the label decides nothing.
    pub fn positive(&self, patient: &str, low: MsiLow) -> Option<bool> {
        match self.by_patient.get(&patient_name(patient))? {
            MsiStatus::High => Some(true),
            MsiStatus::Stable => Some(false),
            MsiStatus::Low => (low == MsiLow::Stable).then_some(false),
            MsiStatus::Indeterminate => None,
        }
    }
}

/// A patient's name: that of the barcode within the text, or the text itself.
pub fn patient_name(text: &str) -> String {
    Barcode::find(text).map_or_else(|| text.trim().to_string(), |b| b.patient())
}
