//! Files of which a part is damaged, unsupported or out of order: what is whole is used, the rest is said.

use isg::slide::{
    Slide,
    container::{Container, MAX_ALL_TAGS},
    file::PositionedFile,
};

use super::{
    builder::{Builder, LONG, SHORT, Value, image_tags},
    open_bytes, test_image,
};

/// Adds a test_image, every pixel saying where it is, as a tiled or stripped directory.
fn add(builder: &mut Builder, size: (u64, u64), tiled: bool) {
    let pixels = test_image(size.0 as usize, size.1 as usize).pixels;
    let (blob, bytes) = (builder.data.len(), pixels.len() as u64);
    builder.data.push(pixels);
    let tile = tiled.then_some(size);
    builder.directories.push(image_tags(size, tile, size.1, (3, 8), 1, blob..blob + 1, vec![bytes]));
}

fn describe(builder: &mut Builder, directory: usize, text: &str) {
    builder.directories[directory].push((270, 2, Value::Text(text.to_string())));
}

fn set(builder: &mut Builder, directory: usize, tag: u16, value: Value) {
    let entry = builder.directories[directory].iter_mut().find(|(t, _, _)| *t == tag).unwrap();
    entry.2 = value;
}

fn widths(slide: &Slide) -> Vec<u64> {
    slide.levels().iter().map(|level| level.width_px).collect()
}

fn shows_all_of(slide: &Slide, size: usize) {
    // Not assert_eq: nobody reads two images in numbers.
    assert!(slide.read_region(0, 0, 0, size, size).unwrap() == test_image(size, size));
}

fn open(builder: &Builder) -> isg::Result<Slide> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slide.tif");
    std::fs::write(&path, builder.build()).unwrap();
    Slide::open(path)
}

#[test]
fn levels_are_sorted_by_size_in_whatever_order_they_are_stored() {
    for order in [[128, 64, 32], [32, 64, 128], [128, 32, 64], [64, 128, 32]] {
        let mut builder = Builder::default();
        for side in order {
            add(&mut builder, (side, side), true);
        }
        let slide = open(&builder).unwrap();
        assert_eq!(widths(&slide), [128, 64, 32], "{order:?}");
        assert_eq!(slide.remarks(), [] as [String; 0]);
        shows_all_of(&slide, 128);
    }
}

#[test]
fn a_label_before_the_slide_is_not_read_as_the_slide() {
    let mut builder = Builder::default();
    add(&mut builder, (90, 30), false);
    add(&mut builder, (128, 128), true);
    add(&mut builder, (64, 64), true);
    let slide = open(&builder).unwrap();
    assert_eq!(widths(&slide), [128, 64]);
    assert_eq!(slide.associated_images(), [("page-1".to_string(), 90, 30)]);
}

#[test]
fn a_mask_of_the_slides_shape_is_no_level() {
    let mut builder = Builder::default();
    add(&mut builder, (128, 128), true);
    builder.data.push(vec![7; 64 * 64]);
    builder.directories.push(image_tags((64, 64), Some((64, 64)), 64, (1, 8), 1, 1..2, vec![64 * 64]));
    assert_eq!(widths(&open(&builder).unwrap()), [128]);
}

fn ome(images: &[(&str, u64, u64, usize)]) -> String {
    let image = |(name, x, y, ifd): &(&str, u64, u64, usize)| {
        format!(
            "<Image Name=\"{name}\"><Pixels SizeX=\"{x}\" SizeY=\"{y}\" SizeC=\"3\" PhysicalSizeX=\"0,25\" \
             PhysicalSizeY=\"0.25\"><TiffData IFD=\"{ifd}\"/></Pixels></Image>"
        )
    };
    format!("<?xml version=\"1.0\"?><OME>{}</OME>", images.iter().map(image).collect::<String>())
}

#[test]
fn the_slide_of_an_ome_tiff_is_found_behind_its_label() {
    let folder = tempfile::tempdir().unwrap();
    for (first, second) in [("label", "slide"), ("Image:0", "Image:1"), ("macro image", "")] {
        let mut builder = Builder::default();
        add(&mut builder, (96, 32), false);
        add(&mut builder, (128, 128), true);
        describe(&mut builder, 0, &ome(&[(first, 96, 32, 0), (second, 128, 128, 1)]));
        let slide = open_bytes(&folder, &builder.build());
        assert_eq!((slide.vendor(), widths(&slide)), ("ome-tiff", vec![128]), "{first}");
        assert_eq!(slide.associated_images(), [(first.to_string(), 96, 32)]);
        assert_eq!(slide.mpp(), Some(0.25), "a decimal comma is read");
        shows_all_of(&slide, 128);
    }
    // A label alone, and an image that no directory holds.
    let mut builder = Builder::default();
    add(&mut builder, (96, 32), false);
    describe(&mut builder, 0, &ome(&[("Label Image", 96, 32, 0)]));
    let message = open(&builder).unwrap_err().to_string();
    assert!(message.contains("holds no slide, only the image \"Label Image\""), "{message}");
    let mut builder = Builder::default();
    add(&mut builder, (96, 32), false);
    describe(&mut builder, 0, &ome(&[("label", 96, 32, 0), ("slide", 4000, 3000, 1)]));
    let message = open(&builder).unwrap_err().to_string();
    assert!(message.contains("4000 x 3000 px that none of its directories holds"), "{message}");
}

const APERIO: &str = "Aperio Image Library v12\r\n128x128 (128x128) JPEG/RGB Q=70|AppMag = 20|MPP = 0,5";

/// Slide, thumbnail, coarser level, label: as Aperio orders them.
fn aperio() -> Builder {
    let mut builder = Builder::default();
    add(&mut builder, (128, 128), true);
    add(&mut builder, (40, 40), false);
    add(&mut builder, (32, 32), true);
    add(&mut builder, (90, 30), false);
    describe(&mut builder, 0, APERIO);
    describe(&mut builder, 3, "Aperio\r\nlabel 90x30");
    builder
}

#[test]
fn a_damaged_directory_beside_the_slide_is_left_out_and_said() {
    let whole = open(&aperio()).unwrap();
    assert_eq!((widths(&whole), whole.remarks().len(), whole.mpp()), (vec![128, 32], 0, Some(0.5)));
    let names = |slide: &Slide| slide.associated_images().into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
    assert_eq!(names(&whole), ["thumbnail", "label"]);

    // The label's width is gone.
    let mut builder = aperio();
    builder.directories[3].retain(|(tag, _, _)| *tag != 256);
    let slide = open(&builder).unwrap();
    assert_eq!((widths(&slide), names(&slide)), (vec![128, 32], vec!["thumbnail".to_string()]));
    assert!(slide.remarks()[0].contains("directory 4 is left out"), "{:?}", slide.remarks());
    shows_all_of(&slide, 128);

    // The coarser level is compressed by something unknown, or its tile lies outside the file.
    for (tag, value, said) in [(259, 50001, "WebP"), (325, 1 << 30, "ends at byte")] {
        let mut builder = aperio();
        set(&mut builder, 2, tag, Value::Numbers(vec![value]));
        let slide = open(&builder).unwrap();
        assert_eq!(widths(&slide), [128]);
        assert!(slide.remarks()[0].contains("level of 32 x 32 px") && slide.remarks()[0].contains(said));
        shows_all_of(&slide, 128);
    }

    // The slide itself is never made up for by a coarser level.
    let mut builder = aperio();
    set(&mut builder, 0, 259, Value::Numbers(vec![50001]));
    assert!(open(&builder).unwrap_err().to_string().contains("WebP"));
}

#[test]
fn a_loop_of_directories_costs_what_lies_in_it() {
    // A SubIFD that is its own parent.
    let mut builder = aperio();
    builder.directories[0].push((330, LONG, Value::Places(vec!["@directory0".into()])));
    let slide = open(&builder).unwrap();
    assert_eq!(widths(&slide), [128, 32]);
    assert!(slide.remarks()[0].contains("form a loop"), "{:?}", slide.remarks());
    // A chain that bites its tail, behind the slide and a smaller level.
    let slide = open(&Builder { last_points_to: Some(1), ..aperio() }).unwrap();
    assert!(slide.remarks()[0].contains("form a loop"), "{:?}", slide.remarks());
    // In a plain TIFF whose smallest level comes first the lost rest of the chain may be the slide.
    let mut builder = Builder { last_points_to: Some(0), ..Builder::default() };
    add(&mut builder, (32, 32), true);
    add(&mut builder, (64, 64), true);
    assert!(open(&builder).unwrap_err().to_string().contains("form a loop"));
    // And so may a directory of more tiles without a size.
    let mut builder = Builder::default();
    add(&mut builder, (64, 64), true);
    add(&mut builder, (32, 32), true);
    builder.directories.push(vec![(324, LONG, Value::Numbers(vec![8; 20])), (257, LONG, Value::Numbers(vec![500]))]);
    assert!(open(&builder).unwrap_err().to_string().contains("without width"));
}

#[test]
fn pixels_that_are_not_square_are_said() {
    let mut builder = Builder::default();
    add(&mut builder, (64, 64), true);
    builder.directories[0].extend([
        (282, 5, Value::Numbers(vec![40_000, 1])),
        (283, 5, Value::Numbers(vec![20_000, 1])),
        (296, SHORT, Value::Numbers(vec![3])),
    ]);
    let slide = open(&builder).unwrap();
    assert_eq!(slide.remarks(), ["pixels are not square: 0.25 x 0.5 µm, 100 % apart; the mean is used as the scale"]);
    set(&mut builder, 0, 283, Value::Numbers(vec![39_600, 1]));
    assert_eq!(open(&builder).unwrap().remarks(), [] as [String; 0]);
}

/// Directories that overlap would multiply a small file: 12,000 of 4,000 tags each in 96 KB.
#[test]
fn overlapping_directories_cost_no_more_than_a_file_of_their_tags() {
    const TAGS: usize = 4000;
    let (first, step, pointers) = (8, 4, 8 + 2 + 12 * TAGS);
    let mut file = b"II\x2a\0\x08\0\0\0".to_vec();
    file.extend([0xa0, 0x0f, 0, 0].repeat((pointers - first) / step + 1));
    file.truncate(pointers);
    file.extend((1..12_000_u32).flat_map(|k| (first as u32 + step as u32 * k).to_le_bytes()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overlap.tif");
    std::fs::write(&path, file).unwrap();
    let container = Container::open(PositionedFile::open(&path).unwrap()).unwrap();
    assert_eq!(container.directories.len(), MAX_ALL_TAGS / TAGS);
    assert!(container.faults[0].contains("tags in its image directories"), "{:?}", container.faults);
}

/// A sparse file claims any length and costs nothing to make.
#[test]
fn a_sparse_file_does_not_fill_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse");
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        Slide::open(&path)
    };
    let message = open(b"\x89PNG\r\n\x1a\n").unwrap_err().to_string();
    assert!(message.contains("more than 1024 MiB"), "{message}");
    // A description, XMP and a tile of a terabyte.
    let mut builder = Builder { big_tiff: true, ..Builder::default() };
    add(&mut builder, (64, 64), true);
    builder.directories[0].retain(|(tag, _, _)| *tag != 325);
    builder.directories[0].push((325, 16, Value::Numbers(vec![1 << 39])));
    builder.directories[0].extend([(700, 1, Value::Numbers(vec![1; 16])), (270, 2, Value::Text("0123456789".into()))]);
    let mut bytes = builder.build();
    for tag in [700_u16, 270] {
        let entry =
            (0..bytes.len() - 4).rfind(|&at| bytes[at..at + 2] == tag.to_le_bytes() && bytes[at + 3] == 0).unwrap();
        bytes[entry + 4..entry + 12].copy_from_slice(&(1_u64 << 38).to_le_bytes());
    }
    let slide = open(&bytes).unwrap();
    shows_all_of(&slide, 64);
    // An image of 2^36 tiles whose table lies in the hole.
    let mut builder = Builder { big_tiff: true, ..Builder::default() };
    add(&mut builder, (64, 64), true);
    for (tag, value) in [(256, 1 << 22), (257, 1 << 22), (322, 16), (323, 16)] {
        set(&mut builder, 0, tag, Value::Numbers(vec![value]));
    }
    let message = open(&builder.build()).unwrap_err().to_string();
    assert!(message.contains("more than 16777216 are not read"), "{message}");
}
