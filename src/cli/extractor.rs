//! `isg extractor`: trains the feature extraction networks on patches cut from images or slides, and shows what they understood.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{
    Context, Outcome,
    images::{self, LARGEST_WHOLE_IMAGE_PX},
    output,
};
use crate::{
    error::{Error, Result},
    extractor::{Extractor, config::ExtractorConfig, patches::PatchSource, training},
    image::RgbImage,
    io::{checksum::Digest, text},
    progress::Progress,
    random::Philox,
    select::glass::{Cells, GLASS_SHARE},
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
    /// Draw what an extractor understood: each image beside its reconstruction, as PNG.
    Show(Show),
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  isg extractor show extractor tile.png --out shown
  isg extractor show run/extractor/local tiles/ --out shown --json")]
struct Show {
    /// The folder of `isg extractor train`, or RUN/extractor/global or RUN/extractor/local.
    dir: PathBuf,
    /// Images, or folders of them; each is resized to the network's size.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Folder for the PNGs, named after the images.
    #[arg(long, value_name = "DIR", default_value = "shown")]
    out: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  isg extractor train patches/ --out extractor --preset small
  isg extractor train slide.svs --patch-px 1024 --out extractor --config extractor.toml
  isg extractor train slides/ --patch-px 512 --crops 2000 --out extractor

While it trains, the progress line says what the pair is worth on patches set aside: the L1 of its reconstructions beside that of
one constant colour and of principal components, how much of the code is common to all images, and how many dimensions it uses.
Patches of glass teach nothing and are left out; --glass keeps them.")]
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
    /// So many patches of each image at random places instead of a grid of them.
    #[arg(long, value_name = "N", requires = "patch_px")]
    crops: Option<usize>,
    /// Train on glass too.
    #[arg(long)]
    glass: bool,
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
        Verb::Show(args) => show(args, context),
    }
}

/// Pixels between an image and its reconstruction.
const GAP_PX: usize = 4;

fn show(args: &Show, context: &Context) -> Result<Outcome> {
    let extractor = Extractor::load(&args.dir, &context.device()?)?;
    let files = images::files(&args.images)?;
    std::fs::create_dir_all(&args.out).map_err(|e| Error::io(&args.out, e))?;
    let (px, mut shown, mut failed) = (extractor.config().image_px, Vec::new(), 0);
    context.progress.begin("show", files.len() as u64, "images");
    for path in &files {
        context.progress.check()?;
        let image = match images::whole(path) {
            Ok(image) => image,
            Err(error) if !error.lies_with(path) => return Err(error),
            Err(error) => {
                context.progress.note(&format!("left out: {error}"));
                failed += 1;
                continue;
            }
        };
        let (image, back) = (image.resize_bilinear(px, px), extractor.reconstruct(&[image])?.swap_remove(0));
        let off = image.pixels.iter().zip(&back.pixels).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
        let l1 = off / 127.5 / image.pixels.len() as f64;
        let mut pair = RgbImage::filled(2 * px + GAP_PX, px, [255; 3]);
        for (y, x) in (0..px).flat_map(|y| (0..px).map(move |x| (y, x))) {
            pair.put(x, y, image.pixel(x, y));
            pair.put(px + GAP_PX + x, y, back.pixel(x, y));
        }
        let name = path.file_stem().map_or_else(|| "image".into(), |stem| stem.to_string_lossy().into_owned());
        let to = args.out.join(format!("{name}.png"));
        output::refuse_overwriting([to.as_path()], files.iter().map(PathBuf::as_path))?;
        pair.write_png(&to)?;
        shown.push((path, to, l1));
        context.progress.advance(1);
    }
    context.progress.end();
    if args.json {
        let row =
            |(image, png, l1): &(&PathBuf, PathBuf, f64)| serde_json::json!({ "image": image, "png": png, "l1": l1 });
        output::json(&shown.iter().map(row).collect::<Vec<_>>())?;
    } else {
        for (image, png, l1) in &shown {
            output::line(format_args!("{}: {}, mean absolute difference {l1:.4}", image.display(), png.display()))?;
        }
    }
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Partial })
}

fn train(args: &Train, context: &Context) -> Result<Outcome> {
    let config = configuration(args)?;
    config.validate()?;
    let patches = SlidePatches::open(args, config.seed, &context.progress)?;
    let trained = training::train(&config, &patches, &args.out, &context.device()?, &context.progress)?;
    if args.json {
        let result = serde_json::json!({
            "dir": trained.dir, "steps": trained.steps, "patches": patches.len(), "last": trained.last,
            "quality": trained.quality, "warning": trained.quality.and_then(|quality| quality.warning()),
        });
        output::json(&result)?;
    } else {
        let worth = trained.quality.map_or(String::new(), |quality| format!(": {}", quality.remark()));
        let (dir, steps) = (trained.dir.display(), trained.steps);
        output::line(format_args!("{dir}: {steps} steps on {} patches{worth}", patches.len()))?;
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

impl SlidePatches {
    fn open(args: &Train, seed: u64, progress: &dyn Progress) -> Result<SlidePatches> {
        let mut patches = SlidePatches { slides: Vec::new(), places: Vec::new(), skipped: 0 };
        for path in images::files(&args.images)? {
            let cut = |slide: &Slide| match (args.crops, args.patch_px) {
                (Some(count), Some(side)) => random_patches(slide, side as u64, count, seed),
                _ => whole_patches(slide, args.patch_px),
            };
            match Slide::open(&path).and_then(|slide| Ok((cut(&slide)?, slide))) {
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
        if !args.glass {
            patches.leave_out_glass(progress)?;
        }
        if patches.places.is_empty() {
            let remedy = "give images at least as large as a patch; --glass takes glass too";
            return Err(Error::input(&args.images[0], "no patch of tissue could be cut from it", remedy));
        }
        Ok(patches)
    }

    /// Keeps the patches with tissue.
    fn leave_out_glass(&mut self, progress: &dyn Progress) -> Result<()> {
        progress.begin("tissue", self.places.len() as u64, "patches");
        let tissue = |index: usize| {
            progress.check()?;
            let glass = Cells::of(&self.load(index)?).glass_share() >= GLASS_SHARE;
            progress.advance(1);
            Ok(!glass)
        };
        let tissue: Vec<bool> = (0..self.places.len()).into_par_iter().map(tissue).collect::<Result<_>>()?;
        progress.end();
        let kept = self.places.iter().zip(&tissue).filter(|(_, tissue)| **tissue).map(|(place, _)| *place).collect();
        let before = std::mem::replace(&mut self.places, kept).len();
        if self.places.len() < before {
            let glass = before - self.places.len();
            progress.note(&format!("{glass} of {before} patches are glass and left out"));
        }
        Ok(())
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

/// Squares of `side` px at random places that lie wholly inside; an image smaller than one is a patch by itself.
fn random_patches(slide: &Slide, side: u64, count: usize, seed: u64) -> Result<Vec<Tile>> {
    let full = &slide.levels()[0];
    if full.width_px < side || full.height_px < side {
        return whole_patches(slide, Some(side as usize));
    }
    let name = slide.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let chance = Philox::named(seed, &format!("extractor.crops.{name}"));
    let place = |at: u64, length: u64| chance.below(at, (length - side + 1) as usize) as u64;
    let tile = |i: u64| Tile {
        level: 0,
        x_px: place(2 * i, full.width_px),
        y_px: place(2 * i + 1, full.height_px),
        width_px: side,
        height_px: side,
    };
    Ok((0..count as u64).map(tile).collect())
}
