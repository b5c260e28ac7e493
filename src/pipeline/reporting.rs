//! Last stage: everything a run found, as the report shows it.

use std::collections::HashMap;

use super::{
    Run, Scale,
    features::Encoders,
    results,
    scan::{self, LeftOut},
    selection::{Selected, Selection},
};
use crate::{
    cohort::targets::Transform,
    device::Device,
    error::Result,
    eval::{
        metrics::{ALL_PROJECTS, GroupScores, Part, Prediction},
        tables::{self, Comparison, GeneResult},
    },
    extractor::{patches::PatchSource, quality::Quality, training},
    image::RgbImage,
    io::atomic,
    mil::{bags::BagSet, crossval::CvResult, predictor::Predictor},
    progress::Progress,
    random::Philox,
    report::{
        self, CohortSummary, Curve, Excluded, FoldScore, GeneReport, KeptPatches, PatchCounts, PatchMark, Point,
        Reconstruction, ReportData, SelectorComparison, Series, SlidePanel, Thumbnail, Timing, selection,
    },
    select::Scorer,
};

/// Slides drawn with their maps; a report of a large cohort stays readable.
const SLIDES_SHOWN: usize = 6;
const RECONSTRUCTIONS_SHOWN: usize = 6;
const THUMBNAIL_PX: usize = 640;
/// Genes drawn on every slide.
const GENES_MAPPED: usize = 3;

/// What the report is made of.
pub struct View<'a> {
    pub run: &'a Run,
    pub selected: &'a [Selected],
    pub selection: &'a Selection,
    pub set: &'a BagSet,
    pub cv: &'a CvResult,
    pub comparison: &'a Comparison,
    pub left_out: &'a [LeftOut],
}

/// The report as one HTML file.
pub fn report(view: &View, device: &Device, progress: &dyn Progress) -> Result<String> {
    let shown = shown_slides(view);
    progress.begin("report", shown.len() as u64, "slides");
    let predictor = Predictor::load(&super::model_dir(&view.run.config.out, &view.run.config.train), device)?;
    let mapped = mapped_genes(view);
    let mut slides = Vec::with_capacity(shown.len());
    for &index in &shown {
        progress.check()?;
        slides.push(panel(view, &predictor, &mapped, index)?);
        progress.advance(1);
    }
    progress.end();
    let scored: u64 = view.selected.iter().map(|slide| slide.patches.len() as u64).sum();
    let kept: u64 = view.selected.iter().map(|slide| slide.kept().count() as u64).sum();
    let mut patients: Vec<&str> = view.selected.iter().map(|slide| slide.entry.patient.as_str()).collect();
    patients.sort_unstable();
    patients.dedup();
    let data = ReportData {
        title: "Gene expression from histology slides".to_string(),
        summary: format!(
            "{} slides of {} patients, {} genes; every number is of held-out patients in {}.",
            view.selected.len(),
            patients.len(),
            view.set.genes.len(),
            cross_validation(view),
        ),
        target: match view.run.cohort.transform {
            Transform::Log10p1 => "log10(1 + x)".to_string(),
            Transform::Log2p1 => "log2(1 + x)".to_string(),
            Transform::None => "expression".to_string(),
        },
        genes: view.comparison.results().iter().map(|result| gene_report(view, result)).collect(),
        over_projects: view.comparison.results_over_projects().iter().map(|result| gene_report(view, result)).collect(),
        curves: curves(view)?,
        slides,
        reconstructions: reconstructions(view, device)?,
        selection_rule: view.selection.describe(),
        kept: view.selected.iter().map(kept_patches).collect(),
        selectors: shown.get(shown.len() / 2).map(|&i| selectors(view, i, device, progress)).transpose()?,
        cohort: CohortSummary {
            slides: view.selected.len(),
            patients: patients.len(),
            patches: Some(PatchCounts { scored, kept }),
        },
        excluded: (view.left_out.iter())
            .map(|out| Excluded { slide: out.slide.clone(), reason: out.reason.clone() })
            .collect(),
        timings: timings(view.run),
        settings: settings(view.run),
    };
    Ok(report::render(&data))
}

fn kept_patches(slide: &Selected) -> KeptPatches {
    let share = slide.share();
    KeptPatches {
        slide: share.slide,
        patches: PatchCounts { scored: share.patches, kept: share.kept },
        tissue_share: share.tissue_share,
        tissue_kept_share: share.tissue_kept_share,
        remark: share.remark.unwrap_or_default(),
    }
}

/// The cross-validation in words.
fn cross_validation(view: &View) -> String {
    let of_repeat = |repeat: usize| {
        let mut folds: Vec<usize> = view.cv.predictions.iter().filter(|p| p.repeat == repeat).map(|p| p.fold).collect();
        folds.sort_unstable();
        folds.dedup();
        folds.len()
    };
    let repeats = view.cv.predictions.iter().map(|p| p.repeat + 1).max().unwrap_or(1);
    let folds = format!("{}-fold cross-validation", of_repeat(0));
    if repeats == 1 { folds } else { format!("{folds}, done {repeats} times") }
}

/// Slides spread evenly over the first gene's measured values: low, middle and high expression are all seen.
fn shown_slides(view: &View) -> Vec<usize> {
    let mut order: Vec<usize> = (0..view.selected.len()).collect();
    let value = |i: usize| view.set.targets[i].first().copied().unwrap_or(0.0);
    order.sort_by(|&a, &b| value(a).total_cmp(&value(b)).then(a.cmp(&b)));
    let count = SLIDES_SHOWN.min(order.len());
    (0..count).map(|i| order[i * (order.len() - 1) / (count - 1).max(1)]).collect()
}

/// The genes that are predicted best, whose maps are worth a look.
fn mapped_genes(view: &View) -> Vec<usize> {
    let mut found: Vec<(f64, usize)> = Vec::new();
    for result in view.comparison.results() {
        let gene = view.set.genes.iter().position(|name| *name == result.gene);
        if let (Some(gene), Some(pearson)) = (gene, result.pearson) {
            match found.iter_mut().find(|(_, other)| *other == gene) {
                Some(best) => best.0 = best.0.max(pearson),
                None => found.push((pearson, gene)),
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    found.into_iter().take(GENES_MAPPED).map(|(_, gene)| gene).collect()
}

fn panel(view: &View, predictor: &Predictor, mapped: &[usize], index: usize) -> Result<SlidePanel> {
    let selected = &view.selected[index];
    let slide = scan::open(&selected.entry)?;
    let bag = &view.set.bags[index];
    // A map by networks that trained on the slide would show what they remember of it.
    let folds = &view.cv.held_out_by[index];
    let explanation = predictor.explain_held_out(&*bag.features, Some(&bag.project), folds)?;
    let contribution = explanation.as_ref().and_then(|e| e.contribution.as_deref()).unwrap_or_default();
    let genes = view.set.genes.len();
    let gene_map = |&gene: &usize| report::GeneMap {
        gene: view.set.genes[gene].clone(),
        values: contribution.iter().skip(gene).step_by(genes).copied().collect(),
    };
    let gene_maps = if contribution.is_empty() { Vec::new() } else { mapped.iter().map(gene_map).collect() };
    let mut attention = explanation.iter().filter_map(|e| e.attention()).flatten().copied();
    let side_px = selected.extent_px[0];
    let patches = selected.patches.iter().map(|patch| PatchMark {
        x_px: patch.x,
        y_px: patch.y,
        side_px,
        score: patch.score,
        kept: patch.kept,
        attention: if patch.kept { attention.next() } else { None },
    });
    let mut facts = vec![("patient".to_string(), bag.patient.clone())];
    if let Some(mpp) = selected.mpp {
        facts.push(("scale".to_string(), format!("{mpp:.4} µm/px")));
    }
    let (width, height) = selected.size_px;
    facts.push(("size".to_string(), format!("{width} × {height} px")));
    facts.push(("patches kept".to_string(), format!("{} of {}", selected.kept().count(), selected.patches.len())));
    // Of a slide that every repeat held out, the mean of what they said.
    let held_out: Vec<&Prediction> = view.cv.predictions.iter().filter(|p| p.slide == bag.slide).collect();
    for (gene, name) in view.set.genes.iter().enumerate() {
        if let Some(first) = held_out.first() {
            let predicted = held_out.iter().map(|p| p.predicted[gene]).sum::<f64>() / held_out.len() as f64;
            facts.push((name.clone(), format!("measured {:.2}, predicted {predicted:.2}", first.truth[gene])));
        }
    }
    Ok(SlidePanel {
        name: bag.slide.clone(),
        thumbnail: Thumbnail { image: slide.thumbnail(THUMBNAIL_PX)?, slide_px: selected.size_px },
        patches: patches.collect(),
        mpp: selected.mpp,
        gene_maps,
        score_label: view.run.config.select.selector()?.unit().to_string(),
        facts,
    })
}

/// The paper's figure 2 on one slide: every selector that can be used as configured. Also written as `selectors.svg`.
fn selectors(view: &View, index: usize, device: &Device, progress: &dyn Progress) -> Result<SelectorComparison> {
    let config = &view.run.config;
    let mut compared = Vec::new();
    for selector in config.select.selectors.all().filter(|selector| selector.is_complete()) {
        let own = selector.name() == config.select.selector;
        let threshold = if own { view.selection.choice.threshold() } else { selector.default_threshold() };
        compared.push((Scorer::new(selector, device)?, threshold));
    }
    let plane = scan::plane(&view.selected[index].entry, &config.select)?;
    let comparison = selection::compare(&plane, config.select.patch_px, &compared, progress)?;
    atomic::write_bytes(view.run.path(results::SELECTORS_FILE), selection::figure(&comparison).as_bytes())?;
    Ok(comparison)
}

fn gene_report(view: &View, result: &GeneResult) -> GeneReport {
    let evaluation = view.comparison.first();
    let gene = evaluation.genes.iter().position(|gene| *gene == result.gene).unwrap_or(0);
    let several = evaluation.projects.len() > 1;
    let fold_score = |group: &GroupScores| match group.part {
        Part::Fold { repeat, fold } if group.project == result.project => {
            let score = &group.genes[gene];
            Some(FoldScore { repeat, fold, samples: score.n, pcc: score.pearson, mse: score.mse })
        }
        _ => None,
    };
    let other = |(key, pearson): (&String, &Option<f64>)| (key.trim_end_matches(tables::PEARSON).to_string(), *pearson);
    let of_project = |p: &&Prediction| result.project == ALL_PROJECTS || p.project == result.project;
    GeneReport {
        name: result.gene.clone(),
        project: if several { result.project.clone() } else { String::new() },
        points: (view.cv.predictions.iter())
            .filter(of_project)
            .filter(|p| p.truth[gene].is_finite())
            .map(|p| Point {
                slide: p.slide.clone(),
                patient: p.patient.clone(),
                repeat: p.repeat,
                fold: p.fold,
                truth: p.truth[gene],
                predicted: p.predicted[gene],
            })
            .collect(),
        patients: result.n,
        pcc: result.pearson,
        ci: result.interval.map(|i| (i.low, i.high)),
        pooled_pcc: result.pooled_pearson,
        spearman: result.spearman,
        mse: result.mse,
        mse_scaled: result.mse_scaled,
        p_value: result.p_value,
        q_fdr: result.false_discovery_rate,
        folds: evaluation.groups.iter().filter_map(fold_score).collect(),
        others: result.others.iter().map(other).collect(),
        note: String::new(),
    }
}

fn curves(view: &View) -> Result<Vec<Curve>> {
    let mut curves = Vec::new();
    let encoder = &view.run.config.encoder.encoder;
    for scale in view.run.config.scales() {
        let steps = view.run.at_site(scale, |site| encoder.curve(site))?;
        if steps.is_empty() {
            continue;
        }
        let series = |name: &str, value: &dyn Fn(&training::StepRecord) -> Option<f64>| Series {
            name: name.to_string(),
            points: smoothed(steps.iter().filter_map(|s| Some((s.step as f64, value(s)?))).collect()),
            dashed: false,
        };
        // What the pair is worth is measured on other patches than the batch, every hundred steps.
        let measured = |name: &str, value: &dyn Fn(&Quality) -> Option<f64>| Series {
            name: name.to_string(),
            points: (steps.iter()).filter_map(|s| Some((s.step as f64, s.quality.as_ref().and_then(value)?))).collect(),
            dashed: true,
        };
        let last = steps.iter().rev().find_map(|step| step.quality);
        let worth = last.map_or(String::new(), |quality| {
            format!(
                ": {}{}",
                quality.remark(),
                quality.warning().map_or(String::new(), |warning| format!(". {warning}"))
            )
        });
        curves.push(Curve {
            title: format!("{} extractor{worth}", scale.name()),
            x_label: "step".to_string(),
            y_label: "loss".to_string(),
            logarithmic: true,
            series: vec![
                series("L1", &|s| Some(s.l1)),
                series("LPIPS", &|s| s.lpips),
                series("adversarial", &|s| s.adversarial),
                series("critic", &|s| s.critic),
                measured("L1, measured", &|q| Some(q.l1)),
                measured("L1 of a constant", &|q| Some(q.constant_l1)),
                measured("L1 of PCA", &|q| q.pca_l1),
            ],
            marks: Vec::new(),
        });
    }
    let mut folds: HashMap<usize, Vec<Series>> = HashMap::new();
    for curve in view.cv.curves.iter().filter(|c| c.task.is_none() && c.member == 0) {
        let points = |value: &dyn Fn(&crate::mil::training::EpochRecord) -> Option<f64>| -> Vec<(f64, f64)> {
            curve.epochs.iter().filter_map(|e| Some((e.epoch as f64, value(e)?))).collect()
        };
        let name = format!("fold {}", curve.fold + 1);
        let series = folds.entry(curve.fold).or_default();
        series.push(Series { name: name.clone(), points: points(&|e| Some(e.train_loss)), dashed: false });
        let valid = points(&|e| e.valid_loss);
        if !valid.is_empty() {
            series.push(Series { name: format!("{name}, validation"), points: valid, dashed: true });
        }
    }
    let mut folds: Vec<(usize, Vec<Series>)> = folds.into_iter().collect();
    folds.sort_by_key(|(fold, _)| *fold);
    curves.push(Curve {
        title: view.run.config.train.method.spec().title.to_string(),
        x_label: "epoch".to_string(),
        y_label: view.run.config.train.loss().title().to_string(),
        logarithmic: true,
        series: folds.into_iter().flat_map(|(_, series)| series).collect(),
        marks: Vec::new(),
    });
    Ok(curves)
}

/// Means over runs of neighbouring steps: at most 200 points a line.
fn smoothed(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let run = points.len().div_ceil(200).max(1);
    let mean = |part: &[(f64, f64)]| {
        let n = part.len() as f64;
        (part.iter().map(|p| p.0).sum::<f64>() / n, part.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(run).map(mean).collect()
}

/// Original and reconstruction of a few kept patches, at each scale that has a generator.
fn reconstructions(view: &View, device: &Device) -> Result<Vec<Reconstruction>> {
    let encoders = Encoders::load(&view.run.config, &view.run.config.out, device)?;
    let mut out = Vec::new();
    for (scale, encoder) in [(Scale::Global, &encoders.global), (Scale::Local, &encoders.local)] {
        let Some(extractor) = encoder.as_ref().and_then(|encoder| encoder.extractor()) else { continue };
        let source = super::SlidePatches::new(view.selected, &view.run.config, scale)?;
        let random = Philox::named(view.run.config.seed, "reconstructions");
        let images = (0..RECONSTRUCTIONS_SHOWN as u64)
            .map(|i| source.load(random.below(i, source.len())))
            .collect::<Result<Vec<RgbImage>>>()?;
        let px = extractor.config().image_px;
        for (original, reconstruction) in images.iter().zip(extractor.reconstruct(&images)?) {
            let original = original.resize_area(px, px);
            out.push(Reconstruction { label: scale.name().to_string(), original, reconstruction });
        }
    }
    Ok(out)
}

fn timings(run: &Run) -> Vec<Timing> {
    let seconds = run.timings();
    let stages = [super::Stage::Scan, super::Stage::Extractors, super::Stage::Features, super::Stage::Training];
    let timing = |stage: super::Stage| {
        let seconds = *seconds.get(stage.name())?;
        Some(Timing { stage: stage.name().to_string(), seconds, note: String::new() })
    };
    stages.into_iter().filter_map(timing).collect()
}

/// The resolved configuration, section by section, as it is written in `config.toml`.
fn settings(run: &Run) -> Vec<(String, Vec<(String, String)>)> {
    let Ok(table) = toml::Table::try_from(run.config.absolute()) else { return Vec::new() };
    let (mut general, mut groups) = (Vec::new(), Vec::new());
    for (key, value) in table {
        match value {
            toml::Value::Table(section) => {
                let mut rows = Vec::new();
                flatten("", &section, &mut rows);
                groups.push((key, rows));
            }
            value => general.push((key, value.to_string())),
        }
    }
    groups.insert(0, ("run".to_string(), general));
    groups
}

fn flatten(prefix: &str, table: &toml::Table, rows: &mut Vec<(String, String)>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => flatten(&format!("{prefix}{key}."), inner, rows),
            value => rows.push((format!("{prefix}{key}"), value.to_string())),
        }
    }
}
