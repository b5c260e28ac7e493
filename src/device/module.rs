//! PTX modules: what a crate compiles from a `.cu` file and ships as text. The library's own are in [`modules`](super::modules);
//! a crate with kernels of its own declares a `static` [`Module`] for each.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
};

use crate::error::{Error, Result};

/// PTX for a family of GPUs.
pub struct Module {
    /// What its file under `kernels/` is called, and how the names of its entries begin.
    pub name: &'static str,
    pub arch: Arch,
    ptx: &'static str,
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
    pub const fn new(name: &'static str, arch: Arch, ptx: &'static str) -> Module {
        Module { name, arch, ptx }
    }

    /// The PTX.
    ///
    /// For people tuning kernels: where `ISG_PTX` names a folder that holds `<name>.ptx`, that file is read instead, once.
    pub fn text(&self) -> Result<Cow<'static, str>> {
        Ok(Cow::Borrowed(replacement(self.name)?.unwrap_or(self.ptx)))
    }

    /// As [`text`](Module::text), for a GPU of this compute capability.
    pub fn text_for(&self, capability: (u32, u32), device: &str) -> Result<Cow<'static, str>> {
        if !self.arch.runs_on(capability) {
            let (Module { name, arch, .. }, (major, minor)) = (self, capability);
            return Err(Error::Device(format!("{device}: module {name} is for {arch}, not for sm_{major}{minor}")));
        }
        self.text()
    }

    /// The names of its entries, in the order of the text.
    pub fn entries(&self) -> Result<Vec<String>> {
        let text = self.text()?;
        let names = text.split(".entry ").skip(1).filter_map(|rest| rest.split('(').next());
        Ok(names.map(|name| name.trim().to_string()).collect())
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
        static OWN: Module = Module::new("own", Arch::SM_90A, ".target sm_90a\n.visible .entry own_a(\n)\n{}\n");
        assert_eq!(OWN.entries().ok(), Some(vec!["own_a".to_string()]));
        assert!(OWN.text_for((9, 0), "a GPU").is_ok());
        let refusal = OWN.text_for((8, 0), "a GPU").expect_err("another generation's").to_string();
        assert!(refusal.contains("module own is for sm_90a, not for sm_80"), "{refusal}");
    }
}
