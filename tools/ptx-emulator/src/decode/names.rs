//! Scopes: which name means what, and where labels are.

use std::collections::HashMap;

use crate::{
    ast::{Instruction, Variable},
    decode::{Decoded, Decoder},
    lexer::error,
    machine::Special,
};

/// The predicate that is always true.
pub(crate) const TRUE: u32 = 0;
/// The predicate that is always false.
pub(crate) const FALSE: u32 = 1;
/// The predicate that takes what nobody reads.
pub(crate) const IGNORED: u32 = 2;
/// The carry flag.
pub(crate) const CARRY: u32 = 3;

/// A register's file and slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reg {
    Predicate(u32),
    /// Slot and declared width in bits: 8, 16 or 32.
    R32(u32, u32),
    R64(u32),
}

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Symbol {
    Register(Reg),
    /// Offset in the parameter buffer.
    Param(u32),
    /// Offset in shared memory.
    Shared(u32),
    /// Start of dynamic shared memory.
    Dynamic,
    /// Offset in the thread's local memory; parameters of calls live there too.
    Local(u32),
    /// Number of a module-level variable.
    Global(u32),
}

#[derive(Default)]
pub(crate) struct Scope<'t> {
    names: HashMap<&'t str, Symbol>,
    /// Prefix, count, first slot with kind.
    families: Vec<(&'t str, u32, Reg)>,
    labels: HashMap<&'t str, u32>,
    pub(crate) targets: HashMap<&'t str, Vec<&'t str>>,
    /// Instruction, label, and the place in `more` for indexed branches.
    fixups: Vec<(usize, &'t str, Option<usize>, u32)>,
    /// The outermost scope of a function: lookups go on at module level.
    function: bool,
}

impl<'t> Decoder<'_, 't> {
    pub(crate) fn push_scope(&mut self, function: bool) {
        self.scopes.push(Scope { function, ..Scope::default() });
    }

    /// Ends a scope: branches to its labels are resolved, others are handed to the scope around it.
    pub(crate) fn pop_scope(&mut self, line: u32) -> Decoded<()> {
        let Some(scope) = self.scopes.pop() else { return Ok(()) };
        for (index, label, place, at) in scope.fixups {
            match (scope.labels.get(label), self.scopes.last_mut()) {
                (Some(target), _) => {
                    let backward = *target as usize <= index;
                    self.code.loops |= backward;
                    if let Some(ins) = self.code.ins.get_mut(index) {
                        match place {
                            Some(place) => {
                                if let Some(entry) = ins.more.get_mut(place) {
                                    *entry = *target;
                                }
                            }
                            None => ins.target = *target,
                        }
                    }
                }
                (None, Some(around)) if !scope.function => around.fixups.push((index, label, place, at)),
                _ => return Err(error(at.max(line), format!("no label {label}"))),
            }
        }
        Ok(())
    }

    pub(crate) fn label(&mut self, name: &'t str, line: u32) -> Decoded<()> {
        let here = self.here();
        let twice = self.scopes.last_mut().is_some_and(|scope| scope.labels.insert(name, here).is_some());
        if twice { Err(error(line, format!("label {name} twice"))) } else { Ok(()) }
    }

    /// The instruction about to be pushed jumps to `label`.
    pub(crate) fn jump_to(&mut self, label: &'t str, place: Option<usize>, line: u32) {
        let index = self.code.ins.len();
        if let Some(scope) = self.scopes.last_mut() {
            scope.fixups.push((index, label, place, line));
        }
    }

    pub(crate) fn declare_targets(&mut self, label: &'t str, targets: Vec<&'t str>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.targets.insert(label, targets);
        }
    }

    pub(crate) fn find_targets(&self, label: &str) -> Option<Vec<&'t str>> {
        self.scopes.iter().rev().find_map(|s| s.targets.get(label)).cloned()
    }

    pub(crate) fn declare(&mut self, name: &'t str, symbol: Symbol, line: u32) -> Decoded<()> {
        let twice = self.scopes.last_mut().is_some_and(|scope| scope.names.insert(name, symbol).is_some());
        if twice { Err(error(line, format!("{name} declared twice"))) } else { Ok(()) }
    }

    pub(crate) fn declare_registers(&mut self, kind: &str, name: &'t str, count: Option<u32>) -> Decoded<()> {
        let number = count.unwrap_or(1);
        let reg = match kind.trim_start_matches('.') {
            "pred" => {
                self.code.predicates += number as usize;
                Reg::Predicate((self.code.predicates - number as usize) as u32)
            }
            other => match crate::parse::type_bytes(other) {
                Some(8) => {
                    self.code.slots64 += number as usize;
                    Reg::R64((self.code.slots64 - number as usize) as u32)
                }
                Some(bytes @ (1 | 2 | 4)) => {
                    self.code.slots32 += number as usize;
                    Reg::R32((self.code.slots32 - number as usize) as u32, bytes * 8)
                }
                _ => return Err(error(0, format!("registers of type {kind} are not supported"))),
            },
        };
        if self.code.slots32 + self.code.slots64 + self.code.predicates > 1 << 17 {
            return Err(error(0, "more than 131072 registers after inlining"));
        }
        if let Some(scope) = self.scopes.last_mut() {
            match count {
                Some(count) => scope.families.push((name, count, reg)),
                None => {
                    scope.names.insert(name, Symbol::Register(reg));
                }
            }
        }
        Ok(())
    }

    /// What a name means here.
    pub(crate) fn find(&mut self, name: &str) -> Option<Symbol> {
        let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(digits);
        let number = number
            .parse::<u32>()
            .ok()
            .filter(|n| name.len() == digits + 1 || *n > 0 && !name[digits..].starts_with('0'));
        for scope in self.scopes.iter().rev() {
            if let Some(symbol) = scope.names.get(name) {
                return Some(*symbol);
            }
            if let Some(number) = number {
                let family = scope.families.iter().find(|(p, count, _)| *p == prefix && number < *count);
                if let Some((_, _, first)) = family {
                    return Some(Symbol::Register(match *first {
                        Reg::Predicate(slot) => Reg::Predicate(slot + number),
                        Reg::R32(slot, bits) => Reg::R32(slot + number, bits),
                        Reg::R64(slot) => Reg::R64(slot + number),
                    }));
                }
            }
            if scope.function {
                break;
            }
        }
        if let Some(number) = self.global_numbers.get(name) {
            return Some(Symbol::Global(*number));
        }
        if let Some(offset) = self.shared.get(name) {
            return Some(Symbol::Shared(*offset));
        }
        let text = self.text;
        let variable: &Variable<'t> = text.variables.iter().find(|v| v.name == name)?;
        if variable.external && variable.bytes == 0 {
            return Some(Symbol::Dynamic);
        }
        let offset = self.allocate_shared(variable.name, variable.bytes, variable.align, variable.line).ok()?;
        self.shared.insert(variable.name, offset);
        Some(Symbol::Shared(offset))
    }

    /// The slot of a predicate register.
    pub(crate) fn predicate_name(&mut self, i: &Instruction<'_>, name: &str) -> Decoded<u32> {
        match self.find(name) {
            Some(Symbol::Register(Reg::Predicate(slot))) => Ok(slot),
            Some(_) => Err(self.refuse(i, format!("{name} is no predicate"))),
            None => Err(self.refuse(i, format!("nothing is called {name}"))),
        }
    }
}

/// Shared memory that the system reserves in a block whose code asks for it.
pub(crate) const RESERVED_SHARED_BYTES: u32 = 1024;

/// Special registers by name.
pub(crate) fn special(name: &str) -> Option<Special> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let (base, axis) = name.split_once('.').unwrap_or((name, "x"));
    let axis = match axis {
        "x" => 0,
        "y" => 1,
        "z" => 2,
        _ => return None,
    };
    Some(match base {
        "%tid" => Special::Tid(axis),
        "%ntid" => Special::Ntid(axis),
        "%ctaid" => Special::Ctaid(axis),
        "%nctaid" => Special::Nctaid(axis),
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NumWarps,
        "%lanemask_eq" => Special::LaneMask(Equal, false),
        "%lanemask_lt" => Special::LaneMask(Less, false),
        "%lanemask_le" => Special::LaneMask(Less, true),
        "%lanemask_gt" => Special::LaneMask(Greater, false),
        "%lanemask_ge" => Special::LaneMask(Greater, true),
        "%gridid" => Special::GridId,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NumSm,
        "WARP_SZ" => Special::WarpSize,
        "%total_smem_size" | "%aggr_smem_size" => Special::TotalShared,
        "%cluster_ctaid" => Special::ClusterCtaId(axis),
        "%cluster_nctaid" => Special::ClusterCtas(axis),
        "%clusterid" => Special::ClusterId(axis),
        "%nclusterid" => Special::Clusters(axis),
        "%cluster_ctarank" => Special::ClusterRank,
        "%cluster_nctarank" => Special::ClusterSize,
        "%reserved_smem_offset_begin" | "%reserved_smem_offset_0" => Special::Reserved(0),
        "%reserved_smem_offset_1" => Special::Reserved(RESERVED_SHARED_BYTES / 2),
        "%reserved_smem_offset_end" => Special::Reserved(RESERVED_SHARED_BYTES),
        _ if base.starts_with("%envreg") => {
            Special::Environment(base["%envreg".len()..].parse().ok().filter(|n| *n < 32)?)
        }
        _ => return None,
    })
}
