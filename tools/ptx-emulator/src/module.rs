//! A loaded PTX text: its entries with what a host program must agree with, and their decoded code.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{decode, machine::Code, parse, report::LoadError};

/// One parameter of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// As the text names it.
    pub name: String,
    /// Where it starts in the parameter buffer.
    pub offset: u32,
    /// Its size.
    pub bytes: u32,
    /// Its alignment.
    pub align: u32,
}

/// One `ld.param` with a constant address: which bytes of the parameter buffer the code reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParamRead {
    /// Offset in the parameter buffer.
    pub offset: u32,
    /// Width of the access, all elements of a vector load together.
    pub bytes: u32,
}

/// A kernel.
pub struct Entry {
    /// As exported.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Size of the parameter buffer.
    pub param_bytes: u32,
    /// `.maxntid`: the most threads a block may have, per axis as written.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: exactly the block's shape.
    pub required_threads: Option<[u32; 3]>,
    /// `.reqnctapercluster`: blocks in a cluster.
    pub cluster: Option<[u32; 3]>,
    /// Static shared memory.
    pub shared_bytes: u32,
    /// Uses `extern .shared`, so a launch may pass dynamic shared memory.
    pub dynamic_shared: bool,
    /// Sorted, without repeats.
    pub param_reads: Vec<ParamRead>,
    /// Takes a parameter's address, so that `param_reads` may be incomplete.
    pub param_address_taken: bool,
    pub(crate) code: Code,
}

/// A module-level variable.
pub(crate) struct GlobalVariable {
    pub name: String,
    pub bytes: u64,
    pub constant: bool,
    pub initial: Vec<u8>,
    /// Addresses inside the initial bytes: where, of which variable, plus what.
    pub pointers: Vec<(usize, usize, i64)>,
}

pub(crate) struct Image {
    pub number: u64,
    pub target: String,
    pub version: String,
    pub entries: Vec<Entry>,
    pub globals: Vec<GlobalVariable>,
}

/// A PTX text, parsed, checked and decoded. Cheap to clone.
#[derive(Clone)]
pub struct Module {
    pub(crate) image: Arc<Image>,
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl Module {
    /// Parses and decodes a whole text. Anything this emulator cannot execute is refused here, never at run time.
    pub fn load(text: &str) -> Result<Self, LoadError> {
        match Self::load_what_runs(text)? {
            (module, refused) if refused.is_empty() => Ok(module),
            (_, mut refused) => Err(refused.swap_remove(0).1),
        }
    }

    /// As [`Module::load`], but kernels that this emulator cannot execute are left out, and named with the reason: for
    /// programs that carry more kernels than they launch.
    pub fn load_what_runs(text: &str) -> Result<(Self, Vec<(String, LoadError)>), LoadError> {
        let parsed = parse::parse(text)?;
        let (mut image, refused) = decode::decode(&parsed)?;
        image.number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Ok((Self { image: Arc::new(image) }, refused))
    }

    /// The kernel of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.image.entries.iter().find(|e| e.name == name)
    }

    /// All kernels, in the order of the text.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.image.entries.iter()
    }

    /// As `.target` says.
    pub fn target(&self) -> &str {
        &self.image.target
    }

    /// As `.version` says.
    pub fn version(&self) -> &str {
        &self.image.version
    }
}
