//! The sections of a report, each a function from the data to HTML; empty where there is nothing to show.

use std::collections::BTreeSet;

use super::{
    GeneMap, GeneReport, KeptPatches, PatchCounts, PatchMark, ReportData, SelectorComparison, SlidePanel, Thumbnail,
    figures,
    html::{duration, escape, fixed, photograph, png_image, probability},
    overlay::{clipped_range, range},
    selection,
};
use crate::image::RgbImage;

/// Longest side of a slide's images.
const PICTURE_PX: usize = 460;
/// And of the maps of the selectors, which stand side by side.
const SELECTOR_MAP_PX: usize = 300;
/// Genes whose intervals are drawn, whose predictions are, and whose rows stand in a table; the tables of the run hold all.
const MOST_INTERVALS: usize = 60;
const MOST_SCATTERS: usize = 24;
const MOST_ROWS: usize = 1000;
/// Rows shown at once; the others are folded in.
const ROWS_A_PAGE: usize = 100;
/// A gene counts as predicted if its false discovery rate is below this.
const SIGNIFICANT: f64 = 0.05;

/// Identifier, title and body of every section, in reading order.
pub(super) fn all(data: &ReportData) -> Vec<(&'static str, &'static str, String)> {
    vec![
        ("results", "Results", results(data)),
        ("scatter", "Predicted and measured", scatters(data)),
        ("folds", "Folds", folds(&data.genes)),
        ("selection", "Patches kept", kept(data)),
        ("slides", "Slides", data.slides.iter().map(slide).collect()),
        ("training", "Training", curves(data)),
        ("reconstructions", "Reconstructions", reconstructions(data)),
        ("selectors", "Selectors", data.selectors.as_ref().map(selectors).unwrap_or_default()),
        ("excluded", "Slides left out", excluded(data)),
        ("timings", "Time", timings(data)),
        ("settings", "Settings", settings(data)),
    ]
}

pub(super) fn head(data: &ReportData) -> String {
    let mut tiles = vec![];
    let mut tile = |value: String, label: &str| {
        tiles.push(format!("<div><dt>{label}</dt><dd>{value}</dd></div>"));
    };
    if data.cohort.slides > 0 {
        tile(data.cohort.slides.to_string(), "slides");
        tile(data.cohort.patients.to_string(), "patients");
    }
    if let Some(PatchCounts { scored, kept }) = data.cohort.patches {
        tile(thousands(kept), &format!("of {} patches kept", thousands(scored)));
    }
    let tested: Vec<&GeneReport> = data.genes.iter().filter(|g| g.q_fdr.is_some()).collect();
    if !tested.is_empty() {
        let found = tested.iter().filter(|g| g.q_fdr.is_some_and(|q| q < SIGNIFICANT)).count();
        tile(
            format!("{found}<small> of {}</small>", tested.len()),
            if data.over_projects.is_empty() {
                "genes predicted, FDR below 5 %"
            } else {
                "genes of a project predicted, FDR below 5 %"
            },
        );
    }
    let correlations: Vec<f64> = data.genes.iter().filter_map(|g| g.pcc).filter(|v| v.is_finite()).collect();
    if !correlations.is_empty() {
        tile(fixed(Some(median(correlations)), 2), "median correlation, mean over folds");
    }
    let total: f64 = data.timings.iter().map(|t| t.seconds).sum();
    if total > 0.0 {
        tile(duration(total), "in all");
    }
    format!(
        "<header>\n<h1>{}</h1>\n<p>{}</p>\n<dl class=\"tiles\">{}</dl>\n</header>\n",
        escape(&data.title),
        escape(&data.summary),
        tiles.concat()
    )
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { 0.5 * (values[middle - 1] + values[middle]) }
}

fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

fn results(data: &ReportData) -> String {
    if data.genes.is_empty() {
        return String::new();
    }
    let over_projects = if data.over_projects.is_empty() {
        String::new()
    } else {
        format!(
            "<h3>All projects together</h3>\n<p>Here the patients of all projects are in one correlation: telling the \
             projects apart counts as prediction. The results are those above.</p>\n{}",
            result_table(&data.over_projects, false)
        )
    };
    let compared = match data.genes.iter().any(|gene| !gene.others.is_empty()) {
        true => " The last columns are the same correlation of other methods, on the same folds and features.",
        false => "",
    };
    let within = if data.over_projects.is_empty() { "" } else { " of its project" };
    format!(
        "<p>Every prediction is held out: it was made by networks that were trained and chosen without the patient's \
         expression. The autoencoders that turn patches into features learn without expression, from the patches of all \
         slides, these among them. Correlations are means over the folds, each over the fold's patients{within}; pooled: the \
         folds together. Intervals are 95 % bootstrap intervals of these predictions, patients drawn anew; how another \
         training would have gone is not in them. p is by permutation of the patients' targets within project and fold. \
         MSE, scaled: on the scale of the training targets.{compared}</p>\n<figure class=\"wide\">{}</figure>\n{}{over_projects}",
        forest(&data.genes),
        result_table(&data.genes, data.genes.iter().any(|gene| !gene.project.is_empty()))
    )
}

/// Intervals of all genes, or of the best where there are many.
fn forest(genes: &[GeneReport]) -> String {
    let best = ranked(genes);
    if best.len() <= MOST_INTERVALS {
        return figures::forest(&genes.iter().collect::<Vec<_>>());
    }
    let caption =
        format!("The {MOST_INTERVALS} of {} genes with the highest correlation.", thousands(genes.len() as u64));
    format!("{}<figcaption>{caption}</figcaption>", figures::forest(&best[..MOST_INTERVALS]))
}

/// Genes by their correlation, the highest first.
fn ranked(genes: &[GeneReport]) -> Vec<&GeneReport> {
    let mut ranked: Vec<&GeneReport> = genes.iter().collect();
    let value = |gene: &GeneReport| gene.pcc.filter(|v| v.is_finite()).unwrap_or(f64::NEG_INFINITY);
    ranked.sort_by(|a, b| value(b).total_cmp(&value(a)));
    ranked
}

/// Rows as tables of one head: the first page open, the others folded in, and what is more than a page holds left out.
fn paged(head: &str, rows: &[String]) -> String {
    let table = |rows: &[String]| {
        format!("<div class=\"scroll\"><table><thead>{head}</thead><tbody>{}</tbody></table></div>", rows.concat())
    };
    let shown = rows.len().min(MOST_ROWS);
    let mut out = String::new();
    for (page, of_page) in rows[..shown].chunks(ROWS_A_PAGE).enumerate() {
        let first = page * ROWS_A_PAGE + 1;
        out += &match page {
            0 => table(of_page),
            _ => format!(
                "<details><summary>{first} to {}</summary>{}</details>",
                first + of_page.len() - 1,
                table(of_page)
            ),
        };
    }
    if shown < rows.len() {
        let (shown, all) = (thousands(shown as u64), thousands(rows.len() as u64));
        out += &format!("<p>The first {shown} of {all}; evaluation.csv has them all.</p>");
    }
    out
}

fn result_table(genes: &[GeneReport], with_project: bool) -> String {
    // Few are read in their own order, many from the best on.
    let genes = if genes.len() <= ROWS_A_PAGE { genes.iter().collect() } else { ranked(genes) };
    let rows: Vec<String> = genes
        .iter()
        .map(|gene| {
            let found = gene.q_fdr.is_some_and(|q| q < SIGNIFICANT);
            let interval = gene.ci.map_or("\u{2013}".into(), |(low, high)| {
                format!("{} to {}", fixed(Some(low), 2), fixed(Some(high), 2))
            });
            let project = if with_project { format!("<td>{}</td>", escape(&gene.project)) } else { String::new() };
            let others: String =
                gene.others.iter().map(|(_, pcc)| format!("<td>{}</td>", fixed(*pcc, 3))).collect();
            format!(
                "<tr{}><th scope=\"row\">{}</th>{project}<td><strong>{}</strong></td><td>{interval}</td><td>{}</td>\
                 <td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>{others}<td class=\"note\">{}</td></tr>",
                if found { " class=\"found\"" } else { "" },
                escape(&gene.name),
                fixed(gene.pcc, 3),
                probability(gene.p_value),
                probability(gene.q_fdr),
                fixed(gene.pooled_pcc, 3),
                fixed(gene.spearman, 3),
                fixed(gene.mse, 4),
                fixed(gene.mse_scaled, 4),
                gene.patients,
                escape(&gene.note)
            )
        })
        .collect();
    let project = if with_project { "<th scope=\"col\">Project</th>" } else { "" };
    let columns = ["Pearson", "95 % interval", "p", "FDR", "Pooled", "Spearman", "MSE", "MSE, scaled", "n"];
    let others = genes.first().map_or(Vec::new(), |gene| gene.others.iter().map(|(name, _)| escape(name)).collect());
    let columns = columns.iter().map(|name| name.to_string()).chain(others).chain([String::new()]);
    let columns: String = columns.map(|name| format!("<th scope=\"col\">{name}</th>")).collect();
    paged(&format!("<tr><th scope=\"col\">Gene</th>{project}{columns}</tr>"), &rows)
}

fn scatters(data: &ReportData) -> String {
    let mut genes: Vec<&GeneReport> = data.genes.iter().filter(|g| !g.points.is_empty()).collect();
    if genes.is_empty() {
        return String::new();
    }
    let mut which = String::new();
    if genes.len() > MOST_SCATTERS {
        let ranked: Vec<&GeneReport> = ranked(&data.genes).into_iter().filter(|g| !g.points.is_empty()).collect();
        let last = ranked.len() - 1;
        genes = (0..MOST_SCATTERS).map(|i| ranked[i * last / (MOST_SCATTERS - 1)]).collect();
        which =
            format!(" {MOST_SCATTERS} of {} genes, evenly from the best to the worst.", thousands(ranked.len() as u64));
    }
    let axes = if data.target.is_empty() { String::new() } else { format!("Axes: {}. ", escape(&data.target)) };
    let folds = genes.iter().flat_map(|g| &g.points).map(|p| p.fold + 1).max().unwrap_or(1);
    let figures: String = genes
        .iter()
        .map(|gene| {
            format!(
                "<figure><figcaption><strong>{}</strong> r = {}{}</figcaption>{}</figure>",
                escape(&gene.title()),
                fixed(gene.pcc, 2),
                gene.ci.map_or(String::new(), |(low, high)| {
                    format!(" [{}, {}]", fixed(Some(low), 2), fixed(Some(high), 2))
                }),
                figures::scatter(gene)
            )
        })
        .collect();
    format!(
        "<p>{axes}Colour is the fold that was held out. Dashed: prediction equals measurement; solid: least squares.{which}</p>{}\
         <div class=\"figures\">{figures}</div>",
        figures::legend((0..folds).map(|f| (format!("fold {}", f + 1), false)))
    )
}

fn folds(genes: &[GeneReport]) -> String {
    let numbers: BTreeSet<(usize, usize)> = genes.iter().flat_map(|g| &g.folds).map(|f| (f.repeat, f.fold)).collect();
    if numbers.is_empty() {
        return String::new();
    }
    let repeated = numbers.iter().any(|(repeat, _)| *repeat > 0);
    let columns: String = numbers
        .iter()
        .map(|&(repeat, fold)| {
            let of_fold = genes.iter().flat_map(|g| &g.folds).filter(|s| (s.repeat, s.fold) == (repeat, fold));
            let samples: BTreeSet<usize> = of_fold.map(|s| s.samples).collect();
            let count = match (samples.first(), samples.last()) {
                (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
                (_, most) => most.unwrap_or(&0).to_string(),
            };
            let name = if repeated { format!("{}.{}", repeat + 1, fold + 1) } else { (fold + 1).to_string() };
            format!("<th scope=\"col\">Fold {name} <small>n = {count}</small></th>")
        })
        .collect();
    let genes = if genes.len() <= ROWS_A_PAGE { genes.iter().collect() } else { ranked(genes) };
    let rows: Vec<String> = genes
        .iter()
        .map(|gene| {
            let cells: String = numbers
                .iter()
                .map(|number| {
                    let score = gene.folds.iter().find(|s| (s.repeat, s.fold) == *number);
                    let pcc = score.and_then(|s| s.pcc).filter(|v| v.is_finite());
                    let shade = pcc.map_or(0.0, |v| v.clamp(0.0, 1.0) * 42.0);
                    format!(
                        "<td class=\"shaded\" style=\"--share:{shade:.0}%\"><strong>{}</strong> <small>{}</small></td>",
                        fixed(pcc, 2),
                        fixed(score.and_then(|s| s.mse), 3)
                    )
                })
                .collect();
            let values: Vec<f64> = gene.folds.iter().filter_map(|s| s.pcc).filter(|v| v.is_finite()).collect();
            format!(
                "<tr><th scope=\"row\">{}</th>{cells}<td><strong>{}</strong></td><td>{}</td></tr>",
                escape(&gene.title()),
                mean_and_sd(&values),
                fixed(gene.pooled_pcc, 2)
            )
        })
        .collect();
    let head = format!(
        "<tr><th scope=\"col\">Gene</th>{columns}<th scope=\"col\">Mean of folds</th><th scope=\"col\">Pooled</th></tr>"
    );
    format!(
        "<p>Pearson correlation over the held-out patients of each fold; small: mean squared error.{}</p>{}",
        if repeated { " Fold 2.1 is the first fold of the second repeat." } else { "" },
        paged(&head, &rows)
    )
}

fn mean_and_sd(values: &[f64]) -> String {
    if values.is_empty() {
        return "\u{2013}".into();
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() == 1 {
        return fixed(Some(mean), 2);
    }
    let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    format!("{} ± {}", fixed(Some(mean), 2), fixed(Some(sd), 2))
}

fn slide(panel: &SlidePanel) -> String {
    let thumbnail = panel.thumbnail.fitted(PICTURE_PX);
    let kept = panel.patches.iter().filter(|m| m.kept).count();
    let with_bar = |mut image: RgbImage| {
        thumbnail.draw_scale_bar(&mut image, panel.mpp);
        image
    };
    let mut shown = vec![figure(&with_bar(thumbnail.image.clone()), "The slide", "")];
    if !panel.patches.is_empty() {
        let scores = range(panel.patches.iter().map(|m| m.score));
        let map = thumbnail.value_map(&panel.patches, scores, |m| Some(m.score));
        shown.push(figure(&map, "Score", &figures::colour_bar(&panel.score_label, scores, 2)));
        let chosen = thumbnail.selection(&panel.patches);
        let caption = format!("Kept: {} of {} patches", thousands(kept as u64), thousands(panel.patches.len() as u64));
        shown.push(figure(&chosen, &caption, ""));
    }
    if panel.patches.iter().any(|m| m.attention.is_some()) {
        let attention = range(panel.patches.iter().filter_map(|m| m.attention));
        let map = thumbnail.value_map(&panel.patches, attention, |m| m.attention);
        shown.push(figure(
            &map,
            "Attention of the networks that held this patient out",
            &figures::colour_bar("share of the attention", attention, 3),
        ));
    }
    for GeneMap { gene, values } in &panel.gene_maps {
        let kept = panel.patches.iter().filter(|mark| mark.kept).zip(values);
        let marks: Vec<PatchMark> = kept.map(|(mark, &score)| PatchMark { score, ..*mark }).collect();
        let range = clipped_range(values.iter().copied());
        let map = with_bar(thumbnail.value_map(&marks, range, |mark| Some(mark.score)));
        let caption = format!("What each patch adds to {gene}, by the networks that held this patient out");
        shown.push(figure(&map, &caption, &figures::colour_bar("their mean is the prediction", range, 2)));
    }
    let facts: String = panel
        .facts
        .iter()
        .map(|(key, value)| format!("<div><dt>{}</dt><dd>{}</dd></div>", escape(key), escape(value)))
        .collect();
    let facts = if facts.is_empty() { facts } else { format!("<dl class=\"facts\">{facts}</dl>") };
    format!(
        "<article class=\"slide\"><h3>{}</h3>{facts}<div class=\"images\">{}</div></article>\n",
        escape(&panel.name),
        shown.concat()
    )
}

fn figure(image: &RgbImage, caption: &str, below: &str) -> String {
    if image.pixels.is_empty() {
        return String::new();
    }
    let caption = escape(caption);
    format!("<figure>{}<figcaption>{caption}</figcaption>{below}</figure>", photograph(image, &caption))
}

/// How much of every slide went on; slides with a remark first.
fn kept(data: &ReportData) -> String {
    if data.kept.is_empty() {
        return String::new();
    }
    let mut slides: Vec<&KeptPatches> = data.kept.iter().collect();
    slides.sort_by_key(|slide| slide.remark.is_empty());
    let percent = |share: f64| format!("{} %", fixed(Some(100.0 * share), 1));
    let row = |slide: &&KeptPatches| {
        let PatchCounts { scored, kept } = slide.patches;
        format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td><strong>{}</strong></td><td>{}</td><td>{}</td>\
             <td class=\"note\">{}</td></tr>",
            escape(&slide.slide),
            thousands(scored),
            thousands(kept),
            percent(kept as f64 / scored.max(1) as f64),
            percent(slide.tissue_share),
            percent(slide.tissue_kept_share),
            escape(&slide.remark)
        )
    };
    let shares = data.kept.iter().map(|s| s.patches.kept as f64 / s.patches.scored.max(1) as f64).collect();
    format!(
        "<p>A patch is kept by this rule: {}. Half of the slides keep more than {} of their patches. Tissue is what \
         Otsu\u{2019}s threshold of a slide calls so.</p>\n<div class=\"scroll\"><table><thead><tr><th scope=\"col\">Slide</th>\
         <th scope=\"col\">patches</th><th scope=\"col\">kept</th><th scope=\"col\">share kept</th><th scope=\"col\">tissue</th>\
         <th scope=\"col\">tissue kept</th><th scope=\"col\"></th></tr></thead><tbody>{}</tbody></table></div>",
        escape(&data.selection_rule),
        percent(median(shares)),
        slides.iter().map(row).collect::<String>()
    )
}

fn curves(data: &ReportData) -> String {
    let figures: String = data
        .curves
        .iter()
        .filter(|c| c.series.iter().any(|s| !s.points.is_empty()))
        .map(|c| {
            format!(
                "<figure><figcaption><strong>{}</strong></figcaption>{}{}</figure>",
                escape(&c.title),
                figures::curve(c),
                figures::legend(c.series.iter().map(|s| (s.name.clone(), s.dashed)))
            )
        })
        .collect();
    if figures.is_empty() { figures } else { format!("<div class=\"figures broad\">{figures}</div>") }
}

fn reconstructions(data: &ReportData) -> String {
    if data.reconstructions.is_empty() {
        return String::new();
    }
    let pairs: String = data
        .reconstructions
        .iter()
        .filter(|r| !r.original.pixels.is_empty() && !r.reconstruction.pixels.is_empty())
        .map(|r| {
            format!(
                "<figure class=\"pair\">{}{}<figcaption>{}</figcaption></figure>",
                png_image(&r.original, "original patch"),
                png_image(&r.reconstruction, "its reconstruction"),
                escape(&r.label)
            )
        })
        .collect();
    format!(
        "<p>Left: a patch; right: what the generator draws from its feature vector alone. What is missing on the right is \
         what the features do not hold.</p><div class=\"pairs\">{pairs}</div>"
    )
}

fn selectors(comparison: &SelectorComparison) -> String {
    if comparison.patches.is_empty() || comparison.selectors.is_empty() {
        return String::new();
    }
    let show = |image: &RgbImage, alternative: &str| {
        if image.pixels.is_empty() { String::new() } else { photograph(image, alternative) }
    };
    let head: String =
        comparison.patches.iter().map(|p| format!("<th scope=\"col\">{}</th>", show(p, "patch"))).collect();
    let rows: String = comparison
        .selectors
        .iter()
        .map(|selector| {
            let cells: String = selector
                .cells
                .iter()
                .map(|cell| {
                    let response = cell.response.as_ref().map(|r| show(r, "response")).unwrap_or_default();
                    let (class, word) = if cell.kept { ("kept", "kept") } else { ("dropped", "dropped") };
                    let score = fixed(Some(cell.score), 3);
                    format!("<td class=\"{class}\">{response}<strong>{score}</strong> <small>{word}</small></td>")
                })
                .collect();
            let rule = if selector.rule.is_empty() {
                String::new()
            } else {
                format!(" <small>{}</small>", escape(&selector.rule))
            };
            format!("<tr><th scope=\"row\">{}{rule}</th>{cells}</tr>", escape(&selector.name))
        })
        .collect();
    let maps: String = comparison.thumbnail.iter().map(|thumbnail| selector_maps(comparison, thumbnail)).collect();
    format!(
        "<p>The same patches under every selector: its score, and whether it keeps the patch.</p><div class=\"scroll\">\
         <table class=\"selectors\"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>{maps}"
    )
}

/// The slide that the patches are of: what each selector keeps of it.
fn selector_maps(comparison: &SelectorComparison, thumbnail: &Thumbnail) -> String {
    let thumbnail = thumbnail.fitted(SELECTOR_MAP_PX);
    let maps: String = comparison
        .selectors
        .iter()
        .filter(|row| !row.marks.is_empty())
        .map(|row| {
            let kept = row.marks.iter().filter(|m| m.kept).count();
            let caption = format!("{}: {kept} of {} patches kept", row.name, row.marks.len());
            figure(&selection::score_map(&thumbnail, &row.marks), &caption, "")
        })
        .collect();
    if maps.is_empty() {
        return maps;
    }
    format!(
        "<p>All patches of one slide: the higher the score among them, the brighter; kept ones are framed.</p>\
         <div class=\"images\">{maps}</div>"
    )
}

fn excluded(data: &ReportData) -> String {
    if data.excluded.is_empty() {
        return String::new();
    }
    let row = |e: &super::Excluded| {
        format!("<tr><th scope=\"row\">{}</th><td class=\"note\">{}</td></tr>", escape(&e.slide), escape(&e.reason))
    };
    format!(
        "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">Slide</th><th scope=\"col\" class=\"note\">Reason</th></tr></thead>\
         <tbody>{}</tbody></table></div>",
        data.excluded.iter().map(row).collect::<String>()
    )
}

fn timings(data: &ReportData) -> String {
    if data.timings.is_empty() {
        return String::new();
    }
    let longest = data.timings.iter().map(|t| t.seconds).fold(1e-9, f64::max);
    let row = |t: &super::Timing| {
        format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"bar\"><span style=\"width:{:.1}%\"></span></td>\
             <td class=\"note\">{}</td></tr>",
            escape(&t.stage),
            duration(t.seconds),
            (100.0 * t.seconds.max(0.0) / longest).clamp(0.0, 100.0),
            escape(&t.note)
        )
    };
    format!(
        "<div class=\"scroll\"><table class=\"times\"><thead><tr><th scope=\"col\">Stage</th><th scope=\"col\">Time</th>\
         <th scope=\"col\"></th><th scope=\"col\"></th></tr></thead><tbody>{}</tbody></table></div>",
        data.timings.iter().map(row).collect::<String>()
    )
}

fn settings(data: &ReportData) -> String {
    let group = |(heading, pairs): &(String, Vec<(String, String)>)| {
        let rows: String =
            pairs.iter().map(|(k, v)| format!("<div><dt>{}</dt><dd>{}</dd></div>", escape(k), escape(v))).collect();
        format!("<div class=\"group\"><h3>{}</h3><dl>{rows}</dl></div>", escape(heading))
    };
    let groups: String = data.settings.iter().filter(|g| !g.1.is_empty()).map(group).collect();
    if groups.is_empty() { groups } else { format!("<div class=\"settings\">{groups}</div>") }
}
