//! Other vendors' files and what is no slide at all: each known by its own marks, whatever its name, and refused by name.

use std::{fs, path::Path};

use isg::slide::Slide;

use super::{
    builder::{Builder, LONG, SHORT, Value, image_tags},
    reads_as_one_sentence, test_image,
};

/// An 8-bit RGB image of this size as tags, its pixels added to the file.
fn image(builder: &mut Builder, size: (u64, u64), tiled: bool) -> Vec<(u16, u16, Value)> {
    let pixels = test_image(size.0 as usize, size.1 as usize).pixels;
    let (blob, bytes) = (builder.data.len(), pixels.len() as u64);
    builder.data.push(pixels);
    image_tags(size, tiled.then_some(size), size.1, (3, 8), 1, blob..blob + 1, vec![bytes])
}

/// A TIFF of one tiled image with further tags in its directory.
fn marked(big_tiff: bool, marks: &[(u16, u16, Value)]) -> Vec<u8> {
    let mut builder = Builder { big_tiff, ..Builder::default() };
    let mut tags = image(&mut builder, (64, 64), true);
    tags.extend_from_slice(marks);
    builder.directories.push(tags);
    builder.build()
}

fn text(tag: u16, value: &str) -> (u16, u16, Value) {
    (tag, 2, Value::Text(value.to_string()))
}

/// A Ventana file has its label first; the marks are in the label's XMP and in later directories' descriptions.
fn ventana(xmp: bool) -> Vec<u8> {
    let mut builder = Builder { big_tiff: true, ..Builder::default() };
    let mut label = image(&mut builder, (48, 16), false);
    if xmp {
        let raw =
            b"<?xml version=\"1.0\"?><EncodeInfo><SlideInfo><iScan Magnification=\"40\"/></SlideInfo></EncodeInfo>";
        label.push((700, 1, Value::Numbers(raw.iter().map(|&b| u64::from(b)).collect())));
    }
    builder.directories.push(label);
    let mut slide = image(&mut builder, (64, 64), true);
    slide.push(text(270, "level=0 mag=20 quality=90"));
    builder.directories.push(slide);
    builder.build()
}

/// An NDPI file beyond 4 GiB says where its directory is in eight bytes, of which a TIFF reader takes four.
fn wide_ndpi() -> Vec<u8> {
    let mut file = b"II\x2a\0".to_vec();
    file.extend(40_u64.to_le_bytes());
    file.resize(40, 0xaa);
    file.extend(1_u16.to_le_bytes());
    file.extend([65420_u16, SHORT].map(u16::to_le_bytes).concat());
    file.extend([1_u32, 1].map(u32::to_le_bytes).concat());
    file.extend([0; 16]);
    file
}

fn sqlite(table: &str) -> Vec<u8> {
    let mut file = b"SQLite format 3\0".to_vec();
    file.resize(3000, 0);
    file.extend(format!("CREATE TABLE {table} (id INTEGER)").bytes());
    file
}

fn at(offset: usize, mark: &[u8]) -> Vec<u8> {
    let mut file = vec![0; offset];
    file.extend_from_slice(mark);
    file.resize(offset + 600, 0);
    file
}

#[test]
fn other_vendors_are_known_by_their_marks_and_refused_by_name() {
    let philips = "<?xml version=\"1.0\" encoding=\"UTF-8\" ?>\n<DataObject ObjectType=\"DPUfsImport\">\n";
    let scn = "<?xml version=\"1.0\"?>\n<scn xmlns=\"http://www.leica-microsystems.com/scn/2010/10/01\"><collection/>";
    let vips = "vips tiffsave IN OUT.tif --tile --pyramid";
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("a.tif", ventana(true), "Ventana", vips),
        ("b.tif", ventana(false), "Ventana", vips),
        ("c.tif", marked(true, &[text(270, scn)]), "Leica SCN", vips),
        ("d.tif", marked(false, &[(65420, LONG, Value::Numbers(vec![1]))]), "Hamamatsu NDPI", vips),
        ("e.svs", marked(false, &[text(271, "Hamamatsu"), text(272, "NanoZoomer")]), "Hamamatsu NDPI", vips),
        ("f.tif", wide_ndpi(), "Hamamatsu NDPI", vips),
        ("g.svs", b"[Virtual Microscope Specimen]\r\nNoLayers=1\r\n".to_vec(), "Hamamatsu VMS", vips),
        ("h.svs", b"\r\n[Uncompressed Virtual Microscope Specimen]\n".to_vec(), "Hamamatsu VMU", vips),
        ("i.svs", b"[NanoZoomer Digital Pathology Image Set]\n".to_vec(), "NDPIS", vips),
        ("j.tif", marked(false, &[text(305, "MedScan")]), "Trestle", vips),
        ("k.tif", marked(false, &[text(270, "Objective Power=20;OverlapsXY= 64 64")]), "Trestle", vips),
        ("l.tiff", marked(false, &[text(305, "Philips DP v1.0")]), "Philips TIFF", vips),
        ("m.tiff", marked(true, &[text(270, philips)]), "Philips TIFF", vips),
        ("n.svs", philips.as_bytes().to_vec(), "Philips iSyntax", "isyntax-to-tiff IN OUT.tif"),
        ("o.tif", marked(false, &[text(305, "PerkinElmer-QPI")]), "Akoya", "bfconvert"),
        ("p.tif", marked(true, &[text(270, "<PerkinElmer-QPI-ImageDescription>")]), "Akoya", "bfconvert"),
        ("q.svs", b"ZISRAWFILE\0\0\0\0\0\0".to_vec(), "Zeiss CZI", "bfconvert"),
        ("r.svs", at(128, b"DICM\x02\0\0\0UL"), "DICOM", vips),
        ("s.svs", b"\x02\0\0\0UL\x04\0\xba\0\0\0".to_vec(), "DICOM", vips),
        ("t.db", sqlite("SVSlideDataXPO"), "Sakura", vips),
        ("u.tif", [&b"II\x2a\0\x20\0\0\0\x18\0IS"[..], &[0; 60]].concat(), "Olympus VSI", "bfconvert"),
        ("v.bin", [&b"SIS\0\x40\0\0\0"[..], &[0; 60]].concat(), "Olympus ETS", "bfconvert"),
        ("w.ini", b"[GENERAL]\r\nSLIDE_VERSION = 01.02\r\n".to_vec(), "MIRAX", "vips tiffsave SLIDE.mrxs"),
    ];
    check(&cases);
}

#[test]
fn what_is_no_slide_gets_its_own_sentence() {
    let page = "\u{feff}\r\n<!DOCTYPE html>\n<html><title>Sign in</title></html>";
    check(&[
        ("a.svs", Vec::new(), "is empty (0 bytes)", "copy or download it again"),
        ("b.svs", vec![0x1f, 0x8b, 8, 0, 0, 0], "is packed with gzip", "gunzip"),
        ("c.svs", page.as_bytes().to_vec(), "is a web page", "log in and download"),
        ("d.svs", b"<HTML><BODY>403</BODY></HTML>".to_vec(), "is a web page", "log in and download"),
        ("e.svs", b"PK\x03\x04\x14\0".to_vec(), "is a zip archive", "unpack it"),
        ("f.svs", b"%PDF-1.7\n".to_vec(), "is a PDF document", "name the slide"),
        ("g.svs", at(257, b"ustar"), "is a tar archive", "unpack it"),
        ("h.svs", vec![0; 5000], "nothing but zero bytes", "not fully copied"),
        ("i.svs", b"{\"message\": \"unauthorized\"}".to_vec(), "is JSON text", "download the slide"),
        ("j.svs", b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "git-lfs pointer", "git lfs pull"),
        ("k.svs", b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>".to_vec(), "XML document", "slide"),
        ("l.svs", sqlite("other"), "SQLite", "name the slide"),
        ("m.svs", b"BZh91AY".to_vec(), "bzip2", "bunzip2"),
        ("n.svs", b"just some words\n".to_vec(), "is a text file", "name the slide"),
        ("o.svs", b"\x07\xff\xfa\0\xf3".to_vec(), "is not a slide that can be read", "Aperio SVS"),
    ]);
}

fn check(cases: &[(&str, Vec<u8>, &str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for (name, bytes, problem, remedy) in cases {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let message = Slide::open(&path).map_or_else(|error| error.to_string(), |slide| format!("read as {slide:?}"));
        if !(message.contains(problem) && message.contains(remedy) && reads_as_one_sentence(&message, &path)) {
            failures.push(format!("{name} ({problem}): {message}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn jpeg(path: &Path) {
    let image = test_image(32, 32);
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, 90).encode(&image.pixels, 32, 32, jpeg_encoder::ColorType::Rgb).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_mirax_overview_is_known_by_its_name_or_by_the_folder_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str| Slide::open(folder.path().join(name)).unwrap_err().to_string();
    jpeg(&folder.path().join("a.mrxs"));
    assert!(refused("a.mrxs").contains("MIRAX"), "{}", refused("a.mrxs"));
    // Renamed, with its folder.
    jpeg(&folder.path().join("b.jpg"));
    assert_eq!(Slide::open(folder.path().join("b.jpg")).unwrap().vendor(), "jpeg");
    fs::create_dir(folder.path().join("b")).unwrap();
    fs::write(folder.path().join("b/Slidedat.ini"), "[GENERAL]\n").unwrap();
    assert!(refused("b.jpg").contains("MIRAX"), "{}", refused("b.jpg"));
    assert!(refused("b").contains("MIRAX"), "{}", refused("b"));
}

#[test]
fn a_vsi_is_known_by_the_folder_beside_it_and_zarr_by_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let plain = marked(false, &[]);
    fs::write(folder.path().join("a.tif"), &plain).unwrap();
    assert_eq!(Slide::open(folder.path().join("a.tif")).unwrap().vendor(), "generic-tiff");
    fs::create_dir(folder.path().join("_a_")).unwrap();
    let refused = |name: &str| Slide::open(folder.path().join(name)).unwrap_err().to_string();
    assert!(refused("a.tif").contains("Olympus VSI"));
    fs::create_dir(folder.path().join("z")).unwrap();
    assert!(refused("z").contains("is a folder"));
    fs::write(folder.path().join("z/.zattrs"), "{}").unwrap();
    assert!(refused("z").contains("OME-Zarr") && refused("z").contains("raw2ometiff"), "{}", refused("z"));
}

/// Converters copy the original's metadata into their own: what is merely mentioned is no mark.
#[test]
fn a_converted_slide_is_not_taken_for_its_original() {
    let folder = tempfile::tempdir().unwrap();
    let vips = "<?xml version=\"1.0\"?><image xmlns=\"http://www.vips.ecs.soton.ac.uk//dzsave\"><properties><name>\
                philips.DPUfsImport</name><value>MedScan;OverlapsXY=1 1;iScan scn PerkinElmer-QPI</value></properties></image>";
    let ome = "<OME xmlns=\"x\"><Image><Pixels SizeX=\"64\" SizeY=\"64\" SizeC=\"3\"/></Image><!-- \
               <scn xmlns=\"http://www.leica-microsystems.com/scn\"> level=0 mag=20 --></OME>";
    for (description, vendor) in [(vips, "generic-tiff"), (ome, "ome-tiff")] {
        let path = folder.path().join("converted.tif");
        fs::write(&path, marked(true, &[text(270, description)])).unwrap();
        assert_eq!(Slide::open(&path).unwrap().vendor(), vendor);
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_a_device_and_a_socket_are_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket.svs");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let pipe = folder.path().join("pipe.svs");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [socket.as_path(), pipe.as_path(), Path::new("/dev/zero")] {
        let message = Slide::open(path).unwrap_err().to_string();
        assert!(message.contains("not a file") && reads_as_one_sentence(&message, path), "{message}");
    }
}
