//! `isg score`: bits of texture in every patch of slides or images, and which patches are kept.

use std::{io::Write, path::PathBuf};

use serde_json::json;

use super::{Context, Outcome};
use crate::{
    error::{Error, Result},
    io::atomic,
    select::{
        Codec, ScoreOptions, Threshold, jpeg,
        score::{DEFAULT_PATCH_PX, SlideScores, mark_group, score_slide},
        score_map,
    },
    slide::Slide,
};

#[derive(clap::Args)]
#[command(
    about = "Bits of texture in every patch, and which patches are kept",
    long_about = "Scores patches by the length of their compressed form (Shannon selection) and marks those kept.\n\n\
        Patches are whole squares from the top left corner, without overlap; an image smaller than a patch is one patch, \
        scored at its real size. Prints CSV: slide,x,y,patch_px,bits,bits_per_px,kept. A file that cannot be read is \
        reported and the others are scored; the exit status is then 3.",
    after_help = "Examples:\n  isg score slide.svs --out scores.csv\n  isg score slide.svs --map scores.png --top 200\n  \
        isg score tiles/*.png --patch-px 512 --sigma 0 --over cohort\n  isg score slide.svs --codec jpeg --bits 1.6e6"
)]
#[command(group(clap::ArgGroup::new("threshold").args(["sigma", "bits", "bpp", "top"])))]
pub struct Args {
    /// Slides, or PNG and JPEG images.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Side of a patch in pixels of the level.
    #[arg(long, value_name = "PX", default_value_t = DEFAULT_PATCH_PX)]
    patch_px: usize,
    /// What bits are counted with: lz, order0 or jpeg.
    #[arg(long, value_name = "CODEC", default_value = "lz")]
    codec: String,
    /// Quality of `--codec jpeg`, 1 to 100.
    #[arg(long, value_name = "Q", default_value_t = jpeg::DEFAULT_QUALITY)]
    quality: u8,
    /// Keep patches of at least the mean plus K standard deviations of bits per pixel [default: 1].
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    sigma: Option<f64>,
    /// Keep patches of at least so many bits.
    #[arg(long, value_name = "B")]
    bits: Option<f64>,
    /// Keep patches of at least so many bits per pixel.
    #[arg(long, value_name = "B")]
    bpp: Option<f64>,
    /// Keep the N patches with the most bits per pixel.
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// What `--sigma` and `--top` look at together: the patches of each slide, or of all files as one cohort.
    #[arg(long, value_enum, value_name = "GROUP", default_value_t = Group::Slide)]
    over: Group,
    /// Level of the pyramid to score.
    #[arg(long, value_name = "L", default_value_t = 0)]
    level: usize,
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
    /// Print JSON instead of CSV.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Group {
    Slide,
    Cohort,
}

impl Args {
    fn options(&self) -> Result<ScoreOptions> {
        let threshold = match (self.sigma, self.bits, self.bpp, self.top) {
            (_, Some(bits), _, _) => Threshold::Bits(bits),
            (_, _, Some(bits), _) => Threshold::BitsPerPx(bits),
            (_, _, _, Some(n)) => Threshold::Top(n),
            (Some(deviations), ..) => Threshold::Sigma(deviations),
            _ => Threshold::default(),
        };
        let options = ScoreOptions {
            patch_px: self.patch_px,
            codec: Codec::named(&self.codec, self.quality)?,
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
    let (mut scored, mut failed) = (Vec::new(), Vec::new());
    for file in &args.files {
        let scores = Slide::open(file).and_then(|slide| {
            let scores = score_slide(&slide, &options, &context.progress)?;
            Ok((slide, scores))
        });
        match scores {
            Ok((slide, scores)) => {
                if let Some(path) = &args.map {
                    score_map::draw(&slide, options.level, options.patch_px, &scores.patches)?.write_png(path)?;
                }
                scored.push((file, scores));
            }
            Err(Error::Interrupted) => {
                failed.iter().for_each(|error| eprintln!("isg: {error}"));
                return Err(Error::Interrupted);
            }
            Err(error) => failed.push(error),
        }
    }
    let (files, mut slides): (Vec<&PathBuf>, Vec<SlideScores>) = scored.into_iter().unzip();
    if args.over == Group::Cohort {
        mark_group(&mut slides, options.threshold);
    }
    let rows: Vec<(String, &SlideScores)> = files.iter().map(|f| f.display().to_string()).zip(&slides).collect();

    let csv = csv(&rows, options.patch_px)?;
    match &args.out {
        _ if rows.is_empty() => {}
        Some(path) => atomic::write_bytes(path, &csv)?,
        None if args.json => {}
        None => print(&csv)?,
    }
    if args.json && !rows.is_empty() {
        print(format!("{:#}\n", json_of(&rows, &options)).as_bytes())?;
    } else if args.out.is_some() && !context.quiet {
        for (name, scores) in &rows {
            let kept = scores.patches.iter().filter(|patch| patch.kept).count();
            let left_out = scores.left_out_bits_per_px.len();
            let skipped = if left_out > 0 { format!(", {left_out} left out unread") } else { String::new() };
            println!(
                "{name}: {kept} of {} patches kept ({}){skipped}",
                scores.patches.len() + left_out,
                options.threshold
            );
        }
    }
    // Nothing scored is a failure, reported as such; something scored is a part of the work done.
    let last = if rows.is_empty() { failed.pop() } else { None };
    let partial = !failed.is_empty();
    failed.iter().for_each(|error| eprintln!("isg: {error}"));
    match last {
        Some(error) => Err(error),
        None if partial => Ok(Outcome::Partial),
        None => Ok(Outcome::Done),
    }
}

/// To standard output; a reader that has seen enough and closed it is no error.
fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("standard output", e)),
        _ => Ok(()),
    }
}

fn csv(rows: &[(String, &SlideScores)], patch_px: usize) -> Result<Vec<u8>> {
    let broken = |e: csv::Error| Error::Usage(format!("the scores cannot be written as CSV: {e}"));
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(["slide", "x", "y", "patch_px", "bits", "bits_per_px", "kept"]).map_err(broken)?;
    for (name, scores) in rows {
        for patch in &scores.patches {
            let numbers = [patch.x, patch.y, patch_px as u64, patch.bits].map(|n| n.to_string());
            let last = [format!("{:.6}", patch.bits_per_px), u8::from(patch.kept).to_string()];
            let record = std::iter::once(name.as_str()).chain(numbers.iter().chain(&last).map(String::as_str));
            table.write_record(record).map_err(broken)?;
        }
    }
    table.into_inner().map_err(|e| Error::Usage(format!("the scores cannot be written as CSV: {e}")))
}

fn json_of(rows: &[(String, &SlideScores)], options: &ScoreOptions) -> serde_json::Value {
    use crate::select::Selector;
    let slides: Vec<_> = rows
        .iter()
        .map(|(name, scores)| {
            let patches: Vec<_> = scores
                .patches
                .iter()
                .map(|p| json!({"x": p.x, "y": p.y, "bits": p.bits, "bits_per_px": p.bits_per_px, "kept": p.kept}))
                .collect();
            let kept = scores.patches.iter().filter(|p| p.kept).count();
            json!({"slide": name, "kept": kept, "left_out": scores.left_out_bits_per_px.len(), "patches": patches})
        })
        .collect();
    json!({
        "codec": options.codec.name(),
        "threshold": options.threshold.to_string(),
        "patch_px": options.patch_px,
        "level": options.level,
        "slides": slides,
    })
}
