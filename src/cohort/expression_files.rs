//! Which files of a folder hold expression, and reading all of them at once.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::{
    cohort::{
        config::CohortConfig,
        expression::{ExpressionTable, ReadOptions},
        findings::{ExcludedKind, Findings},
        gdc::Manifest,
        genes::{self, GeneMap},
        merge::side_by_side,
        names::{folded, make_names},
        slides::{FoundSlide, expand, is_table, walk},
    },
    error::{Error, Result},
    io::table::plain_name,
    progress::Progress,
};

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

/// Why a file beside expression tables, which seems to be one, is not read.
fn unread_table(path: &Path) -> Option<&'static str> {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let ends = |endings: &[&str]| !name.starts_with('.') && endings.iter().any(|e| name.ends_with(e));
    if ends(&[".xlsx", ".xls", ".ods", ".parquet", ".feather", ".h5", ".h5ad", ".loom", ".rds", ".rdata", ".rda"]) {
        Some("is of a format that is not read: save it as TSV or CSV")
    } else if ends(&[".tar", ".tar.gz", ".tgz", ".zip", ".bz2", ".xz", ".zst"]) {
        Some("is packed: unpack it, or use gzip for single tables")
    } else if ends(&[".partial", ".part", ".crdownload"]) {
        Some("is an unfinished download: download it again")
    } else {
        None
    }
}

fn expression_files(config: &CohortConfig, findings: &mut Findings) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for specification in &config.expression {
        for path in expand(specification)? {
            if path.is_dir() {
                let before = files.len();
                walk(&path, 0, &mut |p| {
                    if let Some(reason) = unread_table(p) {
                        findings.leave_out(ExcludedKind::File, p.display().to_string(), reason);
                    } else if is_expression_file(p) {
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
pub(super) fn read(
    config: &CohortConfig,
    map: &GeneMap,
    slides: &[FoundSlide],
    findings: &mut Findings,
    progress: &dyn Progress,
) -> Result<ExpressionTable> {
    let files = expression_files(config, findings)?;
    if let Some(path) = &config.manifest {
        let problems = Manifest::read(path)?.problems(&files);
        problems.into_iter().for_each(|(name, why)| findings.leave_out(ExcludedKind::File, name, why));
    }
    let names =
        slides.iter().flat_map(|s| [Some(s.id.clone()), s.sample.clone(), s.known_patient()].into_iter().flatten());
    let names = names.flat_map(|n| [folded(&n), folded(&make_names(&n))]);
    let options = ReadOptions {
        format: config.expression_format,
        orientation: config.orientation,
        measure: config.measure,
        wanted: (!config.genes.is_empty()).then(|| genes::wanted_names(&config.genes, map)),
        known_samples: names.collect(),
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
                findings.leave_out(ExcludedKind::File, path.display().to_string(), e.to_string());
                first_error.get_or_insert(e);
            }
        }
    }
    match (tables.is_empty(), first_error) {
        (true, Some(e)) => Err(e),
        _ => {
            let mut table = side_by_side(tables);
            findings.excluded.append(&mut table.left_out);
            Ok(table)
        }
    }
}
