//! What slides' files are called: the formats that are read, those of other vendors that are not, and downloads that are
//! packed or unfinished. Only names are looked at here; what a file is, its bytes say when it is opened.

use std::path::Path;

/// Columns that hold a slide's name in people's tables, in order of preference.
pub const SLIDE_COLUMNS: [&str; 14] = [
    "slide",
    "slide_id",
    "path",
    "file",
    "filename",
    "file_name",
    "wsi_file_name",
    "wsi",
    "wsi_id",
    "slide_path",
    "slide_file",
    "image",
    "image_id",
    "slide_name",
];

/// Extensions of formats that are read, the longest first.
const READ: [&str; 8] = [".ome.tiff", ".ome.tif", ".tiff", ".tif", ".svs", ".png", ".jpeg", ".jpg"];

/// Extensions of slide formats that are not read, and whose they are.
const FOREIGN: [(&str, &str); 38] = [
    (".ndpi", "Hamamatsu NDPI"),
    (".ndpis", "Hamamatsu NDPI set"),
    (".vms", "Hamamatsu VMS"),
    (".vmu", "Hamamatsu VMU"),
    (".mrxs", "3DHistech MIRAX"),
    (".scn", "Leica SCN"),
    (".bif", "Ventana BIF"),
    (".vsi", "Olympus VSI"),
    (".oir", "Olympus OIR"),
    (".czi", "Zeiss CZI"),
    (".zvi", "Zeiss ZVI"),
    (".lif", "Leica LIF"),
    (".lsm", "Zeiss LSM"),
    (".nd2", "Nikon ND2"),
    (".ims", "Imaris"),
    (".isyntax", "Philips iSyntax"),
    (".i2syntax", "Philips iSyntax"),
    (".svslide", "Sakura"),
    (".qptiff", "Akoya QPTIFF"),
    (".afi", "Aperio AFI"),
    (".btf", "BigTIFF (.btf)"),
    (".tf2", "BigTIFF (.tf2)"),
    (".tf8", "BigTIFF (.tf8)"),
    (".dcm", "DICOM"),
    (".dicom", "DICOM"),
    (".zarr", "OME-Zarr"),
    (".n5", "N5"),
    (".kfb", "KFBio"),
    (".tmap", "UNIC"),
    (".sdpc", "SQRAY"),
    (".mds", "Motic"),
    (".tron", "InteMedic"),
    (".jp2", "JPEG 2000"),
    (".j2k", "JPEG 2000"),
    (".jpx", "JPEG 2000"),
    (".bmp", "BMP"),
    (".webp", "WebP"),
    (".gif", "GIF"),
];

/// What packers and unfinished downloads append.
const PACKED: [&str; 6] = [".gz", ".zip", ".bz2", ".xz", ".zst", ".7z"];
const UNFINISHED: [&str; 5] = [".partial", ".part", ".crdownload", ".download", ".tmp"];

/// What a file's name makes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A slide in a format that is read.
    Slide,
    /// A slide that is not read, in words that follow its name, with what to do.
    NotRead(String),
    Other,
}

impl FileKind {
    pub fn of(path: &Path) -> FileKind {
        let name = lower_name(path);
        if name.starts_with('.') {
            return FileKind::Other;
        }
        if READ.iter().any(|e| ends_with(&name, e)) {
            return FileKind::Slide;
        }
        if let Some((_, format)) = foreign(&name) {
            let convert = "convert it to a tiled TIFF (vips tiffsave --tile --pyramid, or bfconvert)";
            return FileKind::NotRead(format!("is a slide of a format that is not read, {format}: {convert}"));
        }
        let is_slide = |n: &str| READ.iter().any(|e| ends_with(n, e)) || foreign(n).is_some();
        let without = |endings: &[&str]| endings.iter().find_map(|e| name.strip_suffix(e)).is_some_and(is_slide);
        if without(&PACKED) {
            return FileKind::NotRead("is a packed slide: unpack it".into());
        }
        if without(&UNFINISHED) {
            return FileKind::NotRead("is an unfinished download of a slide: download it again".into());
        }
        FileKind::Other
    }
}

fn lower_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// Whether a name has this extension and something before it.
fn ends_with(name: &str, extension: &str) -> bool {
    name.len() > extension.len() && name.ends_with(extension)
}

fn foreign(name: &str) -> Option<&'static (&'static str, &'static str)> {
    FOREIGN.iter().find(|(e, _)| ends_with(name, e))
}

/// The name of a slide: its file's name without the extension of an image.
pub fn slide_id(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    without_extension(&name).to_string()
}

/// A name without the extension of a slide, if it has one.
pub fn without_extension(name: &str) -> &str {
    let extensions = READ.iter().copied().chain(FOREIGN.iter().map(|(e, _)| *e));
    let has =
        |e: &&str| name.len() > e.len() && name.get(name.len() - e.len()..).is_some_and(|t| t.eq_ignore_ascii_case(e));
    match extensions.into_iter().find(|e| has(e)) {
        Some(extension) => &name[..name.len() - extension.len()],
        None => name,
    }
}

/// Names under which the file of a slide may lie, whose name is given without extension.
pub fn with_extensions(name: &str) -> impl Iterator<Item = String> + '_ {
    READ.iter().map(move |e| format!("{name}{e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_they_occur() {
        let kind = |name: &str| FileKind::of(Path::new(name));
        for name in ["a.svs", "A.SVS", "x/b.ome.tif", "c.JPG", "d.1.tiff"] {
            assert_eq!(kind(name), FileKind::Slide, "{name}");
        }
        for name in ["a.vsi", "A.CZI", "b.mrxs", "c.zarr", "d.ome.btf", "e.svs.gz", "f.svs.partial", "g.czi.zip"] {
            assert!(matches!(kind(name), FileKind::NotRead(_)), "{name}");
        }
        for name in [".a.svs", "notes.txt", "svs", ".svs", "rna.tsv.gz", "a.svs.txt"] {
            assert_eq!(kind(name), FileKind::Other, "{name}");
        }
        assert_eq!(slide_id(Path::new("x/study1.P01.SVS")), "study1.P01");
        assert_eq!(slide_id(Path::new("two.ome.tiff")), "two");
        assert_eq!(without_extension("é.svs"), "é");
    }
}
