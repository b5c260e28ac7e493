//! The patches of a slide with the most texture: `cargo run --release --example score_patches -- SLIDE [SELECTOR]`.

use std::env;

use isg::{
    Error, Result,
    progress::Silent,
    select::{ScoreOptions, Selectors, score_slide},
    slide::Slide,
};

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let usage = || Error::Usage("score_patches SLIDE [SELECTOR]: name a slide".to_string());
    let slide = Slide::open(arguments.next().ok_or_else(usage)?)?;
    let selector = Selectors::default().named(&arguments.next().unwrap_or("shannon".to_string()))?;

    let options = ScoreOptions { patch_px: 512, selector, ..ScoreOptions::default() };
    let mut patches = score_slide(&slide, &options, &Silent)?.patches;
    let kept = patches.iter().filter(|patch| patch.kept).count();
    println!("{kept} of {} patches are kept by {}; the best:", patches.len(), options.selector.title());
    patches.sort_by(|a, b| b.score.total_cmp(&a.score));
    for patch in patches.iter().take(10) {
        println!("  {:8.4} {} at {}, {}", patch.score, options.selector.unit(), patch.x, patch.y);
    }
    Ok(())
}
