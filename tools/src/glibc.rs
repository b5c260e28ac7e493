//! Which versions of the C library a program asks for: the oldest distribution that starts it.
//!
//! Read from the program itself (`.gnu.version_r`, `.gnu.version` and `.dynsym` of a 64-bit little-endian ELF file), so that no
//! tool needs to be installed.

use std::{collections::BTreeMap, fmt, str::FromStr};

use anyhow::{Context, Result, ensure};

/// A version of glibc, e.g. 2.28.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Version([u32; 3]);

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Version, String> {
        let mut parts = text.split('.').map(str::parse::<u32>);
        let version = [parts.next(), parts.next(), parts.next()].map(|part| part.transpose());
        match (version, parts.next()) {
            ([Ok(Some(major)), Ok(Some(minor)), Ok(patch)], None) => Ok(Version([major, minor, patch.unwrap_or(0)])),
            _ => Err(format!("{text:?} is no version of glibc; give one like 2.28")),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Version([major, minor, patch]) = self;
        write!(f, "{major}.{minor}")?;
        if *patch > 0 { write!(f, ".{patch}") } else { Ok(()) }
    }
}

const DYNSYM: u32 = 11;
const VERSION_NEEDED: u32 = 0x6fff_fffe;
const VERSION_OF_SYMBOL: u32 = 0x6fff_ffff;
const WEAK: u8 = 2;

/// The functions that a program takes from glibc, by version. Without those that it can do without (weak ones).
pub fn needed(program: &[u8]) -> Result<BTreeMap<Version, Vec<String>>> {
    let elf = Elf(program);
    ensure!(program.get(..6) == Some(b"\x7fELF\x02\x01"), "is no 64-bit little-endian ELF file");
    let (table, size, count) = (elf.u64(0x28)?, elf.u16(0x3a)?, elf.u16(0x3c)?);
    let sections =
        (0..usize::from(count)).map(|i| elf.section(table + i * usize::from(size))).collect::<Result<Vec<_>>>()?;
    let find = |kind| sections.iter().find(|section| section.kind == kind);
    let mut found: BTreeMap<Version, Vec<String>> = BTreeMap::new();
    let (Some(versions), Some(of_symbol), Some(symbols)) =
        (find(VERSION_NEEDED), find(VERSION_OF_SYMBOL), find(DYNSYM))
    else {
        return Ok(found); // linked statically
    };
    let strings = |section: &Section| sections.get(section.link).context("a section without its strings");
    let names = strings(versions)?.offset;
    let mut by_number = BTreeMap::new();
    let mut library = versions.offset;
    loop {
        let mut entry = library + elf.u32(library + 8)?;
        for _ in 0..elf.u16(library + 2)? {
            if let Some(version) = elf.text(names + elf.u32(entry + 8)?)?.strip_prefix("GLIBC_") {
                // Marks that are no version, as GLIBC_PRIVATE and GLIBC_ABI_DT_RELR, say nothing of a function.
                if let Ok(version) = version.parse::<Version>() {
                    by_number.insert(elf.u16(entry + 6)?, version);
                }
            }
            entry += elf.u32(entry + 12)?;
        }
        match elf.u32(library + 12)? {
            0 => break,
            next => library += next,
        }
    }
    let names = strings(symbols)?.offset;
    for i in 0..symbols.size / 24 {
        let (symbol, number) = (symbols.offset + 24 * i, elf.u16(of_symbol.offset + 2 * i)? & 0x7fff);
        let is_weak = elf.bytes::<1>(symbol + 4)?[0] >> 4 == WEAK;
        if let Some(version) = by_number.get(&number).filter(|_| !is_weak) {
            found.entry(*version).or_default().push(elf.text(names + elf.u32(symbol)?)?.to_string());
        }
    }
    Ok(found)
}

struct Section {
    kind: u32,
    offset: usize,
    size: usize,
    link: usize,
}

struct Elf<'a>(&'a [u8]);

impl<'a> Elf<'a> {
    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk::<N>());
        bytes.copied().context("is cut short")
    }

    fn u16(&self, at: usize) -> Result<u16> {
        Ok(u16::from_le_bytes(self.bytes(at)?))
    }

    fn u32(&self, at: usize) -> Result<usize> {
        Ok(u32::from_le_bytes(self.bytes(at)?) as usize)
    }

    fn u64(&self, at: usize) -> Result<usize> {
        Ok(usize::try_from(u64::from_le_bytes(self.bytes(at)?))?)
    }

    fn section(&self, at: usize) -> Result<Section> {
        let kind = u32::from_le_bytes(self.bytes(at + 4)?);
        Ok(Section { kind, offset: self.u64(at + 24)?, size: self.u64(at + 32)?, link: self.u32(at + 40)? })
    }

    fn text(&self, at: usize) -> Result<&'a str> {
        let rest = self.0.get(at..).context("is cut short")?;
        let end = rest.iter().position(|byte| *byte == 0).context("is cut short")?;
        Ok(std::str::from_utf8(&rest[..end])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_numbers() {
        let parse = |text: &str| text.parse::<Version>();
        assert!(parse("2.9") < parse("2.28") && parse("2.2.5") < parse("2.3"));
        assert_eq!(parse("2.2.5").map(|version| version.to_string()), Ok("2.2.5".into()));
        assert!(["", "2", "2.x", "2.2.5.1"].into_iter().all(|text| parse(text).is_err()));
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
    fn this_program_names_what_it_takes() -> Result<()> {
        let program = std::fs::read(std::env::current_exe()?)?;
        let needed = needed(&program)?;
        assert!(needed.values().flatten().any(|name| name == "malloc"), "{needed:?}");
        assert!(super::needed(&program[..program.len() / 2]).is_err() && super::needed(b"#!/bin/sh").is_err());
        Ok(())
    }
}
