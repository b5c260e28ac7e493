//! The tables as one HTML page in the paper's layout: ours large, the paper's small beside it.

use std::fmt::Write as _;

use super::{
    Reproduction,
    efficiency::Efficiency,
    results::{Cell, RowResult, TableResult},
};
use crate::{
    eval::compare::Difference,
    pipeline::predict::Seconds,
    report::{
        self,
        html::{escape, fixed, probability},
    },
};

/// More columns than this are not readable side by side: averages alone are shown, the cells are in `results.csv`.
const MOST_COLUMNS: usize = 20;

/// The page of all tables, and figure 2 if there is one.
pub fn page(title: &str, summary: &str, found: &Reproduction, figure: Option<&str>) -> String {
    let mut sections: Vec<(String, String, String)> = (found.tables.iter())
        .map(|table| {
            (
                format!("table-{}", table.number),
                format!("Table {}: {}", table.number, escape(&table.title)),
                body(table),
            )
        })
        .collect();
    if let Some(svg) = figure {
        let body = format!("<div class=\"scroll\"><figure class=\"wide\">{svg}</figure></div>");
        sections.push(("figure-2".into(), "Figure 2: what each selector sees".into(), body));
    }
    if !found.efficiency.is_empty() {
        sections.push(("efficiency".into(), "Efficiency: seconds a slide".into(), efficiency(&found.efficiency)));
    }
    let head = format!("<header><h1>{}</h1><p>{}</p></header>\n", escape(title), escape(summary));
    report::page(title, &head, &sections)
}

fn body(table: &TableResult) -> String {
    let mut out = String::new();
    let _ = write!(out, "<p>{}</p>", escape(&table.note));
    for finding in table.findings.iter().take(1) {
        let _ = write!(out, "<p><strong>{}</strong></p>", escape(finding));
    }
    out.push_str(&scores(table));
    if table.findings.len() > 1 {
        out.push_str("<ul class=\"findings\">");
        for finding in &table.findings[1..] {
            let _ = write!(out, "<li>{}</li>", escape(finding));
        }
        out.push_str("</ul>");
    }
    out
}

fn scores(table: &TableResult) -> String {
    let shown = if table.columns.len() <= MOST_COLUMNS { table.columns.len() } else { 0 };
    let mut out = String::from("<div class=\"scroll\"><table><thead>");
    if shown > 0 {
        out.push_str("<tr><th></th>");
        let mut columns = table.columns.iter().peekable();
        while let Some((project, _)) = columns.next() {
            let mut span = 1;
            while columns.next_if(|(next, _)| next == project).is_some() {
                span += 1;
            }
            let _ = write!(out, "<th colspan=\"{span}\" class=\"project\">{}</th>", escape(project));
        }
        out.push_str("<th colspan=\"4\"></th></tr>");
    }
    out.push_str("<tr><th></th>");
    for (_, gene) in &table.columns[..shown] {
        let _ = write!(out, "<th>{}</th>", escape(gene));
    }
    let _ = write!(
        out,
        "<th>average</th><th>L2, scaled</th><th>difference from {}</th><th>p, Holm</th></tr></thead><tbody>",
        escape(&table.reference)
    );
    for row in &table.rows {
        let difference = table.differences.iter().find(|d| d.arm == row.arm && d.gene.is_none());
        out.push_str(&line(row, difference, shown));
    }
    out.push_str("</tbody></table></div>");
    out
}

fn line(row: &RowResult, difference: Option<&Difference>, shown: usize) -> String {
    let mut out = format!("<tr><th>{}</th>", escape(&row.title));
    if let Some(why) = &row.skipped {
        let _ = write!(out, "<td colspan=\"{}\" class=\"note\">not run: {}</td></tr>", shown + 4, escape(why));
        return out;
    }
    let beside = |paper: Option<f64>| paper.map_or(String::new(), |p| format!(" <small>{}</small>", fixed(Some(p), 3)));
    for Cell { pearson, interval, paper } in row.cells.iter().take(shown) {
        let hint = interval
            .map_or(String::new(), |i| format!(" title=\"{} to {}\"", fixed(Some(i.low), 2), fixed(Some(i.high), 2)));
        let _ = write!(out, "<td{hint}>{}{}</td>", fixed(*pearson, 3), beside(*paper));
    }
    let sd = row.average_sd.map_or(String::new(), |sd| format!(" ± {}", fixed(Some(sd), 3)));
    let _ = write!(out, "<td>{}{sd}{}</td>", fixed(row.average, 3), beside(row.paper.map(|p| p.pearson)));
    let _ = write!(out, "<td>{}{}</td>", fixed(row.l2, 4), beside(row.paper.and_then(|p| p.l2)));
    let delta = difference.and_then(|d| Some((d.delta?, d.interval?)));
    let delta = delta.map_or("\u{2013}".to_string(), |(delta, i)| {
        format!("{} <small>{} to {}</small>", fixed(Some(delta), 3), fixed(Some(i.low), 3), fixed(Some(i.high), 3))
    });
    let _ = write!(out, "<td>{delta}</td><td>{}</td></tr>", probability(difference.and_then(|d| d.p_holm)));
    out
}

fn efficiency(found: &[Efficiency]) -> String {
    let mut out = String::from(
        "<p>Medians over slides of the cohort, one slide after the other, on the device of this run; cold: the file out of the \
         system's cache. Decoding reads every patch, scoring is what comes on top, encoding reads the kept patches again. The \
         paper's seconds are those of one GPU of 2022, and include reading.</p><div class=\"scroll\"><table><thead><tr><th></th>\
         <th></th><th>open</th><th>decode</th><th>score</th><th>encode</th><th>regress</th><th>total</th><th>patches</th>\
         <th>kept</th><th>GMAC to encode</th></tr></thead><tbody>",
    );
    for of in found {
        for (name, seconds) in [("cold", of.cold), ("warm", of.warm)] {
            let Seconds { open, decode, score, encode, regress } = seconds;
            let cells: String = [open, decode, score, encode, regress, seconds.total()]
                .iter()
                .map(|s| format!("<td>{}</td>", fixed(Some(*s), 3)))
                .collect();
            let paper = of.paper.map_or(String::new(), |s| format!(" <small>{s:.0}</small>"));
            let _ = write!(
                out,
                "<tr><th>{}{paper}</th><td>{name}</td>{cells}<td>{:.0}</td><td>{:.0}</td><td>{:.1}</td></tr>",
                escape(&of.title),
                of.patches,
                of.kept,
                of.encode_macs / 1e9
            );
        }
    }
    out + "</tbody></table></div>"
}
