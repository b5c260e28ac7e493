//! The machine code of kernels that are shipped, entry by entry, as the pinned assembler makes it for a GPU. What was
//! assembled once is kept in `target/cuda/machine_code.json`.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::entries;
use crate::{
    code::{self, Code, Work},
    ptx::{gate, in_parallel, sources, toolchain::Toolchain},
};

/// What a model asks of an entry's code.
#[derive(Clone, Serialize, Deserialize)]
pub struct Assembled {
    pub registers: u32,
    pub instructions: u64,
    pub hottest: Work,
    /// SASS for one PTX instruction where most work is done.
    pub expansion: f64,
}

/// An entry as it is shipped.
struct Shipped {
    architecture: &'static str,
    /// With what stands around it.
    text: String,
    ptx: Code,
}

pub struct Kernels {
    shipped: HashMap<String, Shipped>,
    kept: PathBuf,
    assembled: BTreeMap<String, Assembled>,
}

impl Kernels {
    /// The entries of `kernels/ptx` and `kernels/*.ptx`.
    pub fn read(root: &Path) -> Result<Kernels> {
        let folder = root.join("kernels");
        let mut shipped = HashMap::new();
        for module in sources::modules(&folder).with_context(|| folder.display().to_string())? {
            let path = sources::shipped(&folder, &module);
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let cut = entries::cut(&text).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
            for entry in &cut.entries {
                let alone = entries::alone(&cut.around, entry.at, entry.text);
                let ptx = code::ptx::parse(entry.text);
                let architecture = sources::architecture(&module);
                shipped.insert(entry.name.to_string(), Shipped { architecture, text: alone, ptx });
            }
        }
        let kept = root.join("target/cuda/machine_code.json");
        // A file of another version of this program is as good as none.
        let assembled = fs::read(&kept).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(Kernels { shipped, kept, assembled })
    }

    /// Assembles what is not known yet.
    pub fn prepare(&mut self, root: &Path, wanted: &[(&str, &str)]) -> Result<()> {
        let mut missing = BTreeMap::new();
        for &(entry, capability) in wanted {
            let (key, architecture) = self.key(entry, capability)?;
            if !self.assembled.contains_key(&key) {
                missing.insert(key, (entry, architecture));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let toolchain = Toolchain::find(root)?;
        let scratch = root.join("target/cuda/scratch").join(std::process::id().to_string());
        fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
        let missing: Vec<_> = missing.into_iter().collect();
        let made = in_parallel(&missing, |(_, (entry, architecture))| {
            let shipped = &self.shipped[*entry];
            let file = scratch.join(format!("{entry}.{architecture}.ptx"));
            fs::write(&file, &shipped.text).with_context(|| file.display().to_string())?;
            let mut found = gate::machine_code(&toolchain, architecture, &file)?;
            let (usage, sass) = found.remove(*entry).with_context(|| format!("{entry}: not in what was assembled"))?;
            anyhow::Ok(summary(usage.registers, &sass, &shipped.ptx))
        });
        let _ = fs::remove_dir_all(&scratch);
        for ((key, (entry, _)), made) in missing.into_iter().zip(made) {
            self.assembled.insert(key, made.with_context(|| entry.to_string())?);
        }
        fs::write(&self.kept, serde_json::to_vec(&self.assembled)?).with_context(|| self.kept.display().to_string())
    }

    /// What [`Self::prepare`] made.
    pub fn get(&self, entry: &str, capability: &str) -> Result<&Assembled> {
        let (key, _) = self.key(entry, capability)?;
        self.assembled.get(&key).with_context(|| format!("{entry}: not assembled"))
    }

    /// What an entry's code depends on, and the architecture that a GPU's driver compiles it for.
    fn key(&self, entry: &str, capability: &str) -> Result<(String, String)> {
        let shipped = self.shipped.get(entry).with_context(|| {
            format!(
                "{entry}: in benches/log, but in no file of kernels/ptx; count again with `cargo bench --bench kernels`"
            )
        })?;
        let own = format!("sm_{}", capability.replace('.', ""));
        let architecture = if shipped.architecture == "sm_80" { own } else { shipped.architecture.to_string() };
        let mut hash = DefaultHasher::new();
        (sources::COMPILER, &shipped.text).hash(&mut hash);
        Ok((format!("{entry} {architecture} {:016x}", hash.finish()), architecture))
    }
}

fn summary(registers: u32, sass: &Code, ptx: &Code) -> Assembled {
    let (hottest, of_ptx) = (sass.hottest(), ptx.hottest());
    let per_work = |work: &Work| (work.amount() > 0).then(|| work.instructions as f64 / work.amount() as f64);
    let same = (hottest.mmas > 0) == (of_ptx.mmas > 0);
    let whole = sass.0.len() as f64 / ptx.0.len().max(1) as f64;
    let of_loops = per_work(&hottest).zip(per_work(&of_ptx)).map(|(sass, ptx)| sass / ptx);
    Assembled {
        registers,
        instructions: sass.0.len() as u64,
        hottest,
        expansion: of_loops.filter(|_| same).unwrap_or(whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::{Instruction, Kind};

    #[test]
    fn loops_of_both_languages_are_compared_by_their_work() {
        let plain = |kind| Instruction { kind, target: None, falls: true };
        let back = Instruction { kind: Kind::Other, target: Some(1), falls: true };
        let end = Instruction { kind: Kind::Other, target: None, falls: false };
        let (other, load) = (plain(Kind::Other), plain(Kind::Global(16)));
        let ptx = Code(vec![other, load, other, other, back, end]);
        // Unrolled twice, in six instructions.
        let sass = Code(vec![other, load, load, other, other, other, back, end]);
        let made = summary(40, &sass, &ptx);
        assert_eq!((made.registers, made.instructions, made.hottest.global_bytes), (40, 8, 32));
        assert_eq!(made.expansion, (6.0 / 32.0) / (4.0 / 16.0));
        // Nothing to compare by: instructions of the whole.
        assert_eq!(summary(40, &Code(vec![other, end]), &Code(vec![other, other, other, end])).expansion, 0.5);
    }
}
