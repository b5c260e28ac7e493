//! Matrices of expression: genes by samples, or samples by genes.
//!
//! Which way round, is decided by the first of these that speaks:
//! 1. the user's statement;
//! 2. TCGA barcodes or Ensembl ids (or `rna_` before every name) in at least half of one margin;
//! 3. names of known slides, samples or patients in a margin;
//! 4. the wanted genes, or genes that every whole transcriptome holds, in a margin;
//! 5. what the first column is called (`gene_name`, `sample_id`, ...); it comes last because Xena calls a column of genes
//!    "sample".
//!
//! Otherwise the file is refused with a request to state it. Columns that hold text, and numbers that are known not to be
//! expression (lengths, Entrez ids, positions), are not samples; a column that is half numbers is, and the text in it an
//! error that names its line.

use crate::{
    cohort::{
        barcode::Barcode,
        expression::{ExpressionTable, MAX_GENES, Orientation, ReadOptions, Sample, too_many_genes},
        findings::{Excluded, ExcludedKind},
        genes::{GeneName, is_ensembl},
        labels::PATIENT_COLUMNS,
        names::{folded, make_names},
        not_genes,
    },
    error::{Error, Result},
    io::table::{Source, find_column, is_missing, parse_number, plain_name},
};

/// Rows looked at before deciding what the columns are.
const SNIFFED_ROWS: usize = 500;

const GENE_COLUMNS: [&str; 14] = [
    "gene",
    "geneid",
    "genename",
    "genesymbol",
    "symbol",
    "hugosymbol",
    "hgncsymbol",
    "ensemblid",
    "ensemblgeneid",
    "ensembl",
    "genes",
    "compositeelementref",
    "hybridizationref",
    "name",
];
const SYMBOL_COLUMNS: [&str; 8] =
    ["genename", "symbol", "genesymbol", "hugosymbol", "hgncsymbol", "externalgenename", "gene", "description"];
const SAMPLE_COLUMNS: [&str; 19] = [
    "wsifilename",
    "slide",
    "slideid",
    "slidename",
    "slidefile",
    "wsi",
    "wsiid",
    "filename",
    "image",
    "imageid",
    "sample",
    "sampleid",
    "samplename",
    "samples",
    "barcode",
    "aliquot",
    "aliquotid",
    "sampleidentifier",
    "id",
];
const PROJECT_COLUMNS: [&str; 6] = ["tcgaproject", "project", "projectid", "cancer", "cancertype", "cohort"];
/// Numbers beside the expression that are none.
const ANNOTATION_COLUMNS: [&str; 13] = [
    "entrezgeneid",
    "entrezid",
    "entrez",
    "length",
    "effectivelength",
    "genelength",
    "start",
    "end",
    "chromstart",
    "chromend",
    "strand",
    "chr",
    "chromosome",
];
/// Genes of every whole transcriptome.
const COMMON_GENES: [&str; 8] = ["actb", "gapdh", "tp53", "b2m", "egfr", "myc", "cd3e", "rpl13a"];

struct Layout {
    /// Columns that hold text.
    text: Vec<usize>,
    /// Columns that hold numbers.
    numbers: Vec<usize>,
    genes_in_rows: bool,
}

/// Reads a matrix whose first line `source` has already split.
pub(super) fn read(mut source: Source, options: &ReadOptions) -> Result<ExpressionTable> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut lines = Vec::new();
    let mut fields = Vec::new();
    while rows.len() < SNIFFED_ROWS && source.next_row(&mut fields)? {
        rows.push(std::mem::take(&mut fields));
        lines.push(source.line());
    }
    let header = source.first.clone();
    if header.len() < 2 || rows.is_empty() {
        let problem = if rows.is_empty() { "has a header and no rows" } else { "has a single column" };
        return Err(Error::input(source.path(), problem, "name a table of genes and samples"));
    }
    let layout = layout(&source, &header, &rows, options)?;
    let reading = Reading { source, header, rows, lines, layout, options };
    if reading.layout.genes_in_rows { reading.genes_by_samples() } else { reading.samples_by_genes() }
}

fn layout(source: &Source, header: &[String], rows: &[Vec<String>], options: &ReadOptions) -> Result<Layout> {
    let (mut text, mut numbers) = (Vec::new(), Vec::new());
    for column in 0..header.len() {
        let (mut good, mut bad) = (0usize, 0usize);
        for row in rows {
            match parse_number(&row[column]) {
                Some(v) if v.is_nan() => {}
                Some(_) => good += 1,
                None => bad += 1,
            }
        }
        if bad > good {
            text.push(column);
        } else if good > 0 || !header[column].is_empty() {
            // A nameless column of nothing is what a separator at the end of every line leaves.
            numbers.push(column);
        }
    }
    // An index that pandas wrote: no name, 0 1 2 ..., and the names in another column.
    let counts_up = rows.iter().enumerate().all(|(i, r)| r[0] == i.to_string());
    let nameless = matches!(plain_name(&header[0]).as_str(), "" | "unnamed0" | "index");
    if numbers.first() == Some(&0) && nameless && counts_up && !text.is_empty() {
        numbers.remove(0);
    } else if text.is_empty() && !numbers.is_empty() {
        text.push(numbers.remove(0)); // names that are numbers
    }
    let Some(&key) = text.first() else {
        return Err(Error::input(
            source.path(),
            "has no column of names",
            "put gene or sample names into the first column",
        ));
    };
    if numbers.is_empty() {
        return Err(Error::input(source.path(), "holds no numbers", "name an expression table"));
    }
    let row_names: Vec<&str> = rows.iter().map(|r| r[key].as_str()).collect();
    let column_names: Vec<&str> = numbers.iter().map(|&c| header[c].as_str()).collect();
    let genes_in_rows = match options.orientation {
        Orientation::GenesInRows => true,
        Orientation::GenesInColumns => false,
        Orientation::Auto => orient(&row_names, &column_names, &header[key], options).ok_or_else(|| {
            let problem = "does not show whether its rows are genes or samples";
            Error::input(source.path(), problem, "state orientation = \"genes_in_rows\" or \"genes_in_columns\"")
        })?,
    };
    Ok(Layout { text, numbers, genes_in_rows })
}

fn orient(rows: &[&str], columns: &[&str], first_name: &str, options: &ReadOptions) -> Option<bool> {
    let share = |names: &[&str], is: fn(&str) -> bool| names.iter().filter(|n| is(n)).count() * 2 >= names.len();
    let barcode = |n: &str| Barcode::find(n).is_some();
    let gene_id = |n: &str| GeneName::parse(strip_rna(n)).ensembl.is_some();
    if share(columns, barcode) || share(rows, gene_id) {
        return Some(true);
    }
    if share(rows, barcode) || share(columns, gene_id) || share(columns, |n| n.starts_with("rna_")) {
        return Some(false);
    }
    let holds =
        |names: &[&str], set: &dyn Fn(&str) -> bool| names.iter().filter(|n| set(&n.to_ascii_lowercase())).count();
    let decide = |set: &dyn Fn(&str) -> bool, in_rows_means_genes_in_rows: bool| {
        let (in_rows, in_columns) = (holds(rows, set), holds(columns, set));
        (in_rows != in_columns).then_some((in_rows > in_columns) == in_rows_means_genes_in_rows)
    };
    let known = |n: &str| options.known_samples.contains(n) || options.known_samples.contains(&folded(&make_names(n)));
    let wanted = |n: &str| options.wanted.as_ref().is_some_and(|w| w.contains(strip_rna(n)));
    decide(&known, false)
        .or_else(|| decide(&wanted, true))
        .or_else(|| decide(&|n| COMMON_GENES.contains(&n), true))
        .or_else(|| {
            let name = plain_name(first_name);
            if GENE_COLUMNS.contains(&name.as_str()) {
                return Some(true);
            }
            let samples =
                SAMPLE_COLUMNS.contains(&name.as_str()) || PATIENT_COLUMNS.iter().any(|p| plain_name(p) == name);
            samples.then_some(false)
        })
}

fn strip_rna(name: &str) -> &str {
    name.strip_prefix("rna_").unwrap_or(name)
}

struct Reading<'a> {
    source: Source,
    header: Vec<String>,
    /// Rows that were read for the decision and come first.
    rows: Vec<Vec<String>>,
    /// Their line numbers.
    lines: Vec<u64>,
    layout: Layout,
    options: &'a ReadOptions,
}

impl Reading<'_> {
    fn named(&self, columns: &[usize], names: &[&str]) -> Option<usize> {
        names.iter().find_map(|n| columns.iter().copied().find(|&c| plain_name(&self.header[c]) == **n))
    }

    /// Numbers that are samples or genes: all but known annotations.
    fn value_columns(&self) -> Vec<usize> {
        let known = |c: &usize| ANNOTATION_COLUMNS.contains(&plain_name(&self.header[*c]).as_str());
        self.layout.numbers.iter().copied().filter(|c| !known(c)).collect()
    }

    /// Gives every row and its line number to `use_row`.
    fn each_row(&mut self, mut use_row: impl FnMut(&mut Source, &[String], u64) -> Result<()>) -> Result<()> {
        for (row, line) in std::mem::take(&mut self.rows).into_iter().zip(std::mem::take(&mut self.lines)) {
            use_row(&mut self.source, &row, line)?;
        }
        let mut fields = Vec::new();
        while self.source.next_row(&mut fields)? {
            let line = self.source.line();
            use_row(&mut self.source, &fields, line)?;
        }
        Ok(())
    }

    fn genes_by_samples(mut self) -> Result<ExpressionTable> {
        let text = self.layout.text.clone();
        let ids = text.iter().copied().find(|&c| {
            let with_id = self.rows.iter().filter(|r| is_ensembl(&r[c])).count();
            with_id * 2 > self.rows.len()
        });
        let not_ids: Vec<usize> = text.iter().copied().filter(|c| Some(*c) != ids).collect();
        let symbol =
            self.named(&not_ids, &SYMBOL_COLUMNS).or_else(|| if ids.is_none() { text.first().copied() } else { None });
        let columns = self.value_columns();
        let path = self.source.path().to_path_buf();
        let samples: Vec<Sample> = columns.iter().map(|&c| Sample::named(&self.header[c], &path)).collect();
        let (options, header) = (self.options, self.header.clone());
        let (mut genes, mut all_genes, mut by_gene) = (Vec::new(), Vec::new(), Vec::new());
        let mut left_out = self.text_samples(&text);
        self.each_row(|source, row, line| {
            let mut name = GeneName::default();
            if let Some(c) = ids {
                name = GeneName::parse(&row[c]);
            }
            if let Some(c) = symbol.filter(|&c| !is_missing(&row[c])) {
                let parsed = GeneName::parse(&row[c]);
                name.ensembl = name.ensembl.or(parsed.ensembl);
                name.symbol = parsed.symbol.or(name.symbol);
            }
            let label = name.label();
            if label == "?" {
                return Ok(());
            }
            if let Some(reason) = not_genes::summary(label) {
                left_out.push(Excluded::new(ExcludedKind::Gene, label, reason));
                return Ok(());
            }
            if genes.len().max(all_genes.len()) >= MAX_GENES {
                return Err(too_many_genes(source.path()));
            }
            if options.keeps(&name) {
                for &c in &columns {
                    by_gene.push(source.number_at(&row[c], line, &header[c])?);
                }
                genes.push(name.clone());
            }
            if options.wanted.is_some() {
                all_genes.push(name);
            }
            Ok(())
        })?;
        let (n, m) = (genes.len(), samples.len());
        let mut values = vec![f64::NAN; n * m];
        for (g, row) in by_gene.chunks_exact(m.max(1)).enumerate() {
            row.iter().enumerate().for_each(|(s, v)| values[s * n + g] = *v);
        }
        if options.wanted.is_none() {
            all_genes = genes.clone();
        }
        Ok(ExpressionTable { genes, samples, values, all_genes, left_out })
    }

    /// Columns of text that are called like a slide, a sample or a patient: they should hold numbers.
    fn text_samples(&self, text: &[usize]) -> Vec<Excluded> {
        let known = |c: &&usize| self.options.known_samples.contains(&folded(&self.header[**c]));
        let reason = "holds text where numbers are expected";
        let listed = text.iter().filter(known).map(|&c| Excluded::new(ExcludedKind::Sample, &*self.header[c], reason));
        listed.collect()
    }

    fn samples_by_genes(mut self) -> Result<ExpressionTable> {
        let text = self.layout.text.clone();
        let all: Vec<usize> = (0..self.header.len()).collect();
        let named = |names: &[&str]| find_column(self.source.path(), &self.header, names);
        let (patient, project) = (named(&PATIENT_COLUMNS)?, named(&PROJECT_COLUMNS)?);
        let key = named(&SAMPLE_COLUMNS)?.or(text.iter().copied().find(|c| Some(*c) != project));
        let Some(key) = key.or(patient) else {
            return Err(Error::input(self.source.path(), "has no column of sample names", "add a column sample"));
        };
        let is_value = |c: &usize| ![Some(key), patient, project].contains(&Some(*c));
        let mut columns = self.value_columns();
        columns.retain(is_value);
        let prefixed = |c: &usize| self.header[*c].starts_with("rna_");
        if columns.iter().filter(|c| prefixed(c)).count() * 2 >= columns.len() {
            columns.retain(prefixed);
        }
        columns.retain(|&c| not_genes::summary(&self.header[c]).is_none());
        let others =
            all.iter().filter(|c| is_value(c) && columns.binary_search(c).is_err() && !self.header[**c].is_empty());
        let reason = |c: usize| match not_genes::summary(&self.header[c]) {
            Some(reason) => reason,
            None if text.contains(&c) => "holds text, not expression",
            None => "is no gene",
        };
        let left_out = others.map(|&c| Excluded::new(ExcludedKind::Gene, &*self.header[c], reason(c))).collect();
        let named: Vec<(usize, GeneName)> =
            columns.into_iter().map(|c| (c, GeneName::parse(strip_rna(&self.header[c])))).collect();
        let all_genes = named.iter().map(|(_, name)| name.clone()).collect();
        let (options, header) = (self.options, self.header.clone());
        let (columns, genes): (Vec<usize>, Vec<GeneName>) = named.into_iter().filter(|(_, n)| options.keeps(n)).unzip();
        let path = self.source.path().to_path_buf();
        let (mut samples, mut values) = (Vec::new(), Vec::new());
        self.each_row(|source, row, line| {
            let mut sample = Sample::named(&row[key], &path);
            let present = |c: Option<usize>| c.map(|c| row[c].clone()).filter(|v| !is_missing(v));
            sample.patient = present(patient);
            sample.project = present(project);
            samples.push(sample);
            for &c in &columns {
                values.push(source.number_at(&row[c], line, &header[c])?);
            }
            Ok(())
        })?;
        Ok(ExpressionTable { genes, samples, values, all_genes, left_out })
    }
}
