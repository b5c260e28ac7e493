//! `isg slide`: what a slide is, and its pixels as PNG.

use std::path::PathBuf;

use serde_json::json;

use super::output;
use crate::{
    error::{Error, Result},
    escape,
    slide::{Slide, SlideOptions},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Levels, scale, magnification, properties, associated images
    Info {
        #[command(flatten)]
        slide: SlideArgs,
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// A rectangle of one level, in that level's pixels, as PNG; outside the slide is white
    Region {
        #[command(flatten)]
        slide: SlideArgs,
        #[arg(long, default_value_t = 0)]
        level: usize,
        #[arg(long, allow_negative_numbers = true)]
        x: i64,
        #[arg(long, allow_negative_numbers = true)]
        y: i64,
        #[arg(long)]
        width: usize,
        #[arg(long)]
        height: usize,
        #[arg(long, value_name = "FILE.png")]
        out: PathBuf,
    },
    /// The whole slide, small, as PNG
    Thumbnail {
        #[command(flatten)]
        slide: SlideArgs,
        /// Longer side in pixels; a smaller slide is not upsampled
        #[arg(long, default_value_t = 1024)]
        size: usize,
        #[arg(long, value_name = "FILE.png")]
        out: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct SlideArgs {
    /// Aperio SVS, TIFF, OME-TIFF, PNG or JPEG
    slide: PathBuf,
    /// µm per pixel of level 0, over what the file says
    #[arg(long, value_name = "UM_PER_PX")]
    mpp: Option<f64>,
}

impl SlideArgs {
    fn open(&self) -> Result<Slide> {
        Slide::open_with(&self.slide, &SlideOptions { mpp: self.mpp, ..SlideOptions::default() })
    }
}

pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Info { slide, json } => {
            let slide = slide.open()?;
            if json { output::json(&info_json(&slide)) } else { output::line(info_text(&slide).trim_end()) }
        }
        Command::Region { slide, level, x, y, width, height, out } => {
            if width == 0 || height == 0 {
                return Err(Error::Usage("a region needs a width and a height of at least 1 px".into()));
            }
            output::refuse_overwriting([out.as_path()], [slide.slide.as_path()])?;
            slide.open()?.read_region(level, x, y, width, height)?.write_png(out)
        }
        Command::Thumbnail { slide, size, out } => {
            output::refuse_overwriting([out.as_path()], [slide.slide.as_path()])?;
            slide.open()?.thumbnail(size)?.write_png(out)
        }
    }
}

/// Everything `isg slide info --json` says.
pub fn info_json(slide: &Slide) -> serde_json::Value {
    let levels: Vec<_> = slide
        .levels()
        .iter()
        .enumerate()
        .map(|(level, l)| {
            json!({
                "level": level,
                "width_px": l.width_px,
                "height_px": l.height_px,
                "downsample": l.downsample,
                "tile_width_px": l.tile_width_px,
                "tile_height_px": l.tile_height_px,
                "compression": l.compression,
            })
        })
        .collect();
    let associated: Vec<_> = slide
        .associated_images()
        .into_iter()
        .map(|(name, width_px, height_px)| json!({ "name": name, "width_px": width_px, "height_px": height_px }))
        .collect();
    let properties: serde_json::Map<_, _> =
        slide.properties().iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    json!({
        "path": slide.path().display().to_string(),
        "vendor": slide.vendor(),
        "width_px": slide.levels()[0].width_px,
        "height_px": slide.levels()[0].height_px,
        "levels": levels,
        "mpp": slide.mpp(),
        "mpp_x": slide.scale().map(|s| s.x_mpp),
        "mpp_y": slide.scale().map(|s| s.y_mpp),
        "mpp_source": slide.mpp_source().map(|s| s.to_string()),
        "magnification": slide.magnification(),
        "properties": properties,
        "associated_images": associated,
        "remarks": slide.remarks(),
    })
}

fn info_text(slide: &Slide) -> String {
    let mut text = format!("{} ({})\n", escape::path(slide.path()), slide.vendor());
    for (level, l) in slide.levels().iter().enumerate() {
        text += &format!(
            "level {level}: {} x {} px, downsample {:.4}, {} in {} x {} px\n",
            l.width_px, l.height_px, l.downsample, l.compression, l.tile_width_px, l.tile_height_px
        );
    }
    text += &match slide.scale() {
        Some(s) if s.x_mpp == s.y_mpp => format!("scale: {} µm/px ({})\n", s.x_mpp, s.source),
        Some(s) => format!("scale: {} x {} µm/px ({})\n", s.x_mpp, s.y_mpp, s.source),
        None => "scale: unknown (give --mpp where a step needs it)\n".into(),
    };
    text += &match slide.magnification() {
        Some(m) => format!("magnification: {m}x\n"),
        None => "magnification: unknown\n".into(),
    };
    for (name, width_px, height_px) in slide.associated_images() {
        text += &format!("associated image: {}, {width_px} x {height_px} px\n", escape::line(&name));
    }
    for remark in slide.remarks() {
        text += &format!("remark: {}\n", escape::line(remark));
    }
    for (key, value) in slide.properties() {
        text += &format!("{}: {}\n", escape::line(key), escape::line(&value.replace(['\r', '\n'], " ")));
    }
    text
}
