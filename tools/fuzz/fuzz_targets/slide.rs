//! Any bytes as a slide: opened, described, read. A crash becomes a folder under tests/slide.
#![no_main]

use std::io::Write;

use isg::slide::{Slide, SlideOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(data).is_err() {
        return;
    }
    let Ok(slide) = Slide::open_with(file.path(), &SlideOptions { mpp: None, cache_bytes: 1 << 20 }) else { return };
    for level in 0..slide.levels().len().min(4) {
        let found = &slide.levels()[level];
        let (right, bottom) = (found.width_px as i64 - 100, found.height_px as i64 - 100);
        let _ = slide.read_region(level, -20, -20, 200, 200);
        let _ = slide.read_region(level, right, bottom, 200, 200);
        let _ = slide.tile_byte_counts(level);
    }
    for (name, ..) in slide.associated_images().into_iter().take(4) {
        let _ = slide.associated_image(&name);
    }
});
