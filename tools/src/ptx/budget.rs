//! `kernels/budget.toml`: what every entry may use. A rise is an error until it is accepted; a fall is taken at once, so
//! that it cannot creep back.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;

/// Of one entry, on its own architecture with the pinned assembler. A driver's compiler may differ by a few registers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    pub registers: u32,
    /// Static shared memory.
    pub shared_bytes: u32,
    /// Local arrays that could not live in registers; spills are refused outright.
    pub stack_bytes: u32,
}

impl Usage {
    fn exceeds(&self, allowed: &Usage) -> bool {
        self.registers > allowed.registers
            || self.shared_bytes > allowed.shared_bytes
            || self.stack_bytes > allowed.stack_bytes
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Usage { registers, shared_bytes, stack_bytes } = self;
        write!(f, "{registers} registers, {shared_bytes} shared bytes, {stack_bytes} stack bytes")
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
            "# What every kernel uses on its own architecture, as the pinned assembler counts. Written by `cargo tool ptx`;\n\
             # a rise is rejected until `cargo tool ptx --accept` takes it in.\n",
        );
        for (module, entries) in &self.0 {
            writeln!(text, "\n[{module}]")?;
            for (entry, Usage { registers, shared_bytes, stack_bytes }) in entries {
                writeln!(
                    text,
                    "{entry} = {{ registers = {registers}, shared_bytes = {shared_bytes}, stack_bytes = {stack_bytes} }}"
                )?;
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
    fn what_is_written_is_read() {
        let path = std::env::temp_dir().join(format!("isg-budget-{}.toml", std::process::id()));
        let mut budget = Budget::default();
        budget.hold("s", &usage(40), false, false);
        budget.write(&path).expect("writable");
        let read = Budget::read(&path).expect("readable");
        let _ = fs::remove_file(&path);
        assert_eq!(read.0, budget.0);
    }
}
