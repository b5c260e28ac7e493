//! PyTorch weight files (`.pth`, `.pt`, `.bin`), both the zip archives written since 1.6 and the older bare pickles,
//! read without executing anything.
//!
//! A state dict is a pickle whose tensors name their storage, an offset, a shape and strides; the storages' bytes follow
//! (old format) or lie in the archive as `NAME/data/KEY`. Nested dictionaries, lists and parameters are flattened:
//! names are joined by dots, as `state_dict.features.0.weight`. Views, transposed tensors and tensors that share one
//! storage come out as what they show, contiguous. What is no tensor is left out.
//!
//! Bounds for hostile files: each length is checked against the file; what views and compression make of a file may be
//! at most 16 times its size plus 64 MiB. Refused: TorchScript archives, whole pickled models, sparse, quantised and
//! complex tensors, and the tar files of PyTorch before 0.1.10.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    io::{Cursor, Read},
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use zip::{CompressionMethod, ZipArchive};

use crate::{
    error::{Error, Result},
    io::{
        array::{ElementType, NamedArray},
        pickle::{self, Global, Node, Pickle, Ref},
        safetensors,
    },
};

const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const MAX_NESTING: usize = 64;
/// Dictionaries may be mentioned many times over; these bound what that can make of a small file.
const MAX_VISITS: usize = 1 << 20;
/// A hundred thousand tensors take 15 MB. PyTorch does not pack its pickles, so one that is packed gets no more room.
const MAX_PACKED_PICKLE_BYTES: usize = 32 << 20;
const MAX_KEY_BYTES: usize = 1024;
const MAX_NAMES_BYTES: usize = 256 << 20;
const MAX_DIMENSIONS: usize = 64;

/// One tensor of a file, not yet read.
#[derive(Clone, Debug)]
pub struct TorchTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub element: ElementType,
    /// Elements from one index to the next, per dimension.
    strides: Vec<usize>,
    /// First element in the storage.
    offset: usize,
    storage: String,
}

enum Storage {
    /// Bytes of the file as they are.
    Raw {
        start: usize,
        length_bytes: usize,
    },
    Deflated {
        start: usize,
        compressed_bytes: usize,
        length_bytes: usize,
        crc32: u32,
    },
}

/// An open weight file; tensors are read when asked for.
pub struct TorchFile {
    path: PathBuf,
    map: Mmap,
    big_endian: bool,
    tensors: Vec<TorchTensor>,
    storages: HashMap<String, Storage>,
}

/// Everything a file's pickles say, before any path is attached to an error.
struct Contents {
    big_endian: bool,
    tensors: Vec<TorchTensor>,
    storages: HashMap<String, Storage>,
}

type Refusal = pickle::Refusal;

fn refuse(problem: impl Into<String>, remedy: &'static str) -> Refusal {
    Refusal { problem: problem.into(), remedy }
}

const AGAIN: &str = "write or download it again";

impl TorchFile {
    pub fn open(path: impl AsRef<Path>) -> Result<TorchFile> {
        let path = path.as_ref();
        let map = safetensors::map(path)?;
        let contents = if map.starts_with(b"PK") { read_archive(&map) } else { read_legacy(&map) };
        let Contents { big_endian, tensors, storages } =
            contents.map_err(|r| Error::input(path, r.problem, r.remedy))?;
        Ok(TorchFile { path: path.to_path_buf(), map, big_endian, tensors, storages })
    }

    /// The tensors in the file's order.
    pub fn tensors(&self) -> &[TorchTensor] {
        &self.tensors
    }

    /// Every tensor, contiguous and little-endian, in the file's order.
    pub fn read_all(&self) -> Result<Vec<NamedArray>> {
        let mut budget_bytes = self.map.len().saturating_mul(16).saturating_add(64 << 20);
        let mut inflated = BTreeMap::new();
        let mut out = Vec::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            let array = self.read_within(tensor, &mut inflated, &mut budget_bytes);
            out.push(array.map_err(|r| Error::input(&self.path, format!("{}: {}", tensor.name, r.problem), r.remedy))?);
        }
        Ok(out)
    }

    fn read_within<'a>(
        &'a self,
        tensor: &TorchTensor,
        inflated: &mut BTreeMap<String, Cow<'a, [u8]>>,
        budget_bytes: &mut usize,
    ) -> Result<NamedArray, Refusal> {
        let mut spend = |bytes: usize| {
            *budget_bytes = budget_bytes.checked_sub(bytes).ok_or_else(|| {
                refuse("holds far more numbers than bytes", "save the tensors contiguous, uncompressed")
            })?;
            Ok(())
        };
        let item = tensor.element.bytes();
        let count = tensor.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let size = count.and_then(|n| n.checked_mul(item)).ok_or_else(|| refuse("has an impossible shape", AGAIN))?;
        spend(size)?;
        let array = |bytes| NamedArray {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            element: tensor.element,
            bytes,
        };
        if size == 0 {
            return Ok(array(Vec::new()));
        }
        if !inflated.contains_key(&tensor.storage) {
            let storage = self.storages.get(&tensor.storage).ok_or_else(|| refuse("its numbers are missing", AGAIN))?;
            let bytes = match *storage {
                Storage::Raw { start, length_bytes } => Cow::Borrowed(
                    self.map
                        .get(start..start + length_bytes)
                        .ok_or_else(|| refuse("the file ends too early", AGAIN))?,
                ),
                Storage::Deflated { length_bytes, .. } => {
                    spend(length_bytes)?;
                    Cow::Owned(inflate(&self.map, storage)?)
                }
            };
            inflated.insert(tensor.storage.clone(), bytes);
        }
        let source = &inflated[&tensor.storage];
        let beyond = || refuse("it reaches beyond its storage", AGAIN);
        let start = tensor.offset.checked_mul(item).ok_or_else(beyond)?;
        let mut bytes = if is_contiguous(&tensor.shape, &tensor.strides) {
            let end = start.checked_add(size).ok_or_else(beyond)?;
            source.get(start..end).ok_or_else(beyond)?.to_vec()
        } else {
            gather(source, tensor, size).ok_or_else(beyond)?
        };
        if self.big_endian {
            bytes.chunks_exact_mut(item).for_each(<[u8]>::reverse);
        }
        Ok(array(bytes))
    }
}

fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut wanted = 1usize;
    shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let ok = size == 1 || stride == wanted;
        wanted = wanted.saturating_mul(size);
        ok
    })
}

/// Copies a strided view row by row; `None` where it leaves the storage.
fn gather(source: &[u8], tensor: &TorchTensor, size: usize) -> Option<Vec<u8>> {
    let item = tensor.element.bytes();
    let last = tensor
        .shape
        .iter()
        .zip(&tensor.strides)
        .try_fold(tensor.offset, |at, (&size, &stride)| at.checked_add((size - 1).checked_mul(stride)?))?;
    if last.checked_add(1)?.checked_mul(item)? > source.len() {
        return None;
    }
    let mut out = Vec::with_capacity(size);
    let mut index = vec![0usize; tensor.shape.len()];
    let mut at = tensor.offset;
    while out.len() < size {
        out.extend_from_slice(&source[at * item..(at + 1) * item]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            // Wrapping, because the stride of an axis of size one is never used and may be anything.
            at = at.wrapping_add(tensor.strides[axis]);
            if index[axis] < tensor.shape[axis] {
                break;
            }
            at = at.wrapping_sub(tensor.strides[axis].wrapping_mul(tensor.shape[axis]));
            index[axis] = 0;
        }
    }
    Some(out)
}

fn inflate(map: &[u8], storage: &Storage) -> Result<Vec<u8>, Refusal> {
    let Storage::Deflated { start, compressed_bytes, length_bytes, crc32 } = *storage else { return Ok(Vec::new()) };
    let damaged = || refuse("its compressed numbers are damaged", AGAIN);
    let packed = map.get(start..start + compressed_bytes).ok_or_else(damaged)?;
    let mut out = Vec::new();
    flate2::read::DeflateDecoder::new(packed)
        .take(length_bytes as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|_| damaged())?;
    let mut crc = flate2::Crc::new();
    crc.update(&out);
    if out.len() != length_bytes || crc.sum() != crc32 { Err(damaged()) } else { Ok(out) }
}

// ---------------------------------------------------------------- zip archives
fn read_archive(map: &[u8]) -> Result<Contents, Refusal> {
    let bad = |e: zip::result::ZipError| refuse(format!("is not a whole zip archive ({e})"), AGAIN);
    let mut archive = ZipArchive::new(Cursor::new(map)).map_err(bad)?;
    let mut entries: HashMap<String, Storage> = HashMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(bad)?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let start = entry.data_start().and_then(|s| usize::try_from(s).ok());
        let start = start.ok_or_else(|| refuse(format!("{name} has no data"), AGAIN))?;
        let size = |n: u64| usize::try_from(n).map_err(|_| refuse(format!("{name} is too large"), AGAIN));
        let (compressed_bytes, length_bytes) = (size(entry.compressed_size())?, size(entry.size())?);
        if start.checked_add(compressed_bytes).is_none_or(|end| end > map.len()) {
            return Err(refuse(format!("ends in the middle of {name}"), AGAIN));
        }
        let storage = match entry.compression() {
            _ if entry.encrypted() => return Err(refuse("is an encrypted archive", "decrypt it first")),
            CompressionMethod::Stored => Storage::Raw { start, length_bytes: compressed_bytes },
            CompressionMethod::Deflated => {
                Storage::Deflated { start, compressed_bytes, length_bytes, crc32: entry.crc32() }
            }
            method => return Err(refuse(format!("{name} is compressed by {method}"), "store or deflate it")),
        };
        entries.insert(name, storage);
    }
    let script = entries.keys().any(|n| n.ends_with("/constants.pkl") || n == "constants.pkl");
    if script {
        return Err(refuse(
            "is a TorchScript archive, a program",
            "save a plain state dict: torch.save(model.state_dict(), FILE)",
        ));
    }
    let mut pickles = entries.keys().filter(|n| *n == "data.pkl" || n.ends_with("/data.pkl"));
    let (Some(main), None) = (pickles.next().cloned(), pickles.next()) else {
        return Err(refuse(
            "is a zip archive, not one that PyTorch wrote (data.pkl)",
            "name a .pth or .safetensors file",
        ));
    };
    let prefix = main.strip_suffix("data.pkl").unwrap_or_default().to_string();
    let text = small_entry(map, &entries[&main], MAX_PACKED_PICKLE_BYTES)?;
    let big_endian = match entries.get(&format!("{prefix}byteorder")) {
        Some(entry) => small_entry(map, entry, 64)?.as_ref() == b"big",
        None => false,
    };
    let pickle = pickle::read(&text)?;
    let tensors = Flattened::of(&pickle)?.tensors;
    let storages = entries
        .into_iter()
        .filter_map(|(name, storage)| Some((name.strip_prefix(&format!("{prefix}data/"))?.to_string(), storage)))
        .collect();
    Ok(Contents { big_endian, tensors, storages })
}

fn small_entry<'a>(map: &'a [u8], entry: &Storage, limit_bytes: usize) -> Result<Cow<'a, [u8]>, Refusal> {
    match *entry {
        Storage::Raw { start, length_bytes } => map
            .get(start..start + length_bytes)
            .map(Cow::Borrowed)
            .ok_or_else(|| refuse("the file ends too early", AGAIN)),
        Storage::Deflated { length_bytes, .. } if length_bytes <= limit_bytes => inflate(map, entry).map(Cow::Owned),
        Storage::Deflated { length_bytes, .. } => {
            let sizes = format!("{} MiB; more than {} are not read", length_bytes >> 20, limit_bytes >> 20);
            Err(refuse(format!("has a pickle that unpacks to {sizes}"), "save the weights alone"))
        }
    }
}

// ---------------------------------------------------------------- bare pickles
/// Magic number, protocol, system facts, the object, the storages' keys: five pickles; then each storage's element count
/// (i64) and bytes, always little-endian.
fn read_legacy(map: &[u8]) -> Result<Contents, Refusal> {
    let not_torch = || {
        refuse(
            "is not a PyTorch weight file",
            "name a file that torch.save(model.state_dict(), FILE) or safetensors wrote",
        )
    };
    if map.get(257..262) == Some(b"ustar") {
        return Err(refuse("is a tar archive of PyTorch before 0.1.10", "load and save it once with a newer PyTorch"));
    }
    if !map.starts_with(&[0x80]) {
        return Err(not_torch());
    }
    let magic = pickle::read(map)?;
    let is_magic = matches!(magic.node(magic.root), Node::Text(range) if map[range.clone()] == LEGACY_MAGIC);
    if !is_magic {
        return Err(refuse(
            "is a Python pickle that torch.save did not write",
            "save a plain state dict: torch.save(model.state_dict(), FILE)",
        ));
    }
    let mut at = magic.length_bytes;
    for _ in 0..2 {
        at += pickle::read(&map[at..])?.length_bytes;
    }
    let object = pickle::read(&map[at..])?;
    at += object.length_bytes;
    let keys = pickle::read(&map[at..])?;
    at += keys.length_bytes;
    let flattened = Flattened::of(&object)?;

    let mut storages = HashMap::new();
    for &key in keys.sequence(keys.root).ok_or_else(|| refuse("has no list of storages", AGAIN))? {
        let key = key_text(&keys, key).ok_or_else(|| refuse("has a storage without a key", AGAIN))?;
        let cut = || refuse(format!("ends in the middle of storage {key}"), AGAIN);
        let header: [u8; 8] = map.get(at..).and_then(|rest| rest.first_chunk().copied()).ok_or_else(cut)?;
        let count = usize::try_from(i64::from_le_bytes(header)).map_err(|_| cut())?;
        let element = *flattened
            .storage_types
            .get(&key)
            .ok_or_else(|| refuse(format!("has a storage {key} that no tensor uses, so its size is unknown"), AGAIN))?;
        let length_bytes = count.checked_mul(element.bytes()).ok_or_else(cut)?;
        let start = at + 8;
        at = start.checked_add(length_bytes).filter(|&end| end <= map.len()).ok_or_else(cut)?;
        storages.insert(key, Storage::Raw { start, length_bytes });
    }
    Ok(Contents { big_endian: false, tensors: flattened.tensors, storages })
}

fn key_text(pickle: &Pickle, r: Ref) -> Option<String> {
    pickle.text(r).map(Cow::into_owned).or_else(|| pickle.int(r).map(|n| n.to_string()))
}

// ---------------------------------------------------------------- the object
/// The tensors found in a pickle, in order, and the element type of every storage it mentions.
struct Flattened {
    tensors: Vec<TorchTensor>,
    storage_types: HashMap<String, ElementType>,
    names_bytes: usize,
}

/// What a persistent id says: `('storage', type, key, location, count[, view])`.
struct StorageId {
    key: String,
    /// `None` for untyped storages, whose tensors carry their type.
    element: Option<ElementType>,
    /// First element of the view of the storage that a very old file may name.
    view_offset: usize,
}

impl Flattened {
    fn of(pickle: &Pickle) -> Result<Flattened, Refusal> {
        let mut out = Flattened { tensors: Vec::new(), storage_types: HashMap::new(), names_bytes: 0 };
        for node in &pickle.nodes {
            if let Node::Persistent(id) = node
                && let Some(StorageId { key, element, .. }) = storage_id(pickle, *id)?
            {
                out.storage_types.insert(key, element.unwrap_or(ElementType::U8));
            }
        }
        let mut visits = 0;
        out.visit(pickle, pickle.root, &mut String::new(), 0, &mut visits)?;
        Ok(out)
    }

    fn visit(
        &mut self,
        pickle: &Pickle,
        r: Ref,
        name: &mut String,
        depth: usize,
        visits: &mut usize,
    ) -> Result<(), Refusal> {
        *visits += 1;
        if depth > MAX_NESTING || *visits > MAX_VISITS {
            return Err(beyond_reason());
        }
        match pickle.node(r) {
            Node::Dict(items) => {
                // A key given twice keeps its first place and its last value, as in Python.
                let mut last: HashMap<Cow<str>, Ref> = HashMap::new();
                let mut order = Vec::new();
                *visits += items.len();
                for &(key, value) in items {
                    if matches!(pickle.node(key), Node::Text(range) if range.len() > MAX_KEY_BYTES) {
                        return Err(beyond_reason());
                    }
                    let number = || pickle.int(key).map(|n| Cow::Owned(n.to_string()));
                    let Some(key) = pickle.text(key).or_else(number) else { continue };
                    if last.insert(key.clone(), value).is_none() {
                        order.push(key);
                    }
                }
                for key in order {
                    self.visit_child(pickle, last[&key], &key, name, depth, visits)?;
                }
            }
            Node::Sequence(items) => {
                for (index, &value) in items.iter().enumerate() {
                    // Lists of plain numbers (an optimiser's parameter ids) are long and hold nothing.
                    if matches!(pickle.node(value), Node::Dict(_) | Node::Sequence(_) | Node::Call { .. }) {
                        self.visit_child(pickle, value, &index.to_string(), name, depth, visits)?;
                    }
                }
            }
            Node::Call { function, arguments } => {
                let arguments = pickle.sequence(*arguments).unwrap_or_default();
                match (function, arguments) {
                    (Global::RebuildTensor | Global::RebuildTensorV3, _) => {
                        self.push(pickle, *function, arguments, name)?;
                    }
                    (Global::RebuildParameter, [data, ..]) => self.visit(pickle, *data, name, depth + 1, visits)?,
                    (Global::RebuildFromType, [inner, _, arguments, ..]) => match pickle.node(*inner) {
                        Node::Global(function @ (Global::RebuildTensor | Global::RebuildTensorV3)) => {
                            let arguments = pickle.sequence(*arguments).unwrap_or_default();
                            self.push(pickle, *function, arguments, name)?;
                        }
                        _ => return Err(odd_tensor(name)),
                    },
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn visit_child(
        &mut self,
        pickle: &Pickle,
        value: Ref,
        key: &str,
        name: &mut String,
        depth: usize,
        visits: &mut usize,
    ) -> Result<(), Refusal> {
        let length = name.len();
        if length > 0 {
            name.push('.');
        }
        name.push_str(key);
        self.visit(pickle, value, name, depth + 1, visits)?;
        name.truncate(length);
        Ok(())
    }

    fn push(&mut self, pickle: &Pickle, function: Global, args: &[Ref], name: &str) -> Result<(), Refusal> {
        let odd = || odd_tensor(name);
        let &[storage, offset, shape, strides, ..] = args else { return Err(odd()) };
        let Node::Persistent(id) = *pickle.node(storage) else { return Err(odd()) };
        let id = storage_id(pickle, id)?.ok_or_else(odd)?;
        let element = match function {
            Global::RebuildTensorV3 => match args.get(6).map(|&r| pickle.node(r)) {
                Some(Node::Global(Global::DType(element))) => Some(*element),
                _ => return Err(odd()),
            },
            _ => id.element,
        };
        let natural = |r: Ref| pickle.int(r).and_then(|n| usize::try_from(n).ok());
        let naturals = |r: Ref| {
            let items = pickle.sequence(r).filter(|items| items.len() <= MAX_DIMENSIONS)?;
            items.iter().map(|&r| natural(r)).collect::<Option<Vec<usize>>>()
        };
        self.names_bytes += name.len() + id.key.len();
        if self.names_bytes > MAX_NAMES_BYTES {
            return Err(beyond_reason());
        }
        let (shape, strides) = (naturals(shape).ok_or_else(odd)?, naturals(strides).ok_or_else(odd)?);
        if shape.len() != strides.len() {
            return Err(odd());
        }
        let offset = natural(offset).and_then(|n| n.checked_add(id.view_offset)).ok_or_else(odd)?;
        self.tensors.push(TorchTensor {
            name: if name.is_empty() { "tensor".to_string() } else { name.to_string() },
            shape,
            element: element.ok_or_else(odd)?,
            strides,
            offset,
            storage: id.key,
        });
        Ok(())
    }
}

fn beyond_reason() -> Refusal {
    refuse("nests its dictionaries beyond reason", "save a plain state dict")
}

fn odd_tensor(name: &str) -> Refusal {
    let name = if name.is_empty() { "its tensor" } else { name };
    refuse(format!("{name} is of a kind that is not read"), "save dense tensors of ordinary element types")
}

/// `None` where the id is of something else than a storage (the old format stores a model's source code so).
fn storage_id(pickle: &Pickle, id: Ref) -> Result<Option<StorageId>, Refusal> {
    let odd = || refuse("names a storage in a way that is not understood", AGAIN);
    let parts = pickle.sequence(id).ok_or_else(odd)?;
    let kind = parts.first().and_then(|&r| pickle.text(r)).ok_or_else(odd)?;
    if kind != "storage" {
        return Ok(None);
    }
    let &[_, class, key, _, _, ref view @ ..] = parts else { return Err(odd()) };
    let element = match *pickle.node(class) {
        Node::Global(Global::Storage(element)) => Some(element),
        Node::Global(Global::UntypedStorage) => None,
        _ => return Err(odd()),
    };
    let view_offset = match view.first().map(|&r| pickle.node(r)) {
        None | Some(Node::None) => 0,
        Some(Node::Sequence(view)) => {
            view.get(1).and_then(|&r| pickle.int(r)).and_then(|n| usize::try_from(n).ok()).ok_or_else(odd)?
        }
        Some(_) => return Err(odd()),
    };
    Ok(Some(StorageId { key: key_text(pickle, key).ok_or_else(odd)?, element, view_offset }))
}
