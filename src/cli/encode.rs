//! `isg encode`: the vectors of any images, by any encoder.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{Context, Outcome, encoders, images, output};
use crate::{
    encoder::{Parameters, PatchEncoder, isg},
    error::{Error, Result},
    escape,
    extractor::config::ExtractorConfig,
    image::RgbImage,
    io::{NamedArray, atomic, safetensors},
    progress::Progress,
};

/// Images read and encoded at a time.
const IMAGES_A_READ: usize = 32;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg encode tiles/*.png --extractor run/extractor/global --out vectors.csv
  isg encode tiles/ --encoder colour --json
  isg encode tile.png --encoder resnet50 --weights resnet50-0676ba61.pth --out vectors.safetensors
  isg encode tile.png --encoder vit --weights uni.bin --set preset=uni --set tile_px=224

Encoders are those of a run's [encoder]: `isg encode --help` of their settings is the documentation of isg::encoder.")]
pub struct Args {
    /// Images, or folders of them; each is resized to what the encoder sees.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// What an encoder learned: the folder of `isg extractor train`, or RUN/extractor/global or RUN/extractor/local.
    #[arg(long, value_name = "DIR", required_unless_present = "encoder")]
    extractor: Option<PathBuf>,
    /// The encoder. Default: isg, the StyleGAN pair in --extractor.
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,
    /// Its weights: a .pth or safetensors file, or `random`.
    #[arg(long, value_name = "FILE")]
    weights: Option<String>,
    /// One of its settings, as in [encoder] of a run's configuration.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Write vectors here; the ending says how: .csv, .json or .safetensors (`features` [n, d], names in its metadata).
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print JSON instead of CSV.
    #[arg(long)]
    json: bool,
}

/// One image with its vector.
struct Row {
    image: PathBuf,
    vector: Vec<f32>,
}

pub fn run(args: &Args, context: &Context) -> Result<Outcome> {
    let files = images::files(&args.images)?;
    let named = args.extractor.iter().map(PathBuf::as_path).chain(args.weights.as_deref().map(Path::new));
    output::refuse_overwriting(args.out.as_deref(), files.iter().map(PathBuf::as_path).chain(named))?;
    let encoder = load(args, context)?;
    let (mut rows, mut failed) = (Vec::with_capacity(files.len()), 0);
    context.progress.begin("encode", files.len() as u64, "images");
    for files in files.chunks(IMAGES_A_READ) {
        context.progress.check()?;
        let mut read: Vec<(&PathBuf, RgbImage)> = Vec::with_capacity(files.len());
        for path in files {
            match images::whole(path) {
                Ok(image) => read.push((path, image)),
                Err(error) if !error.lies_with(path) => return Err(error),
                Err(error) => {
                    context.progress.note(&format!("left out: {error}"));
                    failed += 1;
                }
            }
        }
        let images: Vec<RgbImage> = read.iter().map(|(_, image)| image.clone()).collect();
        let vectors = encoder.encode(&images)?;
        let row = |((path, _), vector): (&(&PathBuf, RgbImage), &[f32])| Row {
            image: (*path).clone(),
            vector: vector.to_vec(),
        };
        rows.extend(read.iter().zip(vectors.chunks_exact(encoder.d())).map(row));
        context.progress.advance(files.len() as u64);
    }
    context.progress.end();
    if rows.is_empty() {
        return Err(Error::Usage("no image could be read".into()));
    }
    write(&rows, encoder.d(), args)?;
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Partial })
}

/// The encoder that the command line describes.
fn load(args: &Args, context: &Context) -> Result<Box<dyn PatchEncoder>> {
    let mut settings = args.settings.iter().map(|text| encoders::setting(text)).collect::<Result<Parameters>>()?;
    if let Some(weights) = &args.weights {
        settings.insert("weights".into(), weights.as_str().into());
    }
    let name = args.encoder.as_deref().unwrap_or(isg::SPEC.name);
    let (learned, pair) = (args.extractor.as_deref(), ExtractorConfig::default());
    encoders::load(name, settings, learned, pair, &context.device()?, &context.progress)
}

fn write(rows: &[Row], d: usize, args: &Args) -> Result<()> {
    let ending = args.out.as_ref().and_then(|path| path.extension()).map(|e| e.to_string_lossy().to_lowercase());
    match (&args.out, ending.as_deref()) {
        (None, _) if args.json => output::json(&json(rows, d)),
        (None, _) => output::table(&csv(rows, d)?),
        (Some(path), Some("csv")) => atomic::write_bytes(path, &csv(rows, d)?),
        (Some(path), Some("json")) => atomic::write_bytes(path, format!("{:#}\n", json(rows, d)).as_bytes()),
        (Some(path), Some("safetensors")) => {
            let values: Vec<f32> = rows.iter().flat_map(|row| row.vector.iter().copied()).collect();
            let features = NamedArray::from_f32("features", &[rows.len(), d], &values)?;
            let names: Vec<_> = rows.iter().map(|row| row.image.display().to_string()).collect();
            let metadata = BTreeMap::from([("images".to_string(), serde_json::Value::from(names).to_string())]);
            safetensors::write(path, &[features.view()], &metadata).map(drop)
        }
        (Some(path), _) => Err(Error::Usage(format!(
            "--out {}: a name that ends in .csv, .json or .safetensors is wanted",
            path.display()
        ))),
    }
}

fn json(rows: &[Row], d: usize) -> serde_json::Value {
    let row = |row: &Row| serde_json::json!({ "image": row.image, "vector": row.vector });
    serde_json::json!({ "d": d, "images": rows.iter().map(row).collect::<Vec<_>>() })
}

fn csv(rows: &[Row], d: usize) -> Result<Vec<u8>> {
    let broken = |e: csv::Error| Error::internal(format_args!("vectors as CSV: {e}"));
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(std::iter::once("image".to_string()).chain((0..d).map(|i| format!("v{i}")))).map_err(broken)?;
    for row in rows {
        let name = escape::cell(&row.image.display().to_string()).into_owned();
        table.write_record(std::iter::once(name).chain(row.vector.iter().map(f32::to_string))).map_err(broken)?;
    }
    table.into_inner().map_err(|e| Error::internal(format_args!("vectors as CSV: {e}")))
}
