//! The report: well-formed, self-contained, safe with hostile names, and complete for ordinary and for empty runs.

use std::{path::Path, sync::OnceLock};

use isg::{
    image::RgbImage,
    report::{
        CohortSummary, Curve, Excluded, FoldScore, GeneMap, GeneReport, KeptPatches, PatchCounts, PatchMark, Point,
        Reconstruction, ReportData, SelectorCell, SelectorComparison, SelectorRow, Series, SlidePanel, Thumbnail,
        Timing, render,
    },
    synth::{self, SynthOptions, cohort, random::Stream},
};

const OPTIONS: SynthOptions = SynthOptions { slides: 3, seed: 21, size_px: 1024 };

/// How much the luminance varies in a patch: a stand-in for a selector's score.
fn texture(image: &RgbImage) -> f64 {
    let luma: Vec<f64> = image.pixels.chunks_exact(3).map(|p| p.iter().map(|v| f64::from(*v)).sum::<f64>()).collect();
    let mean = luma.iter().sum::<f64>() / luma.len() as f64;
    (luma.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / luma.len() as f64).sqrt() / 3.0
}

fn panel(image: &RgbImage, name: &str, facts: &[(&str, &str)]) -> SlidePanel {
    let side = 64;
    let mut patches: Vec<PatchMark> = (0..(image.width_px / side) * (image.height_px / side))
        .map(|i| {
            let (x, y) = (i % (image.width_px / side) * side, i / (image.width_px / side) * side);
            let score = texture(&image.crop(x, y, side, side));
            PatchMark {
                x_px: x as u64,
                y_px: y as u64,
                side_px: side as u64,
                score,
                kept: score > 30.0,
                attention: None,
            }
        })
        .collect();
    let total: f64 = patches.iter().filter(|m| m.kept).map(|m| m.score).sum();
    patches.iter_mut().filter(|m| m.kept).for_each(|m| m.attention = Some(m.score / total));
    SlidePanel {
        name: name.into(),
        thumbnail: Thumbnail { image: image.clone(), slide_px: (image.width_px as u64, image.height_px as u64) },
        gene_maps: vec![GeneMap {
            gene: "MADE UP".into(),
            values: patches.iter().filter(|m| m.kept).map(|m| m.score / 10.0).collect(),
        }],
        patches,
        mpp: Some(0.5),
        score_label: "texture, grey levels".into(),
        facts: facts.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
    }
}

fn gene(name: &str, strength: f64, note: &str) -> GeneReport {
    let mut stream = Stream::new(4, name, 0);
    let points: Vec<Point> = (0..60)
        .map(|i| {
            let truth = 1.5 + 0.35 * stream.normal();
            let noise = 0.35 * stream.normal();
            let predicted = 1.5 + strength * (strength * (truth - 1.5) + (1.0 - strength * strength).sqrt() * noise);
            Point {
                slide: format!("TCGA-SA-{i:04}-01Z-00-DX1"),
                patient: format!("TCGA-SA-{i:04}"),
                repeat: 0,
                fold: i % 5,
                truth,
                predicted,
            }
        })
        .collect();
    let folds = (0..5).map(|fold| FoldScore {
        repeat: 0,
        fold,
        samples: 12,
        pcc: Some(strength - 0.03 * fold as f64),
        mse: Some(0.05),
    });
    GeneReport {
        name: name.into(),
        project: String::new(),
        patients: 60,
        pcc: Some(strength),
        ci: Some((strength - 0.15, (strength + 0.1).min(1.0))),
        pooled_pcc: Some(strength - 0.04),
        spearman: Some(strength - 0.02),
        mse: Some(0.0421),
        mse_scaled: Some(0.31),
        p_value: Some(if strength > 0.3 { 3.1e-12 } else { 0.64 }),
        q_fdr: Some(if strength > 0.3 { 1.2e-11 } else { 0.64 }),
        folds: folds.collect(),
        others: vec![("ridge".into(), Some(strength - 0.2)), ("mean-mlp".into(), None)],
        note: note.into(),
        points,
    }
}

/// Drawn once: slides take a while where code is not optimised.
fn sample() -> ReportData {
    static SAMPLE: OnceLock<ReportData> = OnceLock::new();
    SAMPLE.get_or_init(make_sample).clone()
}

fn make_sample() -> ReportData {
    let decay = |from: f64, to: f64, rate: f64, seed: u64| -> Vec<(f64, f64)> {
        let mut stream = Stream::new(seed, "curve", 0);
        let at = |i: usize, noise: f64| to + (from - to) * (-rate * i as f64).exp() * (1.0 + 0.05 * noise);
        (0..120).map(|i| (i as f64, at(i, stream.normal()))).collect()
    };
    let series = |name: &str, points, dashed| Series { name: name.into(), points, dashed };
    let slides: Vec<(RgbImage, String)> = cohort::plan(OPTIONS.slides, OPTIONS.seed)
        .into_iter()
        .map(|plan| (synth::draw(&plan, &OPTIONS).0, plan.name))
        .collect();
    let first = &slides[0].0;
    let patches: Vec<RgbImage> = [(0, 0), (300, 300), (450, 420), (620, 500), (200, 700)]
        .iter()
        .map(|(x, y)| first.crop(*x, *y, 128, 128))
        .collect();
    let row = |name: &str, at: f64| SelectorRow {
        name: name.into(),
        cells: patches
            .iter()
            .map(|p| SelectorCell { score: texture(p) / 40.0, kept: texture(p) > at, response: None })
            .collect(),
        ..SelectorRow::default()
    };
    let kept = |slide: &str, kept: u64, tissue_kept_share: f64, remark: &str| KeptPatches {
        slide: slide.into(),
        patches: PatchCounts { scored: 576, kept },
        tissue_share: 0.4,
        tissue_kept_share,
        remark: remark.into(),
    };
    ReportData {
        title: "Gene expression from a synthetic cohort".into(),
        summary: "60 slides of 51 patients, five-fold cross-validation by patient. Three genes follow the morphology, \
                  one follows nothing."
            .into(),
        target: "log10(1 + FPKM)".into(),
        genes: vec![
            gene("LYMPH1", 0.86, "density of lymphocyte-like nuclei"),
            gene("GLAND1", 0.79, "share of gland"),
            gene("INTER1", 0.71, "product of both"),
            gene("NULL1", 0.02, "nothing"),
        ],
        over_projects: Vec::new(),
        curves: vec![
            Curve {
                title: "Extractor".into(),
                x_label: "step".into(),
                y_label: "loss".into(),
                logarithmic: true,
                series: vec![
                    series("L1", decay(0.6, 0.03, 0.04, 1), false),
                    series("LPIPS", decay(0.8, 0.2, 0.03, 2), false),
                    series("adversarial", decay(1.4, 0.7, 0.02, 3), false),
                ],
                marks: vec![],
            },
            Curve {
                title: "Regressor, fold 1".into(),
                x_label: "epoch".into(),
                y_label: "mean squared error".into(),
                logarithmic: false,
                series: vec![
                    series("training", decay(1.0, 0.2, 0.06, 4), false),
                    series("validation", decay(1.0, 0.35, 0.05, 5), true),
                ],
                marks: vec![(70.0, "stopped".into())],
            },
        ],
        slides: slides
            .iter()
            .map(|(image, name)| {
                panel(image, name, &[("scale", "0.5 µm/px"), ("LYMPH1", "measured 1.92, predicted 1.81")])
            })
            .collect(),
        reconstructions: patches
            .iter()
            .enumerate()
            .map(|(i, p)| Reconstruction {
                label: format!("patch {i}"),
                original: p.clone(),
                reconstruction: p.resize_area(32, 32).resize_area(128, 128),
            })
            .collect(),
        selectors: Some(SelectorComparison {
            selectors: vec![row("Shannon", 30.0), row("Otsu", 15.0), row("Canny", 38.0)],
            patches,
            thumbnail: None,
        }),
        cohort: CohortSummary { slides: 60, patients: 51, patches: Some(PatchCounts { scored: 34_560, kept: 8_123 }) },
        selection_rule: "at least 10.7 bits per pixel".into(),
        kept: vec![kept("A", 200, 0.9, ""), kept("B", 2, 0.04, "less than a quarter of the tissue is kept")],
        excluded: vec![Excluded {
            slide: "TCGA-SB-0099-01Z-00-DX1.tiff".into(),
            reason: "no scale in the file; give --mpp or a table of scales".into(),
        }],
        timings: vec![
            Timing { stage: "selection".into(), seconds: 21.0, note: "34,560 patches".into() },
            Timing { stage: "extractor".into(), seconds: 412.0, note: "1,200 steps".into() },
            Timing { stage: "features".into(), seconds: 96.0, note: "8,123 patches".into() },
            Timing { stage: "regressor".into(), seconds: 240.0, note: "5 folds".into() },
        ],
        settings: vec![
            ("cohort".into(), vec![("folds".into(), "5".into()), ("seed".into(), "1".into())]),
            ("select".into(), vec![("codec".into(), "lz".into()), ("sigma".into(), "1.0".into())]),
        ],
    }
}

/// Parses the page as XML, which the report also is.
fn parse(page: &str) -> roxmltree::Document<'_> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    roxmltree::Document::parse_with_options(page, options).expect("a well-formed page")
}

#[test]
fn a_whole_report_is_well_formed_and_has_every_section() {
    let page = render(&sample());
    // Kept where a person can look at it.
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.html"), &page).expect("a page on disk");
    let document = parse(&page);
    let sections: Vec<&str> =
        document.descendants().filter(|n| n.has_tag_name("section")).filter_map(|n| n.attribute("id")).collect();
    let all = [
        "results",
        "scatter",
        "folds",
        "selection",
        "slides",
        "training",
        "reconstructions",
        "selectors",
        "excluded",
        "timings",
        "settings",
    ];
    assert!(page.contains("8,123</") && page.contains("of 34,560 patches kept"), "kept of scored, this way round");
    assert_eq!(sections, all);
    assert!(
        page.find("less than a quarter of").expect("a remark") < page.find("90.0 %").expect("a share"),
        "remarks first"
    );
    let links: Vec<&str> = document
        .descendants()
        .filter(|n| n.has_tag_name("a"))
        .filter_map(|n| n.attribute("href").and_then(|h| h.strip_prefix('#')))
        .collect();
    assert_eq!(links, all);
    let points = document
        .descendants()
        .filter(|n| n.has_tag_name("circle") && n.attribute("class").is_some_and(|c| c.starts_with("point")));
    assert_eq!(points.count(), 4 * 60);
    let pictures = document.descendants().filter(|n| n.has_tag_name("img"));
    assert_eq!(pictures.count(), 3 * 5 + 5 * 2 + 5);
    assert!(document.descendants().filter(|n| n.has_tag_name("img")).all(|n| n.attribute("alt").is_some()));
}

#[test]
fn nothing_is_fetched_and_nothing_runs() {
    let page = render(&sample());
    let document = parse(&page);
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        let name = node.tag_name().name();
        assert!(!["script", "link", "iframe", "object", "embed", "base"].contains(&name), "<{name}>");
        for attribute in node.attributes() {
            assert!(!attribute.name().starts_with("on"), "{} on <{name}>", attribute.name());
            if ["src", "href", "srcset", "action", "data"].contains(&attribute.name()) {
                let inside = attribute.value().starts_with("data:image/") || attribute.value().starts_with('#');
                assert!(inside, "{}", attribute.value().chars().take(60).collect::<String>());
            }
        }
    }
    for outside in ["http:", "https:", "@import", "url("] {
        assert!(!page.contains(outside), "the page names {outside}");
    }
}

#[test]
fn hostile_names_stay_text() {
    let hostile = "<script>alert(1)</script>\" onload='x' & \u{0}\u{7}]]> -->";
    let shown = "<script>alert(1)</script>\" onload='x' & \u{fffd}\u{fffd}]]> -->";
    let mut data = sample();
    data.title = hostile.into();
    data.summary = hostile.into();
    data.target = hostile.into();
    data.genes[0].name = hostile.into();
    data.genes[0].note = hostile.into();
    data.genes[0].points[0].slide = hostile.into();
    data.genes[0].points[0].patient = hostile.into();
    data.curves[0].title = hostile.into();
    data.curves[0].series[0].name = hostile.into();
    data.curves[1].marks[0].1 = hostile.into();
    data.curves[0].x_label = hostile.into();
    data.slides[0].name = hostile.into();
    data.slides[0].score_label = hostile.into();
    data.slides[0].facts[0] = (hostile.into(), hostile.into());
    data.reconstructions[0].label = hostile.into();
    if let Some(selectors) = &mut data.selectors {
        selectors.selectors[0].name = hostile.into();
    }
    data.excluded[0] = Excluded { slide: hostile.into(), reason: hostile.into() };
    data.timings[0].stage = hostile.into();
    data.timings[0].note = hostile.into();
    data.settings[0].0 = hostile.into();
    data.settings[0].1[0] = (hostile.into(), hostile.into());
    let page = render(&data);
    let document = parse(&page);
    assert!(!document.descendants().any(|n| n.has_tag_name("script")));
    let heading = document.descendants().find(|n| n.has_tag_name("h1")).and_then(|n| n.text());
    assert_eq!(heading, Some(shown));
    let times = document.descendants().filter(|n| n.is_text() && n.text().is_some_and(|t| t.contains(shown))).count();
    assert!(times >= 19, "every text arrives as text: {times}");
}

/// With one project nobody reads of projects; with several each result is of one, and what is pooled over them comes last.
#[test]
fn results_are_by_project_where_there_are_several() {
    let of = |project: &str, strength| GeneReport { project: project.into(), ..gene("CD3E", strength, "") };
    let one = render(&ReportData { genes: vec![gene("CD3E", 0.6, "")], ..Default::default() });
    assert!(!one.contains("All projects together") && !one.contains(">Project<"));
    let data = ReportData {
        genes: vec![of("LIHC", 0.5), of("COAD", 0.3)],
        over_projects: vec![of("all", 0.9)],
        ..Default::default()
    };
    let several = render(&data);
    parse(&several);
    let at = |what: &str| several.find(what).unwrap_or_else(|| panic!("{what} is missing"));
    assert!(at("<td>LIHC</td>") < at("All projects together") && at("<td>COAD</td>") < at("All projects together"));
    assert!(several.contains("CD3E in LIHC") && several.contains("counts as prediction"));
    assert!(several.contains("from the patches of all slides"), "what the encoders saw");
}

#[test]
fn empty_and_degenerate_runs_still_make_a_page() {
    let page = render(&ReportData::default());
    assert_eq!(parse(&page).descendants().filter(|n| n.has_tag_name("section")).count(), 0);
    let nan = GeneReport {
        name: "FLAT".into(),
        pcc: Some(f64::NAN),
        ci: Some((f64::NAN, f64::INFINITY)),
        points: vec![Point { truth: f64::NAN, predicted: 1.0, ..Default::default() }, Point::default()],
        folds: vec![FoldScore::default()],
        ..Default::default()
    };
    let curve = |points| Curve {
        logarithmic: true,
        series: vec![Series { points, ..Default::default() }],
        ..Default::default()
    };
    let data = ReportData {
        genes: vec![nan, GeneReport::default()],
        curves: vec![
            curve(vec![(0.0, -1.0)]),
            curve(vec![(1.0, 2.0)]),
            curve(vec![(f64::NAN, 0.0), (1.0, f64::INFINITY)]),
        ],
        slides: vec![SlidePanel {
            name: "empty".into(),
            thumbnail: Thumbnail { image: RgbImage::filled(0, 0, [0; 3]), slide_px: (0, 0) },
            patches: vec![],
            mpp: None,
            gene_maps: vec![GeneMap { gene: "none".into(), values: vec![f64::NAN] }],
            score_label: String::new(),
            facts: vec![],
        }],
        timings: vec![Timing { seconds: f64::NAN, ..Default::default() }],
        ..Default::default()
    };
    let page = render(&data);
    let document = parse(&page);
    for text in
        document.descendants().flat_map(|n| n.attributes().map(|a| a.value()).chain(n.text()).collect::<Vec<_>>())
    {
        let mut words = text.split(|c: char| !c.is_alphanumeric());
        assert!(words.all(|w| w != "NaN" && w != "inf"), "not a number: {text}");
    }
}
