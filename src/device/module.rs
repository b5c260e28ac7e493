//! PTX modules: what a crate compiles from a `.cu` file and ships as text. The library's own are in [`modules`](super::modules);
//! a crate with kernels of its own declares a `static` [`Module`] for each.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
};

use super::entries::{self, Cut};
use crate::error::{Error, Result};

/// PTX for a family of GPUs. Devices load it entry by entry.
pub struct Module {
    /// What its file under `kernels/` is called, and how the names of its entries begin.
    pub name: &'static str,
    pub arch: Arch,
    ptx: Ptx,
}

#[derive(Clone, Copy)]
enum Ptx {
    Text(&'static str),
    Deflated(Deflated),
}

/// A text cut at its entries ([`entries`]) and deflated piece by piece: what `build.rs` makes of `kernels/ptx`.
#[derive(Clone, Copy)]
pub(super) struct Deflated {
    pub bytes: &'static [u8],
    pub around: Piece,
    pub entries: &'static [DeflatedEntry],
}

pub(super) struct DeflatedEntry {
    pub name: &'static str,
    /// Where it belongs in the text around.
    pub at: usize,
    pub piece: Piece,
}

/// Where a piece lies in the deflated bytes.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub from: usize,
    pub to: usize,
}

impl Deflated {
    fn text(&self, piece: Piece) -> Result<String> {
        let mut text = String::new();
        let read = flate2::read::ZlibDecoder::new(&self.bytes[piece.from..piece.to]).read_to_string(&mut text);
        read.map_err(|e| Error::Device(format!("the PTX in this program is damaged ({e}); install it again")))?;
        Ok(text)
    }
}

/// The GPUs a module's PTX is for, as its `.target` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arch {
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// `sm_90a` and its like: this capability alone. Else every one from this on, whose driver compiles the PTX further.
    pub exact: bool,
}

impl Arch {
    /// Every GPU from Ampere on.
    pub const SM_80: Arch = Arch { capability: (8, 0), exact: false };
    /// Hopper alone: wgmma and what else later GPUs dropped.
    pub const SM_90A: Arch = Arch { capability: (9, 0), exact: true };

    pub fn runs_on(self, capability: (u32, u32)) -> bool {
        if self.exact { self.capability == capability } else { self.capability <= capability }
    }
}

/// As `.target` and nvcc's `-arch` write it.
impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ((major, minor), suffix) = (self.capability, if self.exact { "a" } else { "" });
        write!(f, "sm_{major}{minor}{suffix}")
    }
}

impl Module {
    /// A crate's own, e.g. `include_str!("kernels/swish.ptx")`.
    pub const fn new(name: &'static str, arch: Arch, ptx: &'static str) -> Module {
        Module { name, arch, ptx: Ptx::Text(ptx) }
    }

    pub(super) const fn deflated(name: &'static str, arch: Arch, ptx: Deflated) -> Module {
        Module { name, arch, ptx: Ptx::Deflated(ptx) }
    }

    /// All of the PTX.
    ///
    /// For people tuning kernels: where `ISG_PTX` names a folder that holds `<name>.ptx`, that file is read instead, once.
    pub fn text(&self) -> Result<Cow<'static, str>> {
        match self.ptx()? {
            Ptx::Text(text) => Ok(Cow::Borrowed(text)),
            Ptx::Deflated(ptx) => {
                let mut text = ptx.text(ptx.around)?;
                // Last first, so that what lies before stays where it is.
                for entry in ptx.entries.iter().rev() {
                    text = entries::alone(&text, entry.at, &ptx.text(entry.piece)?);
                }
                Ok(Cow::Owned(text))
            }
        }
    }

    /// The names of its entries, in the order of the text.
    pub fn entries(&self) -> Result<Vec<String>> {
        match self.ptx()? {
            Ptx::Text(text) => Ok(self.cut(text)?.entries.iter().map(|entry| entry.name.to_string()).collect()),
            Ptx::Deflated(ptx) => Ok(ptx.entries.iter().map(|entry| entry.name.to_string()).collect()),
        }
    }

    /// The PTX of one entry with what stands around it, for a GPU of this compute capability. Lines are those of the whole text.
    pub fn entry(&self, entry: &str, capability: (u32, u32), device: &str) -> Result<String> {
        let name = self.name;
        if !self.arch.runs_on(capability) {
            let (arch, (major, minor)) = (self.arch, capability);
            return Err(Error::Device(format!("{device}: module {name} is for {arch}, not for sm_{major}{minor}")));
        }
        let missing = || Error::Device(format!("{device}: module {name} has no entry {entry}"));
        match self.ptx()? {
            Ptx::Text(text) => {
                let Cut { around, entries } = self.cut(text)?;
                let found = entries.iter().find(|candidate| candidate.name == entry).ok_or_else(missing)?;
                Ok(entries::alone(&around, found.at, found.text))
            }
            Ptx::Deflated(ptx) => {
                let found = ptx.entries.iter().find(|candidate| candidate.name == entry).ok_or_else(missing)?;
                Ok(entries::alone(&ptx.text(ptx.around)?, found.at, &ptx.text(found.piece)?))
            }
        }
    }

    fn ptx(&self) -> Result<Ptx> {
        Ok(replacement(self.name)?.map_or(self.ptx, Ptx::Text))
    }

    fn cut<'a>(&self, text: &'a str) -> Result<Cut<'a>> {
        entries::cut(text).map_err(|what| Error::Device(format!("the PTX of module {}: {what}", self.name)))
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Module({} for {})", self.name, self.arch)
    }
}

/// An error where `ISG_PTX` names no folder: a typing mistake must not run the shipped kernels in silence.
pub fn check_replacements() -> Result<()> {
    replacements().map(|_| ())
}

/// The folder that `ISG_PTX` names.
fn replacements() -> Result<Option<PathBuf>> {
    match std::env::var_os("ISG_PTX").filter(|folder| !folder.is_empty()) {
        Some(folder) if !Path::new(&folder).is_dir() => {
            Err(Error::input(folder, "is named by ISG_PTX and is no folder", "correct the variable or unset it"))
        }
        folder => Ok(folder.map(PathBuf::from)),
    }
}

fn replacement(module: &str) -> Result<Option<&'static str>> {
    static TEXTS: LazyLock<Mutex<HashMap<PathBuf, &'static str>>> = LazyLock::new(Mutex::default);
    let Some(folder) = replacements()? else { return Ok(None) };
    let path = folder.join(format!("{module}.ptx"));
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = texts.get(&path) {
        return Ok(Some(text));
    }
    let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
    // Kept for the program's life, like the shipped ones; there are as many as there are modules.
    let text: &'static str = Box::leak(text.into_boxed_str());
    texts.insert(path, text);
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_goes_forward_and_what_is_one_generations_own_stays_there() {
        assert!(Arch::SM_80.runs_on((8, 0)) && Arch::SM_80.runs_on((9, 0)) && !Arch::SM_80.runs_on((7, 5)));
        assert!(Arch::SM_90A.runs_on((9, 0)) && !Arch::SM_90A.runs_on((8, 6)) && !Arch::SM_90A.runs_on((10, 0)));
        assert_eq!([Arch::SM_80, Arch::SM_90A].map(|arch| arch.to_string()), ["sm_80", "sm_90a"]);
    }

    #[test]
    fn a_crates_own_ptx_is_a_module() {
        static OWN: Module =
            Module::new("own", Arch::SM_90A, ".target sm_90a\n.entry own_a()\n{}\n.entry own_b()\n{}\n");
        assert_eq!(OWN.entries().ok(), Some(vec!["own_a".to_string(), "own_b".to_string()]));
        assert_eq!(
            OWN.entry("own_b", (9, 0), "a GPU").ok().as_deref(),
            Some(".target sm_90a\n\n\n.entry own_b()\n{}\n")
        );
        let refusal = |entry, capability| OWN.entry(entry, capability, "a GPU").expect_err("refused").to_string();
        assert!(refusal("own_b", (8, 0)).contains("module own is for sm_90a, not for sm_80"));
        assert!(refusal("own_c", (9, 0)).contains("module own has no entry own_c"));
    }
}
