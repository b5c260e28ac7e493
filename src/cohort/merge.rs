//! Samples of many tables side by side.

use std::collections::{HashMap, HashSet};

use super::{expression::ExpressionTable, genes::GeneName};

/// Puts tables side by side. Genes are those of the first table, then those that only later tables have.
pub(super) fn side_by_side(mut tables: Vec<ExpressionTable>) -> ExpressionTable {
    if tables.len() <= 1 {
        return tables.pop().unwrap_or_default();
    }
    let same = tables.windows(2).all(|t| t[0].genes == t[1].genes);
    let mut listed = HashSet::new();
    let mut left_out = Vec::new();
    for e in tables.iter_mut().flat_map(|t| std::mem::take(&mut t.left_out)) {
        if listed.insert((e.name.clone(), e.reason.clone())) {
            left_out.push(e); // once, of a thousand files with the same rows
        }
    }
    let mut all_genes = tables[0].all_genes.clone();
    let mut seen: HashSet<String> = all_genes.iter().map(GeneName::key).collect();
    for table in &tables[1..] {
        if table.all_genes.len() == tables[0].all_genes.len() && table.all_genes == tables[0].all_genes {
            continue;
        }
        all_genes.extend(table.all_genes.iter().filter(|g| seen.insert(g.key())).cloned());
    }
    if same {
        let genes = std::mem::take(&mut tables[0].genes);
        let (mut samples, mut values) = (Vec::new(), Vec::new());
        for table in tables {
            samples.extend(table.samples);
            values.extend(table.values);
        }
        return ExpressionTable { genes, samples, values, all_genes, left_out };
    }
    // The n-th mention of a key in one table is the n-th in another, so that duplicated genes stay apart.
    let keys = |genes: &[GeneName]| {
        let mut count: HashMap<String, usize> = HashMap::new();
        let mut keys = Vec::with_capacity(genes.len());
        for gene in genes {
            let n = count.entry(gene.key()).or_default();
            keys.push((gene.key(), *n));
            *n += 1;
        }
        keys
    };
    let mut place: HashMap<(String, usize), usize> = HashMap::new();
    let mut genes = Vec::new();
    let table_keys: Vec<Vec<(String, usize)>> = tables.iter().map(|t| keys(&t.genes)).collect();
    for (table, keys) in tables.iter().zip(&table_keys) {
        for (gene, key) in table.genes.iter().zip(keys) {
            let at = *place.entry(key.clone()).or_insert_with(|| {
                genes.push(gene.clone());
                genes.len() - 1
            });
            if genes[at].symbol.is_none() {
                genes[at].symbol = gene.symbol.clone();
            }
        }
    }
    let (mut samples, mut values) = (Vec::new(), Vec::new());
    for (table, keys) in tables.into_iter().zip(&table_keys) {
        for sample in 0..table.samples.len() {
            let mut row = vec![f64::NAN; genes.len()];
            for (key, value) in keys.iter().zip(table.sample_values(sample)) {
                row[place[key]] = *value;
            }
            values.extend(row);
        }
        samples.extend(table.samples);
    }
    ExpressionTable { genes, samples, values, all_genes, left_out }
}
