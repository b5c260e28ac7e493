//! Slides through OpenSlide: what it decodes is what is decoded here, and vendors' slides become slides like others. Without the
//! library on the machine these tests say so and check the refusal.

use std::{fs, path::Path};

use isg::slide::{Slide, SlideOptions, openslide};

use super::{
    builder::{Builder, image_tags},
    difference, reads_as_one_sentence, test_image,
};

/// Whether the library is there; one line where it is not.
fn has_openslide() -> bool {
    let found = openslide::version();
    if let Err(why) = found {
        println!("NOT TESTED: slides through OpenSlide ({why}); {}", openslide::INSTALL);
    }
    found.is_ok()
}

fn through_openslide(path: &Path) -> isg::Result<Slide> {
    Slide::open_through_openslide(path, &SlideOptions::default())
}

/// A tiled TIFF of two levels, 300 x 200 and 150 x 100 px, in tiles of 64 px.
fn pyramid(path: &Path) {
    let mut builder = Builder::default();
    for (width, height) in [(300usize, 200usize), (150, 100)] {
        let image = test_image(width, height);
        let (across, down) = (width.div_ceil(64), height.div_ceil(64));
        let first = builder.data.len();
        for tile in 0..across * down {
            let (x, y) = (tile % across * 64, tile / across * 64);
            let pixel = |i: usize| image.pixel((x + i % 64).min(width - 1), (y + i / 64).min(height - 1));
            builder.data.push((0..64 * 64).flat_map(pixel).collect());
        }
        let counts = vec![64 * 64 * 3; across * down];
        let blobs = first..first + across * down;
        let size = (width as u64, height as u64);
        let mut tags = image_tags(size, Some((64, 64)), 0, (3, 8), 1, blobs, counts);
        if first > 0 {
            // A smaller version of another image.
            tags.push((254, super::LONG, super::Value::Numbers(vec![1])));
        }
        builder.directories.push(tags);
    }
    fs::write(path, builder.build()).unwrap();
}

#[test]
fn a_tiled_tiff_is_the_same_through_openslide() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pyramid.tif");
    pyramid(&path);
    let ours = Slide::open(&path).unwrap();
    if !has_openslide() {
        let message = through_openslide(&path).unwrap_err().to_string();
        assert!(message.contains("libopenslide") && message.contains("install OpenSlide"), "{message}");
        return;
    }
    let theirs = through_openslide(&path).unwrap();
    let sizes = |slide: &Slide| slide.levels().iter().map(|l| (l.width_px, l.height_px)).collect::<Vec<_>>();
    assert_eq!(sizes(&theirs), sizes(&ours));
    for level in 0..ours.levels().len() {
        // Over tiles, beyond the edges, and the last pixels.
        for (x, y, width, height) in [(0, 0, 300, 200), (-5, 60, 80, 20), (140, 90, 30, 30)] {
            let read = |slide: &Slide| slide.read_region(level, x, y, width, height).unwrap();
            assert_eq!(difference(&read(&theirs), &read(&ours)), (0, 0), "level {level} at {x}, {y}");
        }
    }
    assert!(theirs.remarks().iter().any(|remark| remark.contains("OpenSlide")));
    assert!(theirs.properties().iter().any(|(name, _)| name == "openslide.vendor"));
    // Threads share one slide.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(theirs.read_region(0, 0, 0, 300, 200).is_ok()));
        }
    });
}

/// A VMS slide of one JPEG file, with a map and a photograph of the glass.
fn hamamatsu(folder: &Path) -> std::path::PathBuf {
    let jpeg = |name: &str, width: u16, height: u16| {
        let image = test_image(width.into(), height.into());
        let mut bytes = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 95);
        // A row of MCUs of 8 px: the scanner's JPEG files can be entered there.
        encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_1_1);
        encoder.set_restart_interval(width.div_ceil(8));
        encoder.encode(&image.pixels, width, height, jpeg_encoder::ColorType::Rgb).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    };
    jpeg("image.jpg", 512, 256);
    jpeg("map.jpg", 64, 32);
    jpeg("macro.jpg", 96, 48);
    let index = "[Virtual Microscope Specimen]\r\nNoLayers=1\r\nNoJpegColumns=1\r\nNoJpegRows=1\r\nImageFile=image.jpg\r\n\
                 MapFile=map.jpg\r\nMacroImage=macro.jpg\r\nPhysicalWidth=117760\r\nPhysicalHeight=58880\r\nSourceLens=40\r\n";
    let path = folder.join("slide.vms");
    fs::write(&path, index).unwrap();
    path
}

#[test]
fn a_hamamatsu_slide_is_a_slide_like_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = hamamatsu(folder.path());
    if !has_openslide() {
        let message = Slide::open(&path).unwrap_err().to_string();
        assert!(message.contains("is a Hamamatsu VMS file") && message.contains("apt-get install"), "{message}");
        assert!(message.contains("vips tiffsave"), "{message}");
        return;
    }
    let slide = Slide::open(&path).unwrap();
    assert_eq!((slide.vendor(), slide.magnification()), ("hamamatsu", Some(40.0)));
    assert_eq!((slide.levels()[0].width_px, slide.levels()[0].height_px), (512, 256));
    assert!((slide.mpp().unwrap() - 0.23).abs() < 1e-3, "{:?}", slide.scale());
    let macro_image = slide.associated_image("macro").unwrap();
    assert_eq!((macro_image.width_px, macro_image.height_px), (96, 48));
    assert!(slide.associated_image("label").is_err());
    // The same JPEG file decoded here.
    let ours = Slide::open(folder.path().join("image.jpg")).unwrap();
    let read = |slide: &Slide| slide.read_region(0, 0, 0, 512, 256).unwrap();
    let (count, most) = difference(&read(&slide), &read(&ours));
    assert!(most <= 2, "{count} samples differ, by up to {most}");
}

#[test]
fn a_slide_that_openslide_does_not_open_keeps_its_name_and_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.vms");
    fs::write(&path, "[Virtual Microscope Specimen]\r\nNoLayers=1\r\nImageFile=absent.jpg\r\n").unwrap();
    let message = Slide::open(&path).unwrap_err().to_string();
    assert!(message.contains("is a Hamamatsu VMS file") && message.contains("vips tiffsave"), "{message}");
    assert!(reads_as_one_sentence(&message, &path), "{message}");
}
