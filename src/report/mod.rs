//! Images, tables and the self-contained HTML report of a run.
//!
//! [`render`] turns a [`ReportData`] into one file: style, drawings and images are inside, nothing is fetched, no script
//! runs, every text is escaped. It reads in light and dark, prints, and is well-formed XML as well. The caller decides
//! how many slides and images it holds; an empty part leaves its section out.

pub mod colour;
pub mod figures;
pub mod html;
pub mod overlay;
mod scale_bar;
mod sections;
pub mod selection;
pub mod svg;

use serde::{Deserialize, Serialize};

use crate::image::RgbImage;
pub use overlay::{PatchMark, Thumbnail, clipped_range};

/// Everything a report shows.
#[derive(Clone, Debug, Default)]
pub struct ReportData {
    pub title: String,
    /// One or two sentences under the title: what was run on what.
    pub summary: String,
    /// What the numbers of [`GeneReport::points`] are, e.g. `log10(1 + FPKM)`.
    pub target: String,
    /// Every gene of every project.
    pub genes: Vec<GeneReport>,
    /// The genes over all projects together, where there are several.
    pub over_projects: Vec<GeneReport>,
    pub curves: Vec<Curve>,
    pub slides: Vec<SlidePanel>,
    pub reconstructions: Vec<Reconstruction>,
    pub selectors: Option<SelectorComparison>,
    /// What kept a patch, in words, and how much of every slide it kept.
    pub selection_rule: String,
    pub kept: Vec<KeptPatches>,
    pub cohort: CohortSummary,
    pub excluded: Vec<Excluded>,
    pub timings: Vec<Timing>,
    /// Groups of settings: heading, then key and value, as they were used.
    pub settings: Vec<(String, Vec<(String, String)>)>,
}

/// One gene in one project: every held-out prediction and what they amount to.
#[derive(Clone, Debug, Default)]
pub struct GeneReport {
    pub name: String,
    /// Empty where there is only one.
    pub project: String,
    /// Held-out predictions only.
    pub points: Vec<Point>,
    pub patients: usize,
    /// Mean over the folds of the Pearson correlation over the fold's patients.
    pub pcc: Option<f64>,
    /// Its 95 % bootstrap interval.
    pub ci: Option<(f64, f64)>,
    /// Pearson correlation over the patients of all folds together.
    pub pooled_pcc: Option<f64>,
    pub spearman: Option<f64>,
    pub mse: Option<f64>,
    /// On the scale of the training targets.
    pub mse_scaled: Option<f64>,
    pub p_value: Option<f64>,
    /// The p-value after control of the false discovery rate over all genes.
    pub q_fdr: Option<f64>,
    pub folds: Vec<FoldScore>,
    /// Other methods by name, and their `pcc` on the same folds.
    pub others: Vec<(String, Option<f64>)>,
    /// What is known about the gene, e.g. what it was planted to follow.
    pub note: String,
}

impl GeneReport {
    /// The gene, and where there are several projects, whose.
    pub fn title(&self) -> String {
        if self.project.is_empty() { self.name.clone() } else { format!("{} in {}", self.name, self.project) }
    }
}

/// A held-out prediction.
#[derive(Clone, Debug, Default)]
pub struct Point {
    pub slide: String,
    pub patient: String,
    /// Which pass through the cross-validation, counted from 0.
    pub repeat: usize,
    /// Counted from 0; shown from 1.
    pub fold: usize,
    pub truth: f64,
    pub predicted: f64,
}

/// A gene's score on the held-out part of one fold.
#[derive(Clone, Debug, Default)]
pub struct FoldScore {
    /// Which pass through the cross-validation, counted from 0.
    pub repeat: usize,
    /// Counted from 0; shown from 1.
    pub fold: usize,
    pub samples: usize,
    pub pcc: Option<f64>,
    pub mse: Option<f64>,
}

/// One figure of training curves.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    /// Logarithmic vertical axis; values that are not positive are left out.
    pub logarithmic: bool,
    pub series: Vec<Series>,
    /// Vertical lines with a word, e.g. where training stopped.
    pub marks: Vec<(f64, String)>,
}

#[derive(Clone, Debug, Default)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    pub dashed: bool,
}

/// One slide: thumbnail, score map, kept patches, attention map.
#[derive(Clone, Debug)]
pub struct SlidePanel {
    pub name: String,
    pub thumbnail: Thumbnail,
    pub patches: Vec<PatchMark>,
    /// µm per pixel of level 0.
    pub mpp: Option<f64>,
    /// What the score is, e.g. `bits per pixel`.
    pub score_label: String,
    /// What the kept patches, in their order, add to genes.
    pub gene_maps: Vec<GeneMap>,
    /// Short facts: patient, scale, measured and predicted expression.
    pub facts: Vec<(String, String)>,
}

/// A gene's value per kept patch; the prediction is their mean.
#[derive(Clone, Debug)]
pub struct GeneMap {
    pub gene: String,
    pub values: Vec<f64>,
}

/// A patch and what the extractor makes of it.
#[derive(Clone, Debug)]
pub struct Reconstruction {
    pub label: String,
    pub original: RgbImage,
    pub reconstruction: RgbImage,
}

/// The same patches, and one slide, under every selector (the paper's figure 2).
#[derive(Clone, Debug, Default)]
pub struct SelectorComparison {
    pub patches: Vec<RgbImage>,
    pub selectors: Vec<SelectorRow>,
    /// The slide that they are of, for maps of all its scores.
    pub thumbnail: Option<Thumbnail>,
}

#[derive(Clone, Debug, Default)]
pub struct SelectorRow {
    pub name: String,
    /// What its score is, and what keeps a patch, e.g. `bits per pixel; at least mean + 1 standard deviations`.
    pub rule: String,
    /// Every patch of the slide.
    pub marks: Vec<PatchMark>,
    /// One per patch of the comparison, in the same order.
    pub cells: Vec<SelectorCell>,
}

#[derive(Clone, Debug, Default)]
pub struct SelectorCell {
    pub score: f64,
    pub kept: bool,
    /// The selector's response to the patch, e.g. its edges, where it has one.
    pub response: Option<RgbImage>,
}

/// Counts for the head of the report.
#[derive(Clone, Debug, Default)]
pub struct CohortSummary {
    pub slides: usize,
    pub patients: usize,
    pub patches: Option<PatchCounts>,
}

/// How many patches the selector saw, and how many it kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PatchCounts {
    pub scored: u64,
    pub kept: u64,
}

/// How much of a slide went on.
#[derive(Clone, Debug)]
pub struct KeptPatches {
    pub slide: String,
    pub patches: PatchCounts,
    /// Share of the slide that Otsu's threshold calls tissue, 0 to 1, and the share of that tissue that is kept.
    pub tissue_share: f64,
    pub tissue_kept_share: f64,
    /// Empty where there is nothing to say.
    pub remark: String,
}

/// A slide that was left out.
#[derive(Clone, Debug, Default)]
pub struct Excluded {
    pub slide: String,
    pub reason: String,
}

#[derive(Clone, Debug, Default)]
pub struct Timing {
    pub stage: String,
    pub seconds: f64,
    /// Rate or count, e.g. `1,312 patches`.
    pub note: String,
}

/// The report as one HTML document.
pub fn render(data: &ReportData) -> String {
    let sections = sections::all(data).into_iter().filter(|s| !s.2.is_empty());
    let owned: Vec<(String, String, String)> =
        sections.map(|(id, title, body)| (id.into(), title.into(), body)).collect();
    page(&data.title, &sections::head(data), &owned)
}

/// A page of this look: its title, the HTML of its head, and of each section the identifier, the title and the body.
pub fn page(title: &str, head: &str, sections: &[(String, String, String)]) -> String {
    let mut page = String::with_capacity(1 << 20);
    page.push_str("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\" />\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n");
    page.push_str("<meta name=\"color-scheme\" content=\"light dark\" />\n");
    page.push_str(&format!("<title>{}</title>\n<style>\n", html::escape(title)));
    page.push_str(include_str!("style.css"));
    page.push_str("</style>\n</head>\n<body>\n");
    page.push_str(head);
    page.push_str("<nav aria-label=\"Contents\"><ul>");
    for (id, title, _) in sections {
        page.push_str(&format!("<li><a href=\"#{id}\">{title}</a></li>"));
    }
    page.push_str("</ul></nav>\n<main>\n");
    for (id, title, body) in sections {
        page.push_str(&format!("<section id=\"{id}\">\n<h2>{title}</h2>\n{body}\n</section>\n"));
    }
    page.push_str("</main>\n<footer>Written by isg ");
    page.push_str(env!("CARGO_PKG_VERSION"));
    page.push_str(
        ". For research, not for diagnosis. Everything on this page is inside this file.</footer>\n</body>\n</html>\n",
    );
    page
}
