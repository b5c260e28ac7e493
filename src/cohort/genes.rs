//! Names of genes: symbols and Ensembl ids, with or without a version, and what a user may have meant.
//!
//! Tables name genes by symbol (`CD3D`), by Ensembl id (`ENSG00000167286.15`), by both (GDC's STAR counts), or by a
//! compound (`CD3D|915`, `ENSG00000167286|CD3D`). A table that holds ids alone knows no symbols: a mapping table does,
//! and a small one for the genes of the paper is built in.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    io::table::{Table, is_missing, plain_name},
};

/// The genes of the paper's tables, as HE2RNA's configurations name them.
const BUILT_IN: [(&str, &str); 10] = [
    ("CD3D", "ENSG00000167286"),
    ("CD247", "ENSG00000198821"),
    ("CD3E", "ENSG00000198851"),
    ("CD3G", "ENSG00000160654"),
    ("MS4A1", "ENSG00000156738"),
    ("CD19", "ENSG00000177455"),
    ("MKI67", "ENSG00000148773"),
    ("TP63", "ENSG00000073282"),
    ("KRT18", "ENSG00000111057"),
    ("KRT8", "ENSG00000170421"),
];

/// The paper calls MS4A1 by its protein.
const ALIASES: [(&str, &str); 1] = [("CD20", "MS4A1")];

/// What a table calls one gene.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct GeneName {
    /// With its version if the table gives one.
    pub ensembl: Option<String>,
    pub symbol: Option<String>,
}

impl GeneName {
    /// Reads a label: a symbol, an id, or several names joined by `|` (Firehose, Xena) or `_` (id_symbol).
    pub fn parse(label: &str) -> GeneName {
        let mut name = GeneName::default();
        for piece in label.split('|') {
            let piece = piece.trim();
            if is_ensembl(piece) {
                name.ensembl.get_or_insert_with(|| piece.to_string());
            } else if let Some((id, symbol)) = piece.split_once('_')
                && is_ensembl(id)
                && !symbol.starts_with("PAR_")
            {
                name.ensembl.get_or_insert_with(|| id.to_string());
                name.symbol.get_or_insert_with(|| symbol.to_string());
            } else if !is_missing(piece) && (name.symbol.is_none() && (piece == label.trim() || !is_number(piece))) {
                name.symbol = Some(piece.to_string());
            }
        }
        name
    }

    /// The name to show: the symbol, or else the id.
    pub fn label(&self) -> &str {
        self.symbol.as_deref().or(self.ensembl.as_deref()).unwrap_or("?")
    }

    /// What identifies the gene across tables: the id without version, or else the symbol.
    pub fn key(&self) -> String {
        match (&self.ensembl, &self.symbol) {
            (Some(id), _) => ensembl_base(id),
            (None, Some(symbol)) => symbol.clone(),
            (None, None) => "?".to_string(),
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `ENSG00000167286`, `ENSG00000167286.15`, `ENSG00000182378.15_PAR_Y`, `ENSMUSG00000064341`.
pub fn is_ensembl(text: &str) -> bool {
    let Some(rest) = text.get(..3).filter(|p| p.eq_ignore_ascii_case("ENS")).map(|_| &text[3..]) else { return false };
    let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    let species_and_kind = &rest[..letters];
    let digits = rest[letters..].bytes().take_while(u8::is_ascii_digit).count();
    let version = &rest[letters + digits..];
    let version = version.strip_suffix("_PAR_Y").unwrap_or(version);
    let version_ok = version.is_empty()
        || version.strip_prefix('.').is_some_and(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()));
    // R marks the pseudoautosomal genes of Y in old releases: ENSGR0000182378.
    matches!(species_and_kind.to_ascii_uppercase().as_str(), "G" | "GR" | "MUSG" | "RNOG" | "DARG")
        && (6..=11).contains(&digits)
        && version_ok
}

/// The id without its version, in upper case; the copy on Y (`_PAR_Y`) stays a gene of its own.
pub fn ensembl_base(id: &str) -> String {
    let upper = id.to_ascii_uppercase();
    let (id, copy) = match upper.strip_suffix("_PAR_Y") {
        Some(id) => (id, "_PAR_Y"),
        None => (upper.as_str(), ""),
    };
    format!("{}{copy}", id.split('.').next().unwrap_or(id))
}

/// Symbols and Ensembl ids of the same genes.
#[derive(Clone, Debug)]
pub struct GeneMap {
    by_symbol: HashMap<String, String>,
    by_ensembl: HashMap<String, String>,
}

impl Default for GeneMap {
    fn default() -> GeneMap {
        let mut map = GeneMap { by_symbol: HashMap::new(), by_ensembl: HashMap::new() };
        BUILT_IN.iter().for_each(|(symbol, id)| map.add(symbol, id));
        map
    }
}

impl GeneMap {
    /// The built-in genes and a table with a column of Ensembl ids and one of symbols (GENCODE, BioMart, HGNC and GDC's
    /// gene tables all have them). Errors where no column holds ids or none holds symbols.
    pub fn read(path: impl AsRef<Path>) -> Result<GeneMap> {
        let table = Table::read(path)?;
        // A table without a header has its first gene there.
        let in_header = |c: usize| usize::from(is_ensembl(&table.header[c]));
        let ids_in = |c: usize| table.rows.iter().filter(|r| is_ensembl(r.get(c))).count() + in_header(c);
        let id = (0..table.header.len()).max_by_key(|&c| (ids_in(c), std::cmp::Reverse(c)));
        let id = id.filter(|&c| ids_in(c) > 0 && ids_in(c) * 2 >= table.rows.len());
        let named =
            table.column(&["gene_name", "symbol", "gene_symbol", "hgnc_symbol", "approved_symbol", "gene", "name"])?;
        let symbol =
            named.filter(|c| Some(*c) != id).or_else(|| (table.header.len() == 2).then(|| id.map(|c| 1 - c)).flatten());
        let (Some(id), Some(symbol)) = (id, symbol) else {
            let remedy = "give a table with the columns ensembl_id and symbol";
            return Err(Error::input(&table.path, "has no column of Ensembl gene ids, or none of symbols", remedy));
        };
        let mut map = GeneMap::default();
        if in_header(id) > 0 {
            map.add(&table.header[symbol], &table.header[id]);
        }
        for row in table.rows.iter().filter(|r| is_ensembl(r.get(id)) && !is_missing(r.get(symbol))) {
            map.add(row.get(symbol), row.get(id));
        }
        Ok(map)
    }

    /// The first mention of a name wins, so that a user's table extends the built-in one.
    fn add(&mut self, symbol: &str, id: &str) {
        let id = ensembl_base(id);
        self.by_symbol.entry(symbol.to_ascii_uppercase()).or_insert_with(|| id.clone());
        self.by_ensembl.entry(id).or_insert_with(|| symbol.to_string());
    }

    pub fn ensembl_of(&self, symbol: &str) -> Option<&str> {
        self.by_symbol.get(&symbol.to_ascii_uppercase()).map(String::as_str)
    }

    pub fn symbol_of(&self, ensembl: &str) -> Option<&str> {
        self.by_ensembl.get(&ensembl_base(ensembl)).map(String::as_str)
    }
}

/// Names a wanted gene may have in a table, in lower case: a filter for reading large tables.
pub fn wanted_names(genes: &[String], map: &GeneMap) -> HashSet<String> {
    let mut out = HashSet::new();
    for gene in genes {
        let parsed = GeneName::parse(gene);
        let alias = |s: &String| alias_of(s).map(str::to_string);
        for symbol in parsed.symbol.iter().cloned().chain(parsed.symbol.as_ref().and_then(alias)) {
            out.extend(map.ensembl_of(&symbol).map(str::to_ascii_lowercase));
            out.insert(symbol.to_ascii_lowercase());
        }
        if let Some(id) = &parsed.ensembl {
            out.insert(ensembl_base(id).to_ascii_lowercase());
            out.extend(map.symbol_of(id).map(str::to_ascii_lowercase));
        }
    }
    out
}

/// Whether `name` may be one of the genes behind [`wanted_names`].
pub fn is_wanted(name: &GeneName, wanted: &HashSet<String>) -> bool {
    name.symbol.as_ref().is_some_and(|s| wanted.contains(&s.to_ascii_lowercase()))
        || name.ensembl.as_ref().is_some_and(|id| wanted.contains(&ensembl_base(id).to_ascii_lowercase()))
}

fn alias_of(symbol: &str) -> Option<&'static str> {
    ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(symbol)).map(|(_, symbol)| *symbol)
}

/// Finds genes in a list of names.
pub struct GeneIndex<'a> {
    names: &'a [GeneName],
    symbols: HashMap<&'a str, Vec<usize>>,
    symbols_any_case: HashMap<String, Vec<usize>>,
    ids: HashMap<&'a str, Vec<usize>>,
    base_ids: HashMap<String, Vec<usize>>,
}

/// A gene that was found: its place among the names, and a remark where the match needed a choice.
#[derive(Clone, PartialEq, Debug)]
pub struct FoundGene {
    pub index: usize,
    pub remark: Option<String>,
}

impl<'a> GeneIndex<'a> {
    pub fn new(names: &'a [GeneName]) -> GeneIndex<'a> {
        let mut index = GeneIndex {
            names,
            symbols: HashMap::new(),
            symbols_any_case: HashMap::new(),
            ids: HashMap::new(),
            base_ids: HashMap::new(),
        };
        for (i, name) in names.iter().enumerate() {
            if let Some(symbol) = &name.symbol {
                index.symbols.entry(symbol).or_default().push(i);
                index.symbols_any_case.entry(symbol.to_ascii_lowercase()).or_default().push(i);
            }
            if let Some(id) = &name.ensembl {
                index.ids.entry(id).or_default().push(i);
                index.base_ids.entry(ensembl_base(id)).or_default().push(i);
            }
        }
        index
    }

    /// Looks a gene up by symbol or id. The error is a list of names that come near, best first.
    pub fn find(&self, gene: &str, map: &GeneMap) -> Result<FoundGene, Vec<String>> {
        let query = GeneName::parse(gene);
        let found = |rows: Option<&Vec<usize>>, remark: Option<String>| -> Option<FoundGene> {
            let rows = rows.filter(|r| !r.is_empty())?;
            let on_y =
                |i: usize| self.names[i].ensembl.as_ref().is_some_and(|id| id.to_ascii_uppercase().ends_with("_PAR_Y"));
            let index = rows.iter().copied().find(|&i| !on_y(i)).or(rows.first().copied())?;
            let others: Vec<&str> = rows.iter().filter(|&&i| i != index && !on_y(i)).map(|&i| self.shown(i)).collect();
            let remark = if others.is_empty() {
                remark
            } else {
                let n = others.len() + 1;
                Some(format!("{gene} occurs {n} times; {} is used, the first", self.shown(index)))
            };
            Some(FoundGene { index, remark })
        };
        let by_id =
            |id: &str| found(self.ids.get(id), None).or_else(|| found(self.base_ids.get(&ensembl_base(id)), None));
        let by_symbol = |symbol: &str| {
            found(self.symbols.get(symbol), None).or_else(|| {
                let rows = self.symbols_any_case.get(&symbol.to_ascii_lowercase());
                let shown = rows.and_then(|r| r.first()).map_or("", |&i| self.shown(i));
                found(rows, Some(format!("{gene} is taken for {shown}, which differs in case")))
            })
        };
        if let Some(id) = &query.ensembl {
            let hit = by_id(id).or_else(|| by_symbol(map.symbol_of(id)?));
            if let Some(hit) = hit {
                return Ok(hit);
            }
        }
        if let Some(symbol) = &query.symbol {
            let through_map = |symbol: &str| found(self.base_ids.get(map.ensembl_of(symbol)?), None);
            let hit = by_symbol(symbol).or_else(|| through_map(symbol)).or_else(|| {
                let other = alias_of(symbol)?;
                by_symbol(other).or_else(|| through_map(other))
            });
            if let Some(hit) = hit {
                return Ok(hit);
            }
        }
        Err(self.near(&query, map))
    }

    fn shown(&self, i: usize) -> &str {
        self.names[i].ensembl.as_deref().unwrap_or_else(|| self.names[i].label())
    }

    /// Whether the table names genes by symbol at all.
    pub fn has_symbols(&self) -> bool {
        !self.symbols.is_empty()
    }

    /// Up to five names near the wanted one: the same but for punctuation, few edits away, or sharing a beginning.
    fn near(&self, query: &GeneName, map: &GeneMap) -> Vec<String> {
        let wanted = query.label().to_ascii_uppercase();
        let plain = plain_name(&wanted);
        let by_id = query.ensembl.is_some() && query.symbol.is_none();
        let known = map
            .by_symbol
            .keys()
            .map(String::as_str)
            .filter(|s| map.ensembl_of(s).is_some_and(|id| self.base_ids.contains_key(id)));
        let candidates: Vec<&str> = if by_id {
            self.ids.keys().copied().collect()
        } else {
            self.symbols.keys().copied().chain(known).collect()
        };
        let mut scored: Vec<(usize, usize, &str)> = candidates
            .into_iter()
            .filter_map(|candidate| {
                let upper = candidate.to_ascii_uppercase();
                let limit = (wanted.len() / 3).clamp(1, 3);
                let edits = edit_distance(wanted.as_bytes(), upper.as_bytes(), limit);
                let score = if plain_name(&upper) == plain {
                    0
                } else if let Some(edits) = edits {
                    edits
                } else if wanted.len() >= 2
                    && (upper.starts_with(&wanted) || (upper.len() >= 3 && wanted.starts_with(&upper)))
                {
                    4
                } else {
                    return None;
                };
                Some((score, upper.len().abs_diff(wanted.len()), candidate))
            })
            .collect();
        scored.sort_unstable();
        scored.dedup_by(|a, b| a.2.eq_ignore_ascii_case(b.2));
        scored.into_iter().take(5).map(|(_, _, name)| name.to_string()).collect()
    }
}

/// Edits (insert, delete, replace, swap neighbours) from `a` to `b`, if at most `limit`.
fn edit_distance(a: &[u8], b: &[u8], limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let width = b.len() + 1;
    let (mut two_above, mut above, mut row) = (vec![0usize; width], (0..width).collect::<Vec<_>>(), vec![0; width]);
    for i in 1..=a.len() {
        row[0] = i;
        for j in 1..width {
            let replace = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(two_above[j - 2] + 1);
            }
        }
        std::mem::swap(&mut two_above, &mut above);
        std::mem::swap(&mut above, &mut row);
    }
    Some(above[b.len()]).filter(|&d| d <= limit)
}
