//! OME-Zarr: a folder of chunk files that `.zattrs` or `zarr.json` explains.

use super::{
    Candidate,
    foreign::{Converter, Foreign},
};

pub static OME_ZARR: Foreign = Foreign {
    what: "is a Zarr folder (OME-Zarr)",
    marks,
    converter: Converter::Command("raw2ometiff --rgb IN OUT.ome.tif, or bfconvert with the OMEZarrReader"),
    openslide: None,
};

/// The folder, or one of the files that explain it.
fn marks(candidate: &Candidate) -> bool {
    const EXPLAIN: [&str; 4] = [".zattrs", ".zgroup", ".zarray", "zarr.json"];
    if candidate.is_folder() {
        return candidate.extension() == "zarr" || EXPLAIN.iter().any(|name| candidate.path().join(name).is_file());
    }
    candidate.path().file_name().is_some_and(|name| EXPLAIN.iter().any(|known| name == *known))
}
