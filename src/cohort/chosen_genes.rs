//! Which genes of a table are predicted.

use std::collections::HashMap;

use crate::{
    cohort::{
        CohortConfig,
        expression::ExpressionTable,
        findings::{ExcludedKind, Findings},
        genes::{self, GeneIndex, GeneMap},
        not_genes::{date_of_gene, excel_date},
    },
    error::{Error, Result},
    eval::stats,
};

/// Columns of the table for the wanted genes; all where none is named.
pub(super) fn chosen_genes(
    config: &CohortConfig,
    table: &ExpressionTable,
    map: &GeneMap,
    remarks: &mut Vec<String>,
) -> Result<Vec<usize>> {
    if config.genes.is_empty() {
        return Ok(every_gene(table, remarks));
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
    let mut dates: Vec<&str> = table.all_genes.iter().map(|g| g.label()).filter(|l| excel_date(l).is_some()).collect();
    dates.dedup();
    let only_ids = !all.has_symbols() && unknown.iter().any(|g| !genes::is_ensembl(g));
    let remedy = if !dates.is_empty() && unknown.iter().any(|g| date_of_gene(g)) {
        let shown = dates.iter().take(3).copied().collect::<Vec<_>>().join(", ");
        format!(
            "{shown} in the table are dates that Excel made of genes' names (MARCH1 and MARC1 become 1-Mar, SEPT2 becomes 2-Sep): take the table from before it was opened there, or restore the names"
        )
    } else if only_ids {
        "it names genes by Ensembl id only: give ids, or a table of ids and symbols as gene_map".to_string()
    } else {
        "correct the names in cohort.genes".to_string()
    };
    Err(Error::Usage(format!("{}: has no gene {}; {remedy}", config.expression.join(", "), words.join(", "))))
}

/// Duplicated genes: the first is kept.
fn every_gene(table: &ExpressionTable, remarks: &mut Vec<String>) -> Vec<usize> {
    let mut seen = HashMap::new();
    let (mut out, mut twice) = (Vec::new(), Vec::new());
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
    out
}

/// Of the chosen genes those with values in the rows in use. A named gene without is an error.
pub(super) fn with_values(
    config: &CohortConfig,
    table: &ExpressionTable,
    chosen: Vec<usize>,
    rows: &[usize],
    findings: &mut Findings,
    remarks: &mut Vec<String>,
) -> Result<Vec<usize>> {
    let named = !config.genes.is_empty();
    let (mut kept, mut without, mut zero) = (Vec::new(), Vec::new(), 0usize);
    for gene in chosen {
        let column: Vec<f64> = rows.iter().map(|&r| table.sample_values(r)[gene]).collect();
        let missing = column.iter().filter(|v| v.is_nan()).count();
        let label = table.genes[gene].label();
        if missing as f64 > config.max_missing_fraction * rows.len() as f64 {
            without.push(format!("{label} in {missing} of {} samples", rows.len()));
            let reason = format!("has no value in {missing} of {} samples", rows.len());
            findings.leave_out(ExcludedKind::Gene, label, reason);
        } else if named || stats::median(&column).is_some_and(|m| m != 0.0) {
            kept.push(gene);
            if named && missing > 0 {
                let n = rows.len();
                remarks.push(format!("{label} has no value in {missing} of {n} samples, whose slides are left out"));
            }
        } else {
            zero += 1;
        }
    }
    let files = config.expression.join(", ");
    if named && !without.is_empty() {
        let remedy = "leave it out of cohort.genes, fill in its values, or raise cohort.max_missing_fraction and lose those slides";
        return Err(Error::Usage(format!("{files}: has no value of {}; {remedy}", without.join(", "))));
    }
    if zero > 0 {
        remarks.push(format!("{zero} genes whose median is zero are left out"));
    }
    if kept.is_empty() {
        let problem = "none of the genes has values (or all medians are zero)";
        return Err(Error::Usage(format!("{files}: {problem}; name genes in cohort.genes")));
    }
    Ok(kept)
}
