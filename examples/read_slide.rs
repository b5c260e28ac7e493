//! What a slide holds, and its middle as PNG: `cargo run --release --example read_slide -- SLIDE [OUT.png]`.

use std::env;

use isg::{Error, Result, slide::Slide};

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let usage = || Error::Usage("read_slide SLIDE [OUT.png]: name a slide".to_string());
    let slide = Slide::open(arguments.next().ok_or_else(usage)?)?;

    println!("{}, {}", slide.path().display(), slide.vendor());
    match slide.mpp() {
        Some(mpp) => println!("{mpp:.4} µm per pixel"),
        None => println!("of unknown scale"),
    }
    for (i, level) in slide.levels().iter().enumerate() {
        println!(
            "level {i}: {} x {} px, 1:{:.1}, {}",
            level.width_px, level.height_px, level.downsample, level.compression
        );
    }
    // Parts beside the slide that are damaged are left out, and said.
    slide.remarks().iter().for_each(|remark| println!("{remark}"));

    let out = arguments.next().unwrap_or("middle.png".to_string());
    let level = &slide.levels()[0];
    let (x, y) = (level.width_px as i64 / 2 - 512, level.height_px as i64 / 2 - 512);
    slide.read_region(0, x, y, 1024, 1024)?.write_png(&out)?;
    println!("its middle is in {out}");
    Ok(())
}
