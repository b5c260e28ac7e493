//! `isg predict`: what a finished run says about other slides.

use std::path::PathBuf;

use serde_json::json;

use super::{Context, Outcome, output};
use crate::{
    error::{Error, Result},
    escape,
    io::atomic,
    pipeline::{
        maps::MOST_GENES,
        predict::{SlidePrediction, SlidePredictor},
        reach::Intervals,
    },
    progress::Progress,
    slide::MppTable,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg predict --model run slide.svs
  isg predict --model run slides/*.svs --out predictions.csv
  isg predict --model run slide.svs --maps maps --genes CD3D,MKI67

Values are on the scale of the run's targets, log10(1 + x) unless its configuration says otherwise, and the mean of the
folds' networks. Patches are cut at the run's select.mpp and kept by its threshold; without select.mpp a slide must be of
the run's scale. A slide that cannot be used is reported; the others are predicted, and the exit status is 3.

low and high are a 90 % interval from what the run missed on slides that it had held out (split conformal). outside says that
the slide's features lie farther from the training slides than any of those from the others: what is predicted of it then has
nothing to stand on.

--maps draws what every patch adds to a gene: the prediction is the mean over the patches. SLIDE.geojson opens in QuPath.")]
pub struct Args {
    /// Directory of a finished run.
    #[arg(long, value_name = "RUN_DIR")]
    model: PathBuf,
    #[arg(required = true, value_name = "SLIDE")]
    slides: Vec<PathBuf>,
    /// CSV with the columns slide,gene,predicted,low,high,outside,patches,kept instead of standard output.
    #[arg(long, value_name = "FILE.csv")]
    out: Option<PathBuf>,
    /// µm per pixel of level 0 of all slides named, over what the files say.
    #[arg(long, value_name = "UM_PER_PX", conflicts_with = "mpp_table")]
    mpp: Option<f64>,
    /// Table with the columns slide,mpp for slides whose scale is missing or wrong. Every row must fit a slide.
    #[arg(long, value_name = "FILE.csv")]
    mpp_table: Option<PathBuf>,
    /// Coverage of the intervals.
    #[arg(long, value_name = "SHARE", default_value_t = 0.9)]
    level: f64,
    /// Folder for maps of every slide: SLIDE-GENE.png, SLIDE.csv and SLIDE.geojson.
    #[arg(long, value_name = "DIR")]
    maps: Option<PathBuf>,
    /// Genes to map, separated by commas. Default: the first 50.
    #[arg(long, value_name = "GENE,...", value_delimiter = ',', requires = "maps")]
    genes: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args, context: &Context) -> Result<Outcome> {
    let scales = match &args.mpp_table {
        Some(path) => MppTable::read(path)?.of_slides(&args.slides)?,
        None => vec![args.mpp; args.slides.len()],
    };
    let read = args.slides.iter().chain(&args.mpp_table).map(PathBuf::as_path);
    output::refuse_overwriting(args.out.as_deref(), read)?;
    if !(args.level > 0.0 && args.level < 1.0) {
        return Err(Error::Usage(format!("--level {}: a share between 0 and 1 is wanted", args.level)));
    }
    let device = context.device()?;
    let predictor = SlidePredictor::load(&args.model, &device)?;
    let intervals = predictor.intervals(args.level)?;
    let mapped = args.maps.is_some().then(|| mapped_genes(predictor.genes(), &args.genes)).transpose()?;
    let mut rows = Vec::new();
    let mut failed = 0;
    for (path, mpp) in args.slides.iter().zip(scales) {
        match predictor.predict(path, mpp, mapped.as_deref(), &context.progress) {
            Ok(prediction) => {
                if let Some(place) = prediction.place.filter(|place| place.outside) {
                    context.progress.note(&format!(
                        "{}: its features lie outside the training slides' (distance {:.1}, theirs up to {:.1})",
                        path.display(),
                        place.distance,
                        place.farthest
                    ));
                }
                if let (Some(maps), Some(dir)) = (&prediction.maps, &args.maps) {
                    if maps.layers.is_empty() {
                        context.progress.note("this method says nothing of single patches: no maps");
                    } else {
                        maps.write(dir)?;
                    }
                }
                rows.push((path, SlidePrediction { maps: None, ..prediction }));
            }
            Err(error) if !error.lies_with(path) => return Err(error),
            Err(error) => {
                output::say(format_args!("isg: {error}"));
                failed += 1;
            }
        }
    }
    if rows.is_empty() {
        output::say(format_args!("isg: none of the {failed} slides could be predicted"));
        return Ok(Outcome::Refused);
    }
    if args.json {
        let slides: Vec<_> = rows
            .iter()
            .map(|(path, p)| {
                let of_genes = |value: &dyn Fn(usize, f64) -> serde_json::Value| -> serde_json::Map<String, _> {
                    let values = p.values.iter().enumerate().map(|(gene, v)| value(gene, *v));
                    predictor.genes().iter().cloned().zip(values).collect()
                };
                let predicted = of_genes(&|_, v| json!(v));
                let interval =
                    of_genes(&|gene, v| json!(half_width(&intervals, gene).map(|half| [v - half, v + half])));
                json!({
                    "slide": path.display().to_string(), "patches": p.patches, "kept": p.kept, "predicted": predicted,
                    "interval": interval, "level": args.level, "features": p.place,
                })
            })
            .collect();
        output::json(&json!({ "slides": slides }))?;
    }
    if args.out.is_some() || !args.json {
        let mut table = csv::Writer::from_writer(Vec::new());
        let mut write = |row: [&str; 8]| table.write_record(row).map_err(Error::internal);
        write(["slide", "gene", "predicted", "low", "high", "outside", "patches", "kept"])?;
        for (path, p) in &rows {
            let (slide, patches, kept) = (path.display().to_string(), p.patches.to_string(), p.kept.to_string());
            let outside = p.place.map_or("", |place| if place.outside { "true" } else { "false" });
            for (number, (gene, value)) in predictor.genes().iter().zip(&p.values).enumerate() {
                let bound = |sign: f64| {
                    half_width(&intervals, number).map_or(String::new(), |half| format!("{:.6}", value + sign * half))
                };
                let (low, high) = (bound(-1.0), bound(1.0));
                let (slide, gene) = (escape::cell(&slide), escape::cell(gene));
                write([&slide, &gene, &format!("{value:.6}"), &low, &high, outside, &patches, &kept])?;
            }
        }
        let bytes = table.into_inner().map_err(Error::internal)?;
        match &args.out {
            Some(out) => atomic::write_bytes(out, &bytes)?,
            None => output::table(&bytes)?,
        }
    }
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Partial })
}

fn half_width(intervals: &Option<Intervals>, gene: usize) -> Option<f64> {
    intervals.as_ref().and_then(|intervals| intervals.half_widths[gene])
}

/// Numbers of the genes asked for, or of the first ones.
fn mapped_genes(known: &[String], wanted: &[String]) -> Result<Vec<usize>> {
    if wanted.is_empty() {
        return Ok((0..known.len().min(MOST_GENES)).collect());
    }
    let number = |gene: &String| {
        let found = known.iter().position(|name| name.eq_ignore_ascii_case(gene));
        found.ok_or_else(|| {
            Error::Usage(format!("--genes {gene}: the run does not predict it; it predicts {}", some(known)))
        })
    };
    wanted.iter().map(number).collect()
}

/// The first few names, and how many more there are.
fn some(names: &[String]) -> String {
    let shown = names[..names.len().min(10)].join(", ");
    if names.len() > 10 { format!("{shown} and {} more", names.len() - 10) } else { shown }
}
