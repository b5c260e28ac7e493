//! Compiled entries kept from one run to the next, in `$XDG_CACHE_HOME/isg` or `~/.cache/isg`; `ISG_CACHE=off` keeps none.
//!
//! A file is named by the hash of all that its content depends on: the PTX, the driver and the compute capability. It begins
//! with a hash of the rest: a damaged one is as good as none, and is written again. It appears only when whole, so programs
//! share the folder. A folder that cannot be written costs time and nothing else.

use std::{env, fs, path::PathBuf};

use crate::atomic;

/// What the driver's compiler made of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// What the compiler said.
    pub log: String,
    pub code: Vec<u8>,
}

/// The folder of images for one driver and one kind of GPU.
#[derive(Clone)]
pub struct Images {
    folder: Option<PathBuf>,
    /// What they depend on besides the PTX.
    compiler: String,
}

/// Changes with the layout of a file.
const LAYOUT: &str = "isg image 1";
const HASH_BYTES: usize = 32;

impl Images {
    /// `compiler` names the driver's release and the GPU's kind.
    pub fn from_env(compiler: &str) -> Images {
        let folder = || {
            if env::var_os("ISG_CACHE").is_some_and(|value| value == "off") {
                return None;
            }
            let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
            let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
            caches.map(|caches| caches.join("isg"))
        };
        Images { folder: folder(), compiler: compiler.to_string() }
    }

    fn path(&self, ptx: &str) -> Option<PathBuf> {
        let mut hash = blake3::Hasher::new();
        for part in [LAYOUT, &self.compiler, ptx] {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        self.folder.as_ref().map(|folder| folder.join(hash.finalize().to_hex().as_str()))
    }

    /// The image of this PTX, if it is there and whole.
    pub fn get(&self, ptx: &str) -> Option<Image> {
        let file = fs::read(self.path(ptx)?).ok()?;
        let (hash, rest) = file.split_at_checked(HASH_BYTES)?;
        if blake3::hash(rest).as_bytes() != hash {
            return None;
        }
        let (log_bytes, rest) = rest.split_first_chunk()?;
        let (log, code) = rest.split_at_checked(u32::from_le_bytes(*log_bytes) as usize)?;
        Some(Image { log: String::from_utf8(log.to_vec()).ok()?, code: code.to_vec() })
    }

    pub fn put(&self, ptx: &str, image: &Image) {
        let (Some(path), Ok(log_bytes)) = (self.path(ptx), u32::try_from(image.log.len())) else { return };
        let rest = [&log_bytes.to_le_bytes(), image.log.as_bytes(), &image.code].concat();
        let file = [&blake3::hash(&rest).as_bytes()[..], &rest].concat();
        // A full disk or a folder that may not be written: the next run compiles again.
        let _ = atomic::write_bytes(path, &file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(folder: &std::path::Path, compiler: &str) -> Images {
        Images { folder: Some(folder.to_path_buf()), compiler: compiler.to_string() }
    }

    #[test]
    fn an_image_comes_back_and_only_for_what_it_was_made_of() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ours, image) =
            (images(folder.path(), "570 sm_90"), Image { log: "said".to_string(), code: vec![1, 2, 3] });
        assert_eq!(ours.get("ptx"), None);
        ours.put("ptx", &image);
        assert_eq!(ours.get("ptx"), Some(image));
        assert_eq!(ours.get("other ptx"), None);
        assert_eq!(images(folder.path(), "580 sm_90").get("ptx"), None);
    }

    #[test]
    fn a_damaged_image_is_none_and_is_written_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ours, image) = (images(folder.path(), "a driver"), Image { log: String::new(), code: vec![7; 100] });
        ours.put("ptx", &image);
        let path = ours.path("ptx").expect("a folder");
        let whole = fs::read(&path).expect("written");
        for damage in 0..4 {
            let mut file = whole.clone();
            match damage {
                0 => file.truncate(20),
                1 => file.truncate(90),
                2 => file[HASH_BYTES] ^= 1,
                _ => file[whole.len() - 1] ^= 0x80,
            }
            fs::write(&path, file).expect("writable");
            assert_eq!(ours.get("ptx"), None, "damage {damage}");
        }
        ours.put("ptx", &image);
        assert_eq!(ours.get("ptx"), Some(image));
    }
}
