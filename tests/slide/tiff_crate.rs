//! The `tiff` crate as a second opinion: what it writes, our reader reads; what we write, its reader reads.

use std::{
    fs::File,
    io::{BufReader, Cursor, Seek, Write},
};

use isg::{image::RgbImage, random::Philox, slide::Slide};
use rand::RngExt;
use tiff::{
    decoder::{Decoder, DecodingResult, Limits},
    encoder::{Compression, DeflateLevel, Predictor, TiffEncoder, TiffKind, colortype},
    tags::Tag,
};

/// Colours that compress a little: runs of a drawn length.
fn drawn(name: &str, width: usize, height: usize) -> RgbImage {
    let mut sequence = Philox::named(4, name).sequence();
    let mut pixels = Vec::with_capacity(width * height * 3);
    while pixels.len() < width * height * 3 {
        let colour: [u8; 3] = sequence.random();
        (0..sequence.random_range(1..9)).for_each(|_| pixels.extend(colour));
    }
    pixels.truncate(width * height * 3);
    RgbImage { width_px: width, height_px: height, pixels }
}

fn written<W: Write + Seek, K: TiffKind>(
    encoder: TiffEncoder<W, K>,
    image: &RgbImage,
    (compression, predictor, rows): (Compression, Predictor, u32),
) {
    let mut encoder = encoder.with_compression(compression).with_predictor(predictor);
    let mut page =
        encoder.new_image::<colortype::RGB8>(image.width_px as u32, image.height_px as u32).expect("a directory");
    page.rows_per_strip(rows).expect("rows before data");
    page.write_data(&image.pixels).expect("strips");
}

#[test]
fn strips_that_the_crate_writes_are_read_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let compressions = [
        Compression::Uncompressed,
        Compression::Lzw,
        Compression::Deflate(DeflateLevel::Balanced),
        Compression::Packbits,
    ];
    let mut read = 0;
    for (case, compression) in compressions.into_iter().enumerate() {
        for (width, height, rows) in [(1, 1, 1), (17, 5, 2), (64, 64, 64), (131, 77, 10)] {
            for predictor in [Predictor::None, Predictor::Horizontal] {
                for big in [false, true] {
                    let image = drawn(&format!("{case} {width} {rows}"), width, height);
                    let mut bytes = Cursor::new(Vec::new());
                    let form = (compression, predictor, rows);
                    match big {
                        true => written(TiffEncoder::new_big(&mut bytes).unwrap(), &image, form),
                        false => written(TiffEncoder::new(&mut bytes).unwrap(), &image, form),
                    }
                    let path = folder.path().join("strips.tif");
                    std::fs::write(&path, bytes.into_inner()).unwrap();
                    let slide = Slide::open(&path).unwrap();
                    let same = slide.read_region(0, 0, 0, width, height).unwrap() == image;
                    assert!(same, "compression {case}, {predictor:?}, {width}x{height} by {rows}, big {big}");
                    read += 1;
                }
            }
        }
    }
    assert_eq!(read, 4 * 4 * 2 * 2);
}

#[test]
fn the_container_of_synthetic_slides_is_as_the_crate_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let options = isg::synth::SynthOptions { slides: 1, seed: 6, size_px: 640 };
    isg::synth::generate(folder.path(), &options, &isg::progress::Silent).unwrap();
    let slides: Vec<_> =
        walk(folder.path()).into_iter().filter(|p| p.extension().is_some_and(|e| e == "tiff")).collect();
    assert!(!slides.is_empty());
    for path in slides {
        let slide = Slide::open(&path).unwrap();
        let mut decoder = Decoder::new(BufReader::new(File::open(&path).unwrap())).unwrap();
        for (number, level) in slide.levels().iter().enumerate() {
            decoder.seek_to_image(number).unwrap();
            let (width, height) = decoder.dimensions().unwrap();
            assert_eq!((level.width_px, level.height_px), (u64::from(width), u64::from(height)), "level {number}");
            let tile: u32 = decoder.get_tag_unsigned(Tag::TileWidth).unwrap();
            let tiles = width.div_ceil(tile) * height.div_ceil(tile);
            assert_eq!(decoder.tile_count().unwrap(), tiles, "level {number}");
        }
        assert!(!decoder.more_images(), "every directory is a level");
    }
}

/// Tiles, planes and byte orders as the builder of broken files makes them when they are whole.
#[test]
fn files_built_here_are_read_by_both_alike() {
    use super::builder::{Builder, image_tags};
    let folder = tempfile::tempdir().unwrap();
    for (big_endian, big_tiff) in [(false, false), (false, true), (true, false), (true, true)] {
        let image = drawn("built", 32, 48);
        let mut builder = Builder { big_endian, big_tiff, ..Builder::default() };
        for top in [0, 16, 32] {
            for left in [0, 16] {
                let row = |y: usize| (y * 32 + left) * 3..(y * 32 + left + 16) * 3;
                builder.data.push((top..top + 16).flat_map(|y| image.pixels[row(y)].to_vec()).collect());
            }
        }
        let counts = vec![16 * 16 * 3; 6];
        builder.directories.push(image_tags((32, 48), Some((16, 16)), 0, (3, 8), 1, 0..6, counts));
        let path = folder.path().join("built.tif");
        std::fs::write(&path, builder.build()).unwrap();
        assert!(Slide::open(&path).unwrap().read_region(0, 0, 0, 32, 48).unwrap() == image, "ours");
        let file = BufReader::new(File::open(&path).unwrap());
        let read = Decoder::new(file).unwrap().with_limits(Limits::unlimited()).read_image().unwrap();
        assert!(
            matches!(read, DecodingResult::U8(pixels) if pixels == image.pixels),
            "the crate's, {big_endian} {big_tiff}"
        );
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
