//! Weights from whichever file a user has: safetensors or PyTorch, told apart by their first bytes.

use std::{io::Read, path::Path};

use crate::{
    error::{Error, Result},
    io::{array::NamedArray, pytorch::TorchFile, safetensors::SafetensorsFile},
};

/// The arrays of one weight file.
pub struct Weights {
    path: std::path::PathBuf,
    pub arrays: Vec<NamedArray>,
}

impl Weights {
    /// Reads a whole weight file. Errors name the file, and what it is where it is something else (a git-lfs pointer, an
    /// HTML page saved by mistake).
    pub fn read(path: impl AsRef<Path>) -> Result<Weights> {
        let path = path.as_ref();
        let mut head = Vec::new();
        super::open_file(path)?.take(64).read_to_end(&mut head).map_err(|e| Error::io(path, e))?;
        let arrays = if head.get(8) == Some(&b'{') {
            SafetensorsFile::open(path)?.read_all()?
        } else if head.starts_with(b"version https://git-lfs") {
            return Err(Error::input(path, "is a git-lfs pointer, not the weights", "fetch it with git lfs pull"));
        } else if head.trim_ascii_start().starts_with(b"<") {
            return Err(Error::input(path, "is a web page, not weights", "download the file itself"));
        } else {
            TorchFile::open(path)?.read_all()?
        };
        Ok(Weights { path: path.to_path_buf(), arrays })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The array of this name, or else the only one whose name ends in it after a dot, as checkpoints that wrap a state
    /// dict (`model.`, `state_dict.`, `module.`) name it.
    pub fn get(&self, name: &str) -> Result<&NamedArray> {
        if let Some(array) = self.arrays.iter().find(|a| a.name == name) {
            return Ok(array);
        }
        let wrapped = |a: &&NamedArray| a.name.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
        let mut found = self.arrays.iter().filter(wrapped);
        match (found.next(), found.next()) {
            (Some(array), None) => Ok(array),
            (Some(a), Some(b)) => Err(Error::input(
                &self.path,
                format!("holds {name} more than once ({}, {})", a.name, b.name),
                "save the wanted network's state dict alone",
            )),
            (None, _) => {
                let shown: Vec<&str> = self.arrays.iter().take(6).map(|a| a.name.as_str()).collect();
                let remedy = format!("it holds {} arrays: {}, ...", self.arrays.len(), shown.join(", "));
                Err(Error::input(&self.path, format!("has no array {name:?}"), remedy))
            }
        }
    }

    /// As [`Weights::get`], and of exactly this shape.
    pub fn get_shaped(&self, name: &str, shape: &[usize]) -> Result<&NamedArray> {
        let array = self.get(name)?;
        if array.shape != shape {
            let problem = format!("{} has shape {:?}, {shape:?} wanted", array.name, array.shape);
            return Err(Error::input(&self.path, problem, "name the weights of the right network"));
        }
        Ok(array)
    }
}
