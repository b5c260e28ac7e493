//! `isg extractor train`: trains the feature extraction networks on patches cut from images or slides.

use std::path::{Path, PathBuf};

use super::{Context, Outcome, output};
use crate::{
    error::{Error, Result},
    extractor::{config::ExtractorConfig, patches::PatchSource, training},
    image::RgbImage,
    io::{checksum::Digest, text},
    progress::Progress,
    slide::{Slide, Tile},
};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Train encoder, generator and critic; run again, it resumes where it stopped.
    Train(Train),
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  isg extractor train patches/ --out extractor --preset small
  isg extractor train slide.svs --patch-px 1024 --out extractor --config extractor.toml")]
struct Train {
    /// Images and slides, or folders of them. Each image is cut into patches.
    #[arg(required = true, value_name = "PATH")]
    images: Vec<PathBuf>,
    /// Where checkpoints, the loss curve and the trained extractor go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Side of a patch at full resolution; images smaller than that are one patch. Default: whole images.
    #[arg(long, value_name = "PX")]
    patch_px: Option<usize>,
    /// TOML file with the extractor's keys.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sizes to begin from: `paper` (256 px, d 512) or `small` (32 px, for CPUs).
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// What LPIPS compares with: `random`, `none`, or torchvision's AlexNet checkpoint.
    #[arg(long, value_name = "FILE")]
    lpips: Option<String>,
    #[arg(long)]
    steps: Option<u64>,
    #[arg(long)]
    seed: Option<u64>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, context: &Context) -> Result<Outcome> {
    match &args.verb {
        Verb::Train(args) => train(args, context),
    }
}

fn train(args: &Train, context: &Context) -> Result<Outcome> {
    let config = configuration(args)?;
    config.validate()?;
    let patches = SlidePatches::open(&args.images, args.patch_px, &context.progress)?;
    let trained = training::train(&config, &patches, &args.out, &context.device()?, &context.progress)?;
    if args.json {
        let result = serde_json::json!({
            "dir": trained.dir, "steps": trained.steps, "patches": patches.len(), "last": trained.last,
        });
        output::json(&result)?;
    } else {
        let l1 = trained.last.map_or(String::new(), |last| format!(", mean absolute difference {:.4}", last.l1));
        output::line(format_args!(
            "{}: {} steps on {} patches{l1}",
            trained.dir.display(),
            trained.steps,
            patches.len()
        ))?;
    }
    Ok(if patches.skipped == 0 { Outcome::Done } else { Outcome::Partial })
}

/// The file's keys over the preset, the command line's over both.
fn configuration(args: &Train) -> Result<ExtractorConfig> {
    let mut table = match &args.config {
        None => toml::Table::new(),
        Some(path) => text::read_toml(path)?,
    };
    let mut set = |key: &str, value: toml::Value| drop(table.insert(key.to_string(), value));
    if let Some(preset) = &args.preset {
        set("preset", preset.clone().into());
    }
    if let Some(steps) = args.steps {
        set("steps", toml::Value::Integer(steps.try_into().unwrap_or(i64::MAX)));
    }
    if let Some(seed) = args.seed {
        set("seed", toml::Value::Integer(seed.try_into().unwrap_or(i64::MAX)));
    }
    let origin = args.config.as_deref().unwrap_or(Path::new("--preset"));
    let mut config = ExtractorConfig::from_table(table).map_err(|message| unusable(origin, &message))?;
    if let Some(lpips) = &args.lpips {
        config.lpips.weights.clone_from(lpips);
    }
    Ok(config)
}

fn unusable(path: &Path, message: &str) -> Error {
    Error::input(path, format!("is no extractor configuration ({message})"), "correct the key")
}

/// Patches of several images or slides, at full resolution, read when asked for.
struct SlidePatches {
    slides: Vec<Slide>,
    places: Vec<(usize, Tile)>,
    /// Files that could not be opened.
    skipped: usize,
}

/// An image larger than this is not one patch by intention.
const LARGEST_WHOLE_IMAGE_PX: u64 = 4096;

impl SlidePatches {
    fn open(paths: &[PathBuf], patch_px: Option<usize>, progress: &dyn Progress) -> Result<SlidePatches> {
        let mut patches = SlidePatches { slides: Vec::new(), places: Vec::new(), skipped: 0 };
        for path in files(paths)? {
            match Slide::open(&path).and_then(|slide| Ok((whole_patches(&slide, patch_px)?, slide))) {
                Ok((tiles, slide)) => {
                    patches.places.extend(tiles.into_iter().map(|tile| (patches.slides.len(), tile)));
                    patches.slides.push(slide);
                }
                Err(error) if !error.lies_with(&path) => return Err(error),
                Err(error) => {
                    progress.note(&format!("left out: {error}"));
                    patches.skipped += 1;
                }
            }
        }
        if patches.places.is_empty() {
            return Err(Error::input(
                &paths[0],
                "no patch could be cut from it",
                "give images at least as large as a patch",
            ));
        }
        Ok(patches)
    }
}

impl PatchSource for SlidePatches {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn load(&self, index: usize) -> Result<RgbImage> {
        let (slide, tile) = self.places[index];
        self.slides[slide].read_tile(tile)
    }

    fn digest(&self) -> Result<Digest> {
        let files = self.slides.iter().map(|slide| Digest::of_file(slide.path())).collect::<Result<Vec<_>>>()?;
        let corner = |(slide, tile): &(usize, Tile)| (*slide, tile.x_px, tile.y_px, tile.width_px, tile.height_px);
        let corners: Vec<_> = self.places.iter().map(corner).collect();
        Ok(Digest::of("patches of images", &(files, corners)))
    }
}

/// Squares of `patch_px` that lie wholly inside; an image smaller than one is a patch by itself.
fn whole_patches(slide: &Slide, patch_px: Option<usize>) -> Result<Vec<Tile>> {
    let full = &slide.levels()[0];
    let (width_px, height_px) = (full.width_px, full.height_px);
    let longest = width_px.max(height_px);
    let side = match patch_px {
        Some(side) => side.max(1) as u64,
        None if longest <= LARGEST_WHOLE_IMAGE_PX => longest,
        None => {
            let problem = format!("is {width_px}x{height_px} px, too large for one patch");
            return Err(Error::input(slide.path(), problem, "give --patch-px"));
        }
    };
    let whole = |tile: &Tile| (tile.width_px, tile.height_px) == (side, side);
    let alone = width_px < side || height_px < side || patch_px.is_none();
    Ok(slide.tiles(0, side)?.filter(|tile| alone || whole(tile)).collect())
}

/// The files named, and those directly inside the folders named, in order.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, e))?;
            let mut inside: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            inside.retain(|path| path.is_file() && path.file_name().is_none_or(|n| n.as_encoded_bytes()[0] != b'.'));
            inside.sort();
            found.extend(inside);
        } else {
            found.push(path.clone());
        }
    }
    Ok(found)
}
