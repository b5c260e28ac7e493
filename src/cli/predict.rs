//! `isg predict`: what a finished run says about other slides.

use std::path::PathBuf;

use serde_json::json;

use super::{Context, Outcome, output};
use crate::{
    error::{Error, Result},
    escape,
    io::atomic,
    pipeline::predict::SlidePredictor,
    slide::MppTable,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg predict --model run slide.svs
  isg predict --model run slides/*.svs --out predictions.csv

Values are on the scale of the run's targets, log10(1 + x) unless its configuration says otherwise, and the mean of the
folds' networks. Patches are cut at the run's select.mpp and kept by its threshold; without select.mpp a slide must be of
the run's scale. A slide that cannot be used is reported; the others are predicted, and the exit status is 3.")]
pub struct Args {
    /// Directory of a finished run.
    #[arg(long, value_name = "RUN_DIR")]
    model: PathBuf,
    #[arg(required = true, value_name = "SLIDE")]
    slides: Vec<PathBuf>,
    /// CSV with the columns slide,gene,predicted,patches,kept instead of standard output.
    #[arg(long, value_name = "FILE.csv")]
    out: Option<PathBuf>,
    /// µm per pixel of level 0 of all slides named, over what the files say.
    #[arg(long, value_name = "UM_PER_PX", conflicts_with = "mpp_table")]
    mpp: Option<f64>,
    /// Table with the columns slide,mpp for slides whose scale is missing or wrong. Every row must fit a slide.
    #[arg(long, value_name = "FILE.csv")]
    mpp_table: Option<PathBuf>,
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
    let device = context.device()?;
    let predictor = SlidePredictor::load(&args.model, &device)?;
    let mut rows = Vec::new();
    let mut failed = 0;
    for (path, mpp) in args.slides.iter().zip(scales) {
        match predictor.predict(path, mpp, &context.progress) {
            Ok(prediction) => rows.push((path, prediction)),
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
                let genes: serde_json::Map<String, serde_json::Value> =
                    predictor.genes().iter().cloned().zip(p.values.iter().map(|v| json!(v))).collect();
                json!({ "slide": path.display().to_string(), "patches": p.patches, "kept": p.kept, "predicted": genes })
            })
            .collect();
        output::json(&json!({ "slides": slides }))?;
    }
    if args.out.is_some() || !args.json {
        let mut table = csv::Writer::from_writer(Vec::new());
        let mut write = |row: [&str; 5]| table.write_record(row).map_err(Error::internal);
        write(["slide", "gene", "predicted", "patches", "kept"])?;
        for (path, p) in &rows {
            for (gene, value) in predictor.genes().iter().zip(&p.values) {
                let (slide, value) = (path.display().to_string(), format!("{value:.6}"));
                write([
                    &escape::cell(&slide),
                    &escape::cell(gene),
                    &value,
                    &p.patches.to_string(),
                    &p.kept.to_string(),
                ])?;
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
