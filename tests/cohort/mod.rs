//! Expression tables, cohorts, splits and the feature store.

mod features;
mod genes;
mod labels;
mod loading;
mod matching;
mod splits;
mod tables;

use std::path::{Path, PathBuf};

/// The folder of real tables, where this machine has it.
fn real_tables() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/expression");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("no ../shared/data/expression here: only generated tables are tested");
    None
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}
