//! What a slide costs (section 4.1 of the paper): opening, decoding, scoring, encoding, regressing, apart, with the file out of the
//! system's cache and in it.

use std::path::Path;

use serde::Serialize;

use crate::{
    device::DeviceId,
    error::Result,
    eval::stats::median,
    pipeline::predict::{Seconds, SlidePredictor},
    progress::Progress,
};

/// Seconds a slide, medians over the slides that were timed.
#[derive(Clone, Debug, Serialize)]
pub struct Efficiency {
    pub arm: String,
    pub title: String,
    pub slides: usize,
    /// Patches scored and encoded of a slide, means.
    pub patches: f64,
    pub kept: f64,
    /// Multiply-adds of encoding a slide's kept patches, a mean: counted, not timed.
    pub encode_macs: f64,
    /// The file was asked out of the system's cache before.
    pub cold: Seconds,
    pub warm: Seconds,
    /// The paper's seconds on a GPU of 2022, all in all.
    pub paper: Option<f64>,
}

/// Times predictions of slides by a finished arm.
///
/// # Errors
/// A run that cannot be loaded, the user's interruption. Slides that cannot be predicted are passed over.
pub fn measure(
    (arm, title): (&str, &str),
    run: &Path,
    slides: &[(&Path, Option<f64>)],
    device: DeviceId,
    progress: &dyn Progress,
) -> Result<Option<Efficiency>> {
    let predictor = SlidePredictor::load(run, &device.open()?)?;
    progress.begin(&format!("timing {title}"), slides.len() as u64, "slides");
    let (mut cold, mut warm, mut counts) = (Vec::new(), Vec::new(), [0.0; 3]);
    for &(path, mpp) in slides {
        progress.check()?;
        forget(path);
        if let Ok(first) = predictor.timed(path, mpp)
            && let Ok(second) = predictor.timed(path, mpp)
        {
            let of_slide = [first.patches as f64, first.kept as f64, first.macs as f64];
            counts.iter_mut().zip(of_slide).for_each(|(sum, value)| *sum += value);
            cold.push(first.seconds);
            warm.push(second.seconds);
        }
        progress.advance(1);
    }
    progress.end();
    let n = cold.len();
    Ok((n > 0).then(|| Efficiency {
        arm: arm.to_string(),
        title: title.to_string(),
        slides: n,
        patches: counts[0] / n as f64,
        kept: counts[1] / n as f64,
        encode_macs: counts[2] / n as f64,
        cold: medians(&cold),
        warm: medians(&warm),
        paper: super::paper::SECONDS.iter().find(|(name, ..)| *name == arm).map(|(.., seconds)| *seconds),
    }))
}

fn medians(of: &[Seconds]) -> Seconds {
    let one = |part: fn(&Seconds) -> f64| median(&of.iter().map(part).collect::<Vec<_>>()).unwrap_or(0.0);
    Seconds {
        open: one(|s| s.open),
        decode: one(|s| s.decode),
        score: one(|s| s.score),
        encode: one(|s| s.encode),
        regress: one(|s| s.regress),
    }
}

/// Asks the system to drop what it keeps of a file. Where it does not, the first reading is warm too.
fn forget(path: &Path) {
    #[cfg(target_os = "linux")]
    if let Ok(file) = std::fs::File::open(path) {
        use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = path;
}
