//! Texts with one safeguard taken out.

use std::collections::HashMap;

/// What was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Safeguard {
    /// `bar.sync` and its kin.
    Barrier,
    /// `bar.warp.sync`.
    WarpBarrier,
    /// Waits for asynchronous copies, matrix products and mbarriers.
    Wait,
    /// Memory and proxy fences.
    Fence,
    /// A forward branch around something, or the predicate of a memory access.
    Guard,
}

/// A text with a fault planted.
pub struct Mutant {
    pub safeguard: Safeguard,
    /// Line of the text, from 1.
    pub line: usize,
    /// The line as it was.
    pub was: String,
    pub text: String,
    /// For branches: the text that traps where the branch would be taken.
    pub trapped: Option<String>,
}

/// Every mutant of one entry.
pub fn mutants(text: &str, entry: &str) -> Vec<Mutant> {
    let lines: Vec<&str> = text.lines().collect();
    let is_start = |line: &&str| line.contains(".entry") && line.contains(&format!(" {entry}("));
    let start = lines.iter().position(is_start).unwrap_or_else(|| panic!("no entry {entry}"));
    let end = (start..lines.len()).find(|&n| lines[n] == "}").unwrap_or(lines.len());
    let labels: HashMap<&str, usize> =
        (start..end).filter_map(|n| lines[n].trim().strip_suffix(':').map(|label| (label, n))).collect();
    let mut found = Vec::new();
    for n in start..end {
        let Some((safeguard, replacement)) = without(lines[n], n, &labels) else { continue };
        let with = |line: &str| {
            let mut changed: Vec<&str> = lines.clone();
            changed[n] = line;
            changed.join("\n")
        };
        let trap = lines[n].split_once("bra").map(|(guard, _)| format!("{guard}trap;"));
        let trapped = trap.filter(|_| safeguard == Safeguard::Guard && replacement.is_empty()).map(|line| with(&line));
        let (was, text) = (lines[n].trim().to_owned(), with(&replacement));
        found.push(Mutant { safeguard, line: n + 1, was, text, trapped });
    }
    found
}

/// The line without its safeguard, if it is one.
fn without(line: &str, at: usize, labels: &HashMap<&str, usize>) -> Option<(Safeguard, String)> {
    let text = line.trim();
    let (guard, rest) = match text.strip_prefix('@') {
        Some(guarded) => {
            let (guard, rest) = guarded.split_once(char::is_whitespace)?;
            (Some(guard), rest.trim())
        }
        None => (None, text),
    };
    let opcode = rest.split(|c: char| c.is_whitespace() || c == ';').next()?;
    let gone = |safeguard| Some((safeguard, String::new()));
    if opcode.starts_with("bar.warp.sync") {
        return gone(Safeguard::WarpBarrier);
    }
    if opcode.starts_with("bar.sync")
        || opcode.starts_with("barrier.sync")
        || opcode.starts_with("barrier.cluster.wait")
    {
        return gone(Safeguard::Barrier);
    }
    if ["cp.async.wait", "cp.async.bulk.wait", "wgmma.wait_group"].iter().any(|p| opcode.starts_with(p)) {
        return gone(Safeguard::Wait);
    }
    if opcode.starts_with("mbarrier.try_wait") || opcode.starts_with("mbarrier.test_wait") {
        let predicate = rest.split_whitespace().nth(1)?.trim_end_matches(',');
        // The predicate comes out true without a look at the barrier.
        let prefix = &line[..line.len() - line.trim_start().len()];
        return Some((Safeguard::Wait, format!("{prefix}setp.eq.u32 {predicate}, 0, 0;")));
    }
    if opcode.starts_with("membar") || opcode.starts_with("fence") || opcode.starts_with("wgmma.fence") {
        return gone(Safeguard::Fence);
    }
    guard?;
    if opcode == "bra" || opcode == "bra.uni" {
        let target = rest.split_whitespace().nth(1)?.trim_end_matches(';');
        return if *labels.get(target)? > at { gone(Safeguard::Guard) } else { None };
    }
    let memory = ["ld.global", "st.global", "ld.shared", "st.shared", "red.", "atom."];
    memory.iter().any(|p| opcode.starts_with(p)).then(|| (Safeguard::Guard, rest.to_owned()))
}
