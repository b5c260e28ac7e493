//! Which sites are one institution: a table `code,institution`, such as GDC's list of tissue source sites.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::splits::SplitPatient;
use crate::{
    error::{Error, Result},
    io::table::{Table, is_missing},
};

/// Institutions by the codes of their sites.
pub(super) struct Institutions {
    path: PathBuf,
    by_code: BTreeMap<String, String>,
}

/// A code without case; two-digit codes may have lost their zero in a spreadsheet.
fn plain_code(code: &str) -> String {
    let code = code.trim().to_ascii_uppercase();
    if code.len() == 1 && code.bytes().all(|b| b.is_ascii_digit()) { format!("0{code}") } else { code }
}

impl Institutions {
    /// Errors where a column is missing, or a code belongs to two institutions.
    pub fn read(path: &Path) -> Result<Institutions> {
        let table = Table::read(path)?;
        let code = table.required(&["code", "tss_code", "site", "site_code", "tss", "tissue_source_site"])?;
        let institution =
            table.required(&["institution", "source_site", "institution_name", "hospital", "center", "centre"])?;
        let mut lines: BTreeMap<String, u64> = BTreeMap::new();
        let mut by_code: BTreeMap<String, String> = BTreeMap::new();
        for row in table.rows.iter().filter(|r| !is_missing(r.get(institution))) {
            // "NA" is a code of TCGA's.
            let code = plain_code(row.get(code));
            if code.is_empty() {
                let problem = format!("line {} has no code", row.line);
                return Err(Error::input(path, problem, "write code,institution in every row"));
            }
            let name = row.get(institution).split_whitespace().collect::<Vec<_>>().join(" ");
            if let Some(first) = by_code.get(&code)
                && !first.eq_ignore_ascii_case(&name)
            {
                let problem = format!("lines {} and {}: {code} is {first} and {name}", lines[&code], row.line);
                return Err(Error::input(path, problem, "keep one of them"));
            }
            lines.entry(code.clone()).or_insert(row.line);
            by_code.entry(code).or_insert(name);
        }
        Ok(Institutions { path: path.to_path_buf(), by_code })
    }

    /// Puts institutions in the place of codes. Returns a remark about codes that the table lacks; each is a site of its
    /// own.
    pub fn replace_codes(&self, patients: &mut [SplitPatient]) -> Option<String> {
        let mut unknown = BTreeSet::new();
        for patient in patients {
            let Some(site) = &mut patient.site else { continue };
            match self.by_code.get(&plain_code(site)) {
                Some(institution) => *site = institution.to_lowercase(),
                None => drop(unknown.insert(site.clone())),
            }
        }
        let first = unknown.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        let lacks =
            |n| format!("{}: lacks {n} site codes ({first}); each counts as an institution", self.path.display());
        (!unknown.is_empty()).then(|| lacks(unknown.len()))
    }
}
