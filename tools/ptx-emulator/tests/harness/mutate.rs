//! Texts with one safeguard taken out, and the same texts with probes that tell which safeguards a run reaches.

use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;

/// What was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Safeguard {
    /// `bar.sync` and its kin.
    Barrier,
    /// `bar.warp.sync`.
    WarpBarrier,
    /// Waits for asynchronous copies, matrix products and mbarriers.
    Wait,
    /// What closes a group of asynchronous work, for a wait to count.
    Commit,
    /// Memory and proxy fences.
    Fence,
    /// A forward branch around something, the predicate of a memory access, or the zero filling of a copy.
    Guard,
    /// One half of a condition: `a` of `a && b`.
    Half,
}

impl Safeguard {
    /// Its removal leaves an order to chance, which only a check can see, not a result.
    pub fn orders(self) -> bool {
        !matches!(self, Safeguard::Guard | Safeguard::Half)
    }
}

/// A fault that can be planted.
pub struct Mutant {
    pub safeguard: Safeguard,
    /// Line of the text, from 1.
    pub line: usize,
    /// The line as it was.
    pub was: String,
    /// The line as it becomes.
    pub replacement: String,
    /// Instructions that store 1 to `[%covered+K]` where the safeguard makes a difference.
    probe: String,
}

/// One entry of a text, taken apart.
pub struct Body {
    lines: Vec<String>,
    entry: Range<usize>,
}

/// Name of the variable that [`Body::probed`] texts write to: one byte a probe.
pub const COVERED: &str = "covered_safeguards";

impl Body {
    /// `text` with the entry of that name to be mutated. Other entries stay, or, `alone`, leave empty lines.
    pub fn new(text: &str, entry: &str, alone: bool) -> Self {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let start = (lines.iter()).position(|line| line.contains(".entry") && line.contains(&format!(" {entry}(")));
        let start = start.unwrap_or_else(|| panic!("no entry {entry}"));
        let range = start..end_of(&lines, start);
        let mut n = 0;
        while alone && n < lines.len() {
            if n == range.start || !lines[n].contains(".entry ") {
                n = if n == range.start { range.end } else { n + 1 };
                continue;
            }
            let end = end_of(&lines, n);
            lines[n..end].iter_mut().for_each(String::clear);
            n = end;
        }
        Self { lines, entry: range }
    }

    /// Every fault that can be planted in the entry.
    pub fn mutants(&self) -> Vec<Mutant> {
        let labels: HashMap<&str, usize> =
            self.entry.clone().filter_map(|n| Some((self.lines[n].trim().strip_suffix(':')?, n))).collect();
        self.entry.clone().flat_map(|n| self.at(n, &labels)).collect()
    }

    /// The text as it is.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// The text with the fault.
    pub fn with(&self, mutant: &Mutant) -> String {
        let mut text = String::new();
        for (n, line) in self.lines.iter().enumerate() {
            text.push_str(if n + 1 == mutant.line { &mutant.replacement } else { line });
            text.push('\n');
        }
        text
    }

    /// The text with a probe at each of the safeguards: byte `i` of [`COVERED`] becomes 1 where `mutants[i]` would matter.
    pub fn probed<'m>(&self, mutants: impl Iterator<Item = &'m Mutant>) -> String {
        let mut before: HashMap<usize, String> = HashMap::new();
        let mut count = 0;
        for (k, mutant) in mutants.enumerate() {
            count = k + 1;
            let probes = before.entry(mutant.line - 1).or_default();
            let at = format!("[%covered+{k}]");
            write!(probes, "{{ .reg .b64 %covered; .reg .pred %here; mov.u64 %covered, {COVERED}; ").expect("a string");
            writeln!(probes, "{} }}", mutant.probe.replace("[]", &at)).expect("a string");
        }
        let mut text = String::new();
        for (n, line) in self.lines.iter().enumerate() {
            text.push_str(before.get(&n).map_or("", String::as_str));
            text.push_str(line);
            text.push('\n');
            if line.starts_with(".address_size") {
                writeln!(text, ".visible .global .align 8 .b8 {COVERED}[{}];", count.max(1)).expect("a string");
            }
        }
        text
    }

    #[allow(dead_code, reason = "for tests whose results show less than memory does")]
    /// The text that traps where the safeguard makes a difference.
    pub fn trapped(&self, mutant: &Mutant) -> String {
        let probe = mutant.probe.replace("st.global.u8 [], 1;", "trap;");
        let mut text = String::new();
        for (n, line) in self.lines.iter().enumerate() {
            if n + 1 == mutant.line {
                writeln!(text, "{{ .reg .pred %here; {probe} }}").expect("a string");
            }
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// `file:line` of the source, where the text carries `.loc`, else nothing.
    pub fn source(&self, line: usize) -> Option<String> {
        let loc = self.lines[self.entry.start..line].iter().rev().find_map(|l| l.trim().strip_prefix(".loc"))?;
        let mut words = loc.split_whitespace();
        let (file, number) = (words.next()?, words.next()?);
        let is_file = |l: &&String| {
            let mut words = l.split_whitespace();
            words.next() == Some(".file") && words.next() == Some(file)
        };
        let name = self.lines.iter().find(is_file)?.split('"').nth(1)?;
        Some(format!("{name}:{number}"))
    }

    fn at(&self, n: usize, labels: &HashMap<&str, usize>) -> Vec<Mutant> {
        let text = self.lines[n].trim();
        let (guard, rest) = match text.strip_prefix('@').and_then(|guarded| guarded.split_once(char::is_whitespace)) {
            Some((guard, rest)) => (Some(guard), rest.trim()),
            None => (None, text),
        };
        let Some(opcode) = rest.split(|c: char| c.is_whitespace() || c == ';').next() else { return Vec::new() };
        let operands: Vec<&str> = rest[opcode.len()..].trim_end_matches(';').split(',').map(str::trim).collect();
        let mutant = |safeguard, replacement: String, probe: String| {
            vec![Mutant { safeguard, line: n + 1, was: text.to_owned(), replacement, probe }]
        };
        let store = |guard: &str| format!("{guard}st.global.u8 [], 1;");
        let reached = guard.map_or_else(|| store(""), |guard| store(&format!("@{guard} ")));
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| opcode.starts_with(prefix));
        if starts(&["mbarrier.try_wait", "mbarrier.test_wait"]) {
            // The predicate comes out true without a look at the barrier.
            return mutant(Safeguard::Wait, format!("setp.eq.u32 {}, 0, 0;", operands[0]), reached);
        }
        let order = match () {
            () if starts(&["bar.warp.sync"]) => Some(Safeguard::WarpBarrier),
            () if starts(&["bar.sync", "barrier.sync", "barrier.cluster.wait"]) => Some(Safeguard::Barrier),
            () if starts(&["cp.async.wait", "cp.async.bulk.wait", "wgmma.wait_group"]) => Some(Safeguard::Wait),
            () if starts(&["cp.async.commit", "cp.async.bulk.commit", "wgmma.commit"]) => Some(Safeguard::Commit),
            () if starts(&["membar", "fence", "wgmma.fence"]) => Some(Safeguard::Fence),
            () => None,
        };
        if let Some(safeguard) = order {
            return mutant(safeguard, String::new(), reached);
        }
        if opcode == "selp.b32" && operands[2] == "0" && self.fills_a_copy(n, operands[0]) {
            let replacement = format!("mov.b32 {}, {};", operands[0], operands[1]);
            return mutant(Safeguard::Guard, replacement, store(&format!("@!{} ", operands[3])));
        }
        if opcode == "and.pred" || opcode == "or.pred" {
            return self.halves(n, opcode, &operands);
        }
        let Some(guard) = guard else { return Vec::new() };
        if opcode == "bra" || opcode == "bra.uni" {
            let forward = labels.get(operands[0]).is_some_and(|target| *target > n);
            return if forward { mutant(Safeguard::Guard, String::new(), reached) } else { Vec::new() };
        }
        let memory = ["ld.global", "st.global", "ld.shared", "st.shared", "red.", "atom.", "cp.async"];
        let skipped = guard.strip_prefix('!').map_or_else(|| format!("@!{guard} "), |plain| format!("@{plain} "));
        if starts(&memory) { mutant(Safeguard::Guard, rest.to_owned(), store(&skipped)) } else { Vec::new() }
    }

    /// Whether the register says how many bytes of the next copies are not zeros.
    fn fills_a_copy(&self, n: usize, register: &str) -> bool {
        let copy = |line: &&String| line.contains("cp.async") && line.contains("shared.global");
        let next = self.lines[n + 1..self.entry.end.min(n + 8)].iter().find(copy);
        next.is_some_and(|line| line.trim_end_matches(';').ends_with(&format!(", {register}")))
    }

    /// `a op b` with either half alone.
    fn halves(&self, n: usize, opcode: &str, operands: &[&str]) -> Vec<Mutant> {
        let was = self.lines[n].trim();
        let one = |kept: &str, dropped: &str| {
            // Where `kept` alone comes out otherwise: true and not the other for `and`, false and not the other for `or`.
            let probe = if opcode == "and.pred" {
                format!("not.pred %here, {dropped}; and.pred %here, %here, {kept}; @%here st.global.u8 [], 1;")
            } else {
                format!("not.pred %here, {kept}; and.pred %here, %here, {dropped}; @%here st.global.u8 [], 1;")
            };
            let replacement = format!("mov.pred {}, {kept};", operands[0]);
            Mutant { safeguard: Safeguard::Half, line: n + 1, was: was.to_owned(), replacement, probe }
        };
        vec![one(operands[1], operands[2]), one(operands[2], operands[1])]
    }
}

/// The line after the closing brace of what starts here.
fn end_of(lines: &[String], start: usize) -> usize {
    let (mut depth, mut opened) = (0i32, false);
    for (n, line) in lines.iter().enumerate().skip(start) {
        for c in line.chars() {
            match c {
                '{' => (depth, opened) = (depth + 1, true),
                '}' => depth -= 1,
                _ => {}
            }
        }
        if opened && depth == 0 {
            return n + 1;
        }
    }
    lines.len()
}
