//! HDF5 files, as h5py writes them: arrays of numbers by their paths, with attributes.
//!
//! Read are superblocks 0 to 3, groups of both kinds, contiguous, compact and chunked arrays (also as `libver="latest"` indexes them,
//! but for those that can grow along several axes), deflate, shuffle, Fletcher's checksum and h5py's LZF, floats of 16, 32 and 64
//! bits and integers of either byte order, booleans; attributes of numbers and text. Everything else is refused in a sentence: records,
//! references, text as arrays, views of other files, links to other names.
//!
//! Bounds for hostile files: every address and length is checked against the file, trees are walked once, and an array takes at most
//! 16 GiB and 1032 times its file, which is as much as deflate can make of it. Source: HDF5 File Format Specification 3.0.

mod attribute;
mod bytes;
mod chunks;
mod dataset;
mod datatype;
mod dense;
mod filters;
mod group;
mod object;
mod superblock;
mod write;

use std::path::{Path, PathBuf};

use memmap2::Mmap;

pub use attribute::{Attribute, Value};
pub use write::{Written, write};

use self::{
    bytes::{AGAIN, Image, PLAINER},
    dataset::Description,
    group::{Link, Target},
    object::Object,
};
use crate::{
    error::{Error, Result},
    io::{
        array::{ElementType, NamedArray},
        pickle::Refusal,
        safetensors,
    },
};

/// An open file; arrays are read from the map when asked for.
pub struct Hdf5File {
    path: PathBuf,
    map: Mmap,
}

/// An array of a file, not yet read.
pub struct Dataset<'a> {
    file: &'a Hdf5File,
    image: Image<'a>,
    name: String,
    description: Description,
    attributes: Vec<Attribute>,
}

impl Hdf5File {
    /// # Errors
    /// `Io` where the file cannot be read; `Input` where it is no whole HDF5 file.
    pub fn open(path: impl AsRef<Path>) -> Result<Hdf5File> {
        let path = path.as_ref();
        let file = Hdf5File { path: path.to_path_buf(), map: safetensors::map(path)? };
        file.root().map_err(|refusal| file.error("", refusal))?;
        Ok(file)
    }

    /// What a group holds, datasets and groups alike, in order; `""` is the root.
    ///
    /// # Errors
    /// A damaged file; an object that is no group.
    pub fn names(&self, group: &str) -> Result<Vec<String>> {
        let links = || {
            let object = self.object(group)?.map(|(_, object)| object);
            let (image, _) = self.root()?;
            object.map_or(Ok(None), |object| group::links(image, &object))
        };
        let links = links().map_err(|refusal| self.error(group, refusal))?;
        let links = links.ok_or_else(|| Error::input(&self.path, format!("has no group {group}"), AGAIN))?;
        let mut names: Vec<String> = links.into_iter().map(|link| link.name).collect();
        names.sort();
        Ok(names)
    }

    /// The array of this path, such as `features` or `group/features`; `None` where nothing has the name.
    ///
    /// # Errors
    /// A damaged file; what is no array of numbers, or one of a kind that is not read.
    pub fn dataset(&self, name: &str) -> Result<Option<Dataset<'_>>> {
        let found = || -> Result<_, Refusal> {
            let Some((image, object)) = self.object(name)? else { return Ok(None) };
            let description = Description::read(&object)?;
            let description = description.ok_or_else(|| bytes::refuse("is a group, not an array", PLAINER))?;
            Ok(Some((image, description, attribute::read_all(image, &object)?)))
        };
        let found = found().map_err(|refusal| self.error(name, refusal))?;
        Ok(found.map(|(image, description, attributes)| {
            let name = name.to_string();
            Dataset { file: self, image, name, description, attributes }
        }))
    }

    /// Attributes of the object of this path, the root's for `""`; none where nothing has the name.
    ///
    /// # Errors
    /// A damaged file.
    pub fn attributes(&self, name: &str) -> Result<Vec<Attribute>> {
        let object = self.object(name).map_err(|refusal| self.error(name, refusal))?;
        object.map_or(Ok(Vec::new()), |(image, object)| {
            attribute::read_all(image, &object).map_err(|refusal| self.error(name, refusal))
        })
    }

    fn root(&self) -> Result<(Image<'_>, u64), Refusal> {
        superblock::read(&self.map)
    }

    fn object(&self, path: &str) -> Result<Option<(Image<'_>, Object<'_>)>, Refusal> {
        let (image, root) = self.root()?;
        let mut object = Object::read(image, root)?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let links = group::links(image, &object)?.unwrap_or_default();
            let Some(Link { target, .. }) = links.into_iter().find(|link| link.name == part) else { return Ok(None) };
            object = match target {
                Target::Object(address) => Object::read(image, address)?,
                Target::Elsewhere => return Err(bytes::refuse("is a link to another name or file", PLAINER)),
            };
        }
        Ok(Some((image, object)))
    }

    fn error(&self, name: &str, Refusal { problem, remedy }: Refusal) -> Error {
        let problem = if name.is_empty() { problem } else { format!("{name} {problem}") };
        Error::input(&self.path, problem, remedy)
    }
}

impl Dataset<'_> {
    pub fn shape(&self) -> &[usize] {
        &self.description.shape
    }

    pub fn element(&self) -> ElementType {
        self.description.element
    }

    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// The attribute of this name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    /// All of its numbers.
    ///
    /// # Errors
    /// A damaged file.
    pub fn read(&self) -> Result<NamedArray> {
        let bytes = self.description.bytes(self.image).map_err(|refusal| self.file.error(&self.name, refusal))?;
        NamedArray::new(self.name.as_str(), self.shape(), self.element(), bytes)
    }
}
