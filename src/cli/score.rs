//! `isg score`: how much texture every patch of slides or images has, and which patches are kept.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::json;

use super::{Context, Outcome, output, selector_flags::SelectorFlags};
use crate::{
    device::Device,
    error::{Error, Result},
    escape,
    io::atomic,
    report::selection,
    select::{
        Choice, PatchGrid, PatchScore, SELECTORS, Scope, ScoreOptions, Scorer, Selector, Threshold,
        score::{DEFAULT_PATCH_PX, SlideScores, score_slide_with},
        score_map,
    },
    slide::{MppTable, Plane, Slide, SlideOptions},
};

fn after_help() -> String {
    let selectors: Vec<String> = SELECTORS.iter().map(|spec| format!("{}, {}", spec.name, spec.unit)).collect();
    format!(
        "Examples:\n  isg score slide.svs --out scores.csv\n  isg score slide.svs --map scores.png --top 200\n  \
         isg score tiles/*.png --patch-px 512 --over cohort\n  isg score slide.svs --codec jpeg --bits 1.6e6\n  \
         isg score slides/*.svs --at-mpp 0.5 --over cohort --out scores.csv\n  \
         isg score slide.svs --selector otsu --min 0.5\n  isg score tile.png --selector canny --response edges.png\n  \
         isg score slide.svs --figure selectors.svg\n\n\
         Selectors, and what their scores are: {}.",
        selectors.join("; ")
    )
}

#[derive(clap::Args)]
#[command(
    about = "Texture of every patch, and which patches are kept",
    long_about = "Scores patches by the length of their compressed form (Shannon selection), or by another selector, and marks \
        those kept.\n\n\
        Patches are whole squares from the top left corner, without overlap; an image smaller than a patch is one patch, \
        scored at its real size. Prints CSV: slide,x,y,patch_px,bits,bits_per_px,kept; for selectors other than shannon \
        slide,x,y,patch_px,score,kept. A file that cannot be read is reported and the others are scored; the exit status is then 3.",
    after_help = after_help()
)]
#[command(group(clap::ArgGroup::new("threshold").args(["sigma", "bits", "bpp", "min", "top"])))]
pub struct Args {
    /// Slides, or PNG and JPEG images.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Side of a patch in pixels of the level, or of --at-mpp.
    #[arg(long, value_name = "PX", default_value_t = DEFAULT_PATCH_PX)]
    patch_px: usize,
    /// What patches are scored by; the selectors are listed below.
    #[arg(long, value_name = "NAME", default_value = SELECTORS[0].name)]
    selector: String,
    #[command(flatten)]
    selectors: SelectorFlags,
    /// Keep patches of at least the mean plus K standard deviations of the score [default: 1, over a cohort 0; for otsu --min 0.5].
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    sigma: Option<f64>,
    /// Keep patches of at least so many bits; shannon.
    #[arg(long, value_name = "B")]
    bits: Option<f64>,
    /// Keep patches of at least so many bits per pixel; shannon.
    #[arg(long, value_name = "B")]
    bpp: Option<f64>,
    /// Keep patches of at least this score.
    #[arg(long, value_name = "SCORE")]
    min: Option<f64>,
    /// Keep the N patches with the highest scores.
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// What `--sigma` and `--top` look at together: the patches of each slide, or of all files as one cohort. Over a cohort
    /// patches of glass are left out of the mean and not kept, as in a run.
    #[arg(long, value_enum, value_name = "GROUP", default_value_t = Group::Slide)]
    over: Group,
    /// Level of the pyramid to score.
    #[arg(long, value_name = "L", default_value_t = 0)]
    level: usize,
    /// Cut patches at this scale, from the nearest finer level, as a run with select.mpp does; x and y are in level-0 pixels.
    #[arg(long, value_name = "UM_PER_PX", conflicts_with = "level")]
    at_mpp: Option<f64>,
    /// µm per pixel of level 0, over what the files say.
    #[arg(long, value_name = "UM_PER_PX", requires = "at_mpp", conflicts_with = "mpp_table")]
    mpp: Option<f64>,
    /// Table with the columns slide,mpp for slides whose scale is missing or wrong. Every row must fit a slide.
    #[arg(long, value_name = "FILE.csv", requires = "at_mpp")]
    mpp_table: Option<PathBuf>,
    /// Decode and score only this share of the patches, those with the most compressed bytes in a JPEG slide; the others
    /// are left out [default share: 0.5].
    #[arg(long, value_name = "SHARE", num_args = 0..=1, require_equals = true, default_missing_value = "0.5")]
    prefilter: Option<f64>,
    /// Write the CSV here instead of to standard output.
    #[arg(long, value_name = "FILE.csv")]
    out: Option<PathBuf>,
    /// Write the thumbnail with the scores over it; for one slide.
    #[arg(long, value_name = "FILE.png")]
    map: Option<PathBuf>,
    /// Write what the selector sees in the first patch (upper left) of one file: PNG, 255 where it finds most, or the numbers as NumPy's .npy.
    #[arg(long, value_name = "FILE.png|FILE.npy")]
    response: Option<PathBuf>,
    /// Draw one slide's patches under every selector that can be used, and what each keeps, into one image.
    #[arg(long, value_name = "FILE.svg")]
    figure: Option<PathBuf>,
    /// Print JSON instead of CSV.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Group {
    Slide,
    Cohort,
}

impl Group {
    fn scope(self) -> Scope {
        match self {
            Group::Slide => Scope::Slide,
            Group::Cohort => Scope::Run,
        }
    }
}

impl Args {
    /// Every selector that can be used, with its threshold, for the figure: the chosen one's is the one asked for.
    fn all_selectors(&self, options: &ScoreOptions, device: &Device) -> Result<Vec<(Scorer, Threshold)>> {
        let ready = |selector: &Arc<dyn Selector>| {
            let own = selector.name() == options.selector.name();
            let threshold = if own { options.threshold } else { selector.default_threshold() };
            Ok((Scorer::new(selector, device)?, threshold))
        };
        self.selectors.0.all().filter(|selector| selector.is_complete()).map(ready).collect()
    }

    fn options(&self) -> Result<ScoreOptions> {
        let selector = self.selectors.0.named(&self.selector)?;
        if self.bpp.is_some() && !selector.counts_bits() {
            return Err(Error::Usage(format!("{} counts no bits; give --min instead of --bpp", selector.name())));
        }
        let threshold = match (self.sigma, self.bits, self.bpp.or(self.min), self.top) {
            (_, Some(bits), _, _) => Threshold::Bits(bits),
            (_, _, Some(least), _) => Threshold::Min(least),
            (_, _, _, Some(n)) => Threshold::Top(n),
            (Some(deviations), ..) => Threshold::Sigma(deviations),
            _ => match selector.default_threshold() {
                Threshold::Sigma(_) => Threshold::Sigma(self.over.scope().default_sigma()),
                other => other,
            },
        };
        let options = ScoreOptions {
            patch_px: self.patch_px,
            selector,
            mpp: self.at_mpp,
            level: self.level,
            threshold,
            prefilter: self.prefilter,
        };
        options.check()?;
        Ok(options)
    }
}

pub fn run(args: Args, context: &Context) -> Result<Outcome> {
    let options = args.options()?;
    if args.map.is_some() && args.files.len() > 1 {
        return Err(Error::Usage("--map draws one slide; give one file, or leave it out".to_string()));
    }
    if (args.response.is_some() || args.figure.is_some()) && args.files.len() > 1 {
        return Err(Error::Usage("--response and --figure are of one file; give one, or leave them out".to_string()));
    }
    let weights: Vec<PathBuf> = args.selectors.0.all().flat_map(|selector| selector.files()).collect();
    let written = [&args.out, &args.map, &args.response, &args.figure].into_iter().flatten().map(PathBuf::as_path);
    let read = args.files.iter().chain(&weights).chain(&args.mpp_table).map(PathBuf::as_path);
    output::refuse_overwriting(written, read)?;
    let device = context.device()?;
    let scorer = Scorer::new(&options.selector, &device)?;
    let scales = match &args.mpp_table {
        Some(path) => MppTable::read(path)?.of_slides(&args.files)?,
        None => vec![args.mpp; args.files.len()],
    };
    let (mut scored, mut failed) = (Vec::new(), Vec::new());
    for (file, mpp) in args.files.iter().zip(scales) {
        let opened = Slide::open_with(file, &SlideOptions { mpp, ..SlideOptions::default() });
        let scores = opened.and_then(|slide| {
            let scores = score_slide_with(&slide, &options, &scorer, &context.progress)?;
            Ok((options.plane(&slide)?, scores))
        });
        match scores {
            Ok((plane, scores)) => {
                if let Some(path) = &args.map {
                    score_map::draw(&plane, options.patch_px, &scores.patches)?.write_png(path)?;
                }
                if let Some(path) = &args.figure {
                    let selectors = args.all_selectors(&options, &device)?;
                    let compared = selection::compare(&plane, options.patch_px, &selectors, &context.progress)?;
                    atomic::write_bytes(path, selection::figure(&compared).as_bytes())?;
                }
                if let Some(path) = &args.response {
                    write_response(path, &plane, &options, &scorer, scores.tissue_threshold)?;
                }
                scored.push((file, scores));
            }
            Err(stop) if !stop.lies_with(file) => {
                failed.iter().for_each(|error| output::say(format_args!("isg: {error}")));
                return Err(stop);
            }
            Err(error) => failed.push(error),
        }
    }
    let (files, mut slides): (Vec<&PathBuf>, Vec<SlideScores>) = scored.into_iter().unzip();
    if args.over == Group::Cohort {
        mark_cohort(&mut slides, options.threshold);
    }
    let rows: Vec<(String, &SlideScores)> = files.iter().map(|f| f.display().to_string()).zip(&slides).collect();

    let csv = csv(&rows, &options)?;
    match &args.out {
        _ if rows.is_empty() => {}
        Some(path) => atomic::write_bytes(path, &csv)?,
        None if args.json => {}
        None => output::table(&csv)?,
    }
    if args.json && !rows.is_empty() {
        output::json(&json_of(&rows, &options))?;
    } else if args.out.is_some() && !context.quiet {
        for (name, scores) in &rows {
            let kept = scores.patches.iter().filter(|patch| patch.kept).count();
            let left_out = scores.left_out_bits_per_px.len();
            let skipped = if left_out > 0 { format!(", {left_out} left out unread") } else { String::new() };
            output::line(format_args!(
                "{name}: {kept} of {} patches kept ({}){skipped}",
                scores.patches.len() + left_out,
                options.threshold
            ))?;
        }
    }
    // Nothing scored is a failure, reported as such; something scored is a part of the work done.
    let last = if rows.is_empty() { failed.pop() } else { None };
    let partial = !failed.is_empty();
    failed.iter().for_each(|error| output::say(format_args!("isg: {error}")));
    match last {
        Some(error) => Err(error),
        None if partial => Ok(Outcome::Partial),
        None => Ok(Outcome::Done),
    }
}

/// Marks the patches of all files as one group: a run's rule, or the highest scores of all.
fn mark_cohort(slides: &mut [SlideScores], threshold: Threshold) {
    if let Threshold::Top(_) = threshold {
        threshold.mark(slides.iter_mut().flat_map(|slide| &mut slide.patches));
        return;
    }
    let choice = Choice { threshold, scope: Scope::Run, least_patches: 0, most_patches: 0, seed: 0 }.fit(slides);
    for slide in slides {
        choice.pass(slide);
    }
}

fn csv(rows: &[(String, &SlideScores)], options: &ScoreOptions) -> Result<Vec<u8>> {
    let broken = |e: csv::Error| Error::internal(format_args!("scores as CSV: {e}"));
    let mut table = csv::Writer::from_writer(Vec::new());
    let score: &[&str] = if options.selector.counts_bits() { &["bits", "bits_per_px"] } else { &["score"] };
    let header = ["slide", "x", "y", "patch_px"].iter().chain(score).chain(&["kept"]);
    table.write_record(header).map_err(broken)?;
    for (name, scores) in rows {
        for patch in &scores.patches {
            let place = [patch.x, patch.y, options.patch_px as u64].map(|n| n.to_string());
            let score = match patch.bits {
                Some(bits) => vec![bits.to_string(), format!("{:.6}", patch.score)],
                None => vec![format!("{:.9}", patch.score)],
            };
            let kept = u8::from(patch.kept).to_string();
            let numbers = place.iter().chain(&score).chain(std::iter::once(&kept)).map(String::as_str);
            table.write_record(std::iter::once(escape::cell(name).as_ref()).chain(numbers)).map_err(broken)?;
        }
    }
    table.into_inner().map_err(|e| Error::internal(format_args!("scores as CSV: {e}")))
}

fn json_of(rows: &[(String, &SlideScores)], options: &ScoreOptions) -> serde_json::Value {
    let patch = |p: &PatchScore| match p.bits {
        Some(bits) => json!({"x": p.x, "y": p.y, "bits": bits, "bits_per_px": p.score, "kept": p.kept}),
        None => json!({"x": p.x, "y": p.y, "score": p.score, "kept": p.kept}),
    };
    let slides: Vec<_> = rows
        .iter()
        .map(|(name, scores)| {
            let patches: Vec<_> = scores.patches.iter().map(patch).collect();
            let kept = scores.patches.iter().filter(|p| p.kept).count();
            let left_out = scores.left_out_bits_per_px.len();
            let mut slide = json!({"slide": name, "kept": kept, "left_out": left_out, "patches": patches});
            if let Some(threshold) = scores.tissue_threshold {
                slide["tissue_threshold"] = threshold.into();
            }
            slide
        })
        .collect();
    let mut all = json!({
        "selector": options.selector.name(),
        "score": options.selector.unit(),
        "threshold": options.threshold.to_string(),
        "patch_px": options.patch_px,
        "level": options.level,
        "at_mpp": options.mpp,
        "slides": slides,
    });
    for key in options.selector.spec().short_keys {
        all[*key] = options.selector.parameters().get(*key).cloned().into();
    }
    all
}

/// What the selector sees in one patch, as an image or as numbers.
fn write_response(
    path: &Path,
    plane: &Plane,
    options: &ScoreOptions,
    scorer: &Scorer,
    tissue: Option<u8>,
) -> Result<()> {
    let image = PatchGrid::of(plane, options.patch_px).read(plane, 0)?;
    let response = scorer.response(&image, tissue)?;
    if path.extension().is_some_and(|e| e == "npy") {
        return atomic::write_bytes(path, &response.to_npy());
    }
    response.image(response.largest()).write_png(path)
}
