//! `isg shannon`: the score's proof in files: an image to its stream, and back.

use std::path::PathBuf;

use super::{Context, Outcome, output};
use crate::{
    error::{Error, Result},
    io::atomic,
    select::{kernels, shannon},
    slide::Slide,
};

#[derive(clap::Args)]
#[command(
    about = "Encode an image as the stream whose length is its score, and decode it",
    after_help = "Examples:\n  isg shannon encode patch.png patch.islz\n  isg shannon decode patch.islz again.png"
)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Compress an image without loss.
    Encode {
        /// A PNG, or any slide small enough to be one image; its RGB pixels are encoded.
        #[arg(value_name = "IN.png")]
        input: PathBuf,
        #[arg(value_name = "OUT.islz")]
        output: PathBuf,
    },
    /// Give the pixels back, exactly.
    Decode {
        #[arg(value_name = "IN.islz")]
        input: PathBuf,
        #[arg(value_name = "OUT.png")]
        output: PathBuf,
    },
}

pub fn run(args: Args, context: &Context) -> Result<Outcome> {
    match args.action {
        Action::Encode { input, output: written } => {
            output::refuse_overwriting([written.as_path()], [input.as_path()])?;
            let slide = Slide::open(&input)?;
            let (width_px, height_px) = slide.levels().first().map_or((0, 0), |l| (l.width_px, l.height_px));
            if width_px.saturating_mul(height_px).saturating_mul(3) > shannon::MAX_PIXEL_BYTES as u64 {
                return Err(Error::input(input, "is too large for one stream", "encode a region of it"));
            }
            let image = slide.read_region(0, 0, 0, width_px as usize, height_px as usize)?;
            if image.pixels.is_empty() {
                return Err(Error::input(input, "has no pixels to encode", "give an image of at least one pixel"));
            }
            let stream = kernels::shannon::encode(&image, &context.device()?)?;
            atomic::write_bytes(&written, &stream)?;
            if !context.quiet {
                let bits_per_px = 8.0 * stream.len() as f64 / (width_px * height_px) as f64;
                let (file, bits) = (written.display(), 8 * stream.len());
                output::line(format_args!("{file}: {bits} bits, {bits_per_px:.3} per pixel"))?;
            }
        }
        Action::Decode { input, output: written } => {
            output::refuse_overwriting([written.as_path()], [input.as_path()])?;
            shannon::read(&input)?.write_png(&written)?;
        }
    }
    Ok(Outcome::Done)
}
