//! `kernels/budget.toml`: what every entry may use. A rise is an error until it is accepted; a fall is taken at once, so
//! that it cannot creep back.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::code::Work;

/// Of one entry, on its own architecture with the pinned assembler. A driver's compiler may differ by a few registers.
#[derive(Clone, Copy, PartialEq, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    pub registers: u32,
    /// Static shared memory.
    pub shared_bytes: u32,
    /// Local arrays that could not live in registers; spills are refused outright.
    pub stack_bytes: u32,
    /// Of the hottest loop's SASS, where it multiplies on tensor cores.
    pub instructions_per_mma: Option<f64>,
    /// `LDSM` and `LDS`, in the same loop.
    pub fragment_loads_per_mma: Option<f64>,
    /// A thread's, for 4 bytes from or to global memory, where the loop does not multiply there.
    pub instructions_per_4_bytes: Option<f64>,
}

impl Usage {
    /// Takes in what the hottest loop costs, to two decimals.
    pub fn add_loop(&mut self, hottest: &Work) {
        let per = |amount: u64, of: f64| (of > 0.0).then(|| (100.0 * amount as f64 / of).round() / 100.0);
        self.instructions_per_mma = per(hottest.instructions, hottest.mmas as f64);
        self.fragment_loads_per_mma = per(hottest.fragment_loads, hottest.mmas as f64);
        if hottest.mmas == 0 {
            self.instructions_per_4_bytes = per(hottest.instructions, hottest.global_bytes as f64 / 4.0);
        }
    }

    /// Names and values, in the order of the file.
    fn fields(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let always =
            [("registers", self.registers), ("shared_bytes", self.shared_bytes), ("stack_bytes", self.stack_bytes)];
        let some = [
            ("instructions_per_mma", self.instructions_per_mma),
            ("fragment_loads_per_mma", self.fragment_loads_per_mma),
            ("instructions_per_4_bytes", self.instructions_per_4_bytes),
        ];
        let some = some.into_iter().filter_map(|(name, value)| Some((name, value?)));
        always.into_iter().map(|(name, value)| (name, f64::from(value))).chain(some)
    }

    fn exceeds(&self, allowed: &Usage) -> bool {
        let rises = |(name, value): (&str, f64)| allowed.fields().any(|(known, most)| known == name && value > most);
        self.fields().any(rises)
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let parts: Vec<String> =
            self.fields().map(|(name, value)| format!("{value} {}", name.replace('_', " "))).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Per file, per entry.
#[derive(Default)]
pub struct Budget(BTreeMap<String, BTreeMap<String, Usage>>);

impl Budget {
    pub fn read(path: &Path) -> Result<Budget> {
        if !path.exists() {
            return Ok(Budget::default());
        }
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(Budget(toml::from_str(&text).with_context(|| path.display().to_string())?))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::from(
            "# What every kernel uses on its own architecture, as the pinned assembler counts, and what its hottest loop costs.\n\
             # Written by `cargo tool ptx`; a rise is rejected until `cargo tool ptx --accept` takes it in.\n",
        );
        for (module, entries) in &self.0 {
            writeln!(text, "\n[{module}]")?;
            for (entry, usage) in entries {
                let fields: Vec<String> = usage.fields().map(|(name, value)| format!("{name} = {value}")).collect();
                writeln!(text, "{entry} = {{ {} }}", fields.join(", "))?;
            }
        }
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// Takes in what a file uses now and says what it may not. With `exact`, any difference is a complaint.
    pub fn hold(&mut self, module: &str, usage: &BTreeMap<String, Usage>, accept: bool, exact: bool) -> Vec<String> {
        let allowed = self.0.entry(module.to_string()).or_default();
        let mut complaints = Vec::new();
        let mut kept = BTreeMap::new();
        for (entry, used) in usage {
            match allowed.get(entry) {
                Some(allowed) if used.exceeds(allowed) && !accept => {
                    complaints.push(format!("{entry}: {used}; the budget is {allowed}; accept it with --accept"));
                    kept.insert(entry.clone(), *allowed);
                }
                known => {
                    if exact && known != Some(used) {
                        complaints
                            .push(format!("{entry}: {used}; kernels/budget.toml says otherwise: run `cargo tool ptx`"));
                    }
                    kept.insert(entry.clone(), *used);
                }
            }
        }
        if exact {
            let gone = allowed.keys().filter(|entry| !usage.contains_key(*entry));
            complaints
                .extend(gone.map(|entry| format!("{entry}: in kernels/budget.toml, but not in kernels/{module}.cu")));
        }
        *allowed = kept;
        complaints
    }

    /// Forgets the entries of files that are gone. Their headings stay, so that parallel work merges.
    pub fn keep_only(&mut self, modules: &[String]) {
        for (module, entries) in &mut self.0 {
            if !modules.contains(module) {
                entries.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(registers: u32) -> BTreeMap<String, Usage> {
        BTreeMap::from([("a".to_string(), Usage { registers, ..Usage::default() })])
    }

    #[test]
    fn rises_are_refused_until_accepted_and_falls_are_kept() {
        let mut budget = Budget::default();
        assert!(budget.hold("s", &usage(40), false, false).is_empty());
        assert_eq!(budget.hold("s", &usage(48), false, false).len(), 1);
        assert!(budget.hold("s", &usage(32), false, false).is_empty());
        assert_eq!(budget.hold("s", &usage(40), false, false).len(), 1);
        assert!(budget.hold("s", &usage(48), true, false).is_empty());
        assert!(budget.hold("s", &usage(48), false, true).is_empty());
        assert_eq!(budget.hold("s", &usage(47), false, true).len(), 1);
        assert_eq!(budget.hold("s", &BTreeMap::new(), false, true).len(), 1);
    }

    #[test]
    fn a_loop_may_not_cost_more() {
        let cost = |instructions, mmas, global_bytes| {
            let mut usage = Usage { registers: 40, ..Usage::default() };
            usage.add_loop(&Work { instructions, mmas, fragment_loads: mmas / 2, global_bytes, ..Work::default() });
            usage
        };
        let (mma, memory) = (cost(192, 32, 64), cost(50, 0, 16));
        assert_eq!(
            mma.to_string(),
            "40 registers, 0 shared bytes, 0 stack bytes, 6 instructions per mma, 0.5 fragment loads per mma"
        );
        assert_eq!((memory.instructions_per_4_bytes, memory.instructions_per_mma), (Some(12.5), None));
        assert!(cost(193, 32, 64).exceeds(&mma) && !cost(180, 32, 64).exceeds(&mma));
        assert!(cost(51, 0, 16).exceeds(&memory) && !memory.exceeds(&memory));
    }

    #[test]
    fn what_is_written_is_read() {
        let path = std::env::temp_dir().join(format!("isg-budget-{}.toml", std::process::id()));
        let mut budget = Budget::default();
        let mut used = usage(40);
        used.values_mut().for_each(|u| u.add_loop(&Work { instructions: 50, global_bytes: 12, ..Work::default() }));
        budget.hold("s", &used, false, false);
        budget.write(&path).expect("writable");
        let read = Budget::read(&path).expect("readable");
        let _ = fs::remove_file(&path);
        assert_eq!(read.0, budget.0);
    }
}
