//! Runs one block: which warp goes on, where its lanes diverge and meet, who waits for whom.
//!
//! A warp is a list of groups of lanes, each at one instruction. The group furthest behind runs, so that lanes meet again as
//! early as they can; groups at one instruction merge. `.sync` and `.aligned` instructions hold a group until the lanes they
//! name have come. Warps take turns of seeded length. When nothing can run, asynchronous copies complete, one at a time;
//! when that does not help, the block is deadlocked.

use std::collections::BTreeMap;

use crate::{
    asynchronous,
    machine::{Block, Class, Code, Control, FULL, Gather, Group, Ins, LANES, Step, Wait, Warp},
    ops::{control, lanes::predicate},
    race,
    report::{Fault, FaultKind},
    undefined, weak,
};

/// A barrier that threads stand at.
#[derive(Default)]
struct Standing {
    /// In threads, whole warps counted as 32.
    arrived: u32,
    /// How many it takes; zero for all threads of the block.
    wanted: u32,
    popc: u32,
    all: bool,
    any: bool,
    /// Warps and lanes that wait, and the instruction they wait at.
    waiting: Vec<(usize, u32, u32)>,
}

/// How far a turn came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// All threads have ended.
    Done,
    /// The budget is spent.
    More,
    /// Nothing can run before another block of the cluster does something.
    Stuck,
}

/// Issues and active lanes of each instruction.
#[derive(Default)]
pub(crate) struct Tally(Vec<(u64, u64)>);

impl Tally {
    pub(crate) fn new(instructions: usize) -> Self {
        Self(vec![(0, 0); instructions])
    }

    /// Adds the counts up by class.
    pub(crate) fn add_to(&self, code: &Code, counters: &mut crate::Counters) {
        for ((issues, lanes), ins) in self.0.iter().zip(&code.ins) {
            counters.warp_instructions += issues;
            counters.thread_instructions += lanes;
            let class = match ins.class {
                Class::Integer => &mut counters.integer,
                Class::Float32 => &mut counters.float32,
                Class::Float64 => &mut counters.float64,
                Class::Float16 => &mut counters.float16,
                Class::Special => &mut counters.special,
                Class::Convert => &mut counters.convert,
                Class::CompareMove => &mut counters.compare_move,
                Class::Memory => &mut counters.memory,
                Class::Collective => &mut counters.warp_collective,
                Class::Synchronisation => &mut counters.synchronisation,
                Class::Control => &mut counters.control,
                Class::Matrix => &mut counters.matrix,
            };
            *class += lanes;
            counters.mma_macs += issues * u64::from(ins.macs);
        }
    }
}

/// One block with its warps and barriers.
pub(crate) struct Schedule {
    pub(crate) warps: Vec<Warp>,
    standing: BTreeMap<u32, Standing>,
    /// Steps a warp has run with its lanes apart.
    apart: Vec<u32>,
}

/// After so many steps apart, another group than the one furthest behind gets a chance: it may hold what that one waits for.
const PATIENCE: u32 = 20_000;

impl Schedule {
    pub(crate) fn new(warps: Vec<Warp>) -> Self {
        let apart = vec![0; warps.len()];
        Self { warps, standing: BTreeMap::new(), apart }
    }

    /// Everything of the last block is forgotten; the caller sets the warps up.
    pub(crate) fn restart(&mut self) {
        self.standing.clear();
        self.apart.fill(0);
    }

    /// Runs up to about `budget` warp instructions.
    pub(crate) fn turn(&mut self, block: &mut Block<'_>, tally: &mut Tally, budget: u64) -> Result<Turn, Fault> {
        let end = block.clock + budget;
        let mut ready: Vec<usize> = Vec::new();
        while block.clock < end {
            ready.clear();
            let events = block.asynchronous.events;
            let can = |w: &Warp| w.groups.iter().any(|g| runnable(g, events));
            ready.extend(self.warps.iter().enumerate().filter(|(_, w)| can(w)).map(|(n, _)| n));
            if ready.is_empty() {
                if self.warps.iter().all(|w| w.live == 0) {
                    return Ok(Turn::Done);
                }
                if asynchronous::force(&self.warps, block)? {
                    continue;
                }
                return Ok(Turn::Stuck);
            }
            let warp = ready[block.rng.below(ready.len() as u64) as usize];
            let alone = ready.len() == 1;
            let quantum = if alone { 4096 } else { 32 + block.rng.below(480) };
            self.slice(block, tally, warp, quantum.min(end - block.clock).max(1))?;
        }
        Ok(Turn::More)
    }

    /// One warp runs for at most `quantum` instructions.
    fn slice(&mut self, block: &mut Block<'_>, tally: &mut Tally, w: usize, quantum: u64) -> Step {
        let code = &block.launch.entry.code;
        let end = block.clock + quantum;
        let events = block.asynchronous.events;
        let warp = &mut self.warps[w];
        for group in &mut warp.groups {
            if matches!(group.wait, Wait::Event(_)) && runnable(group, events) {
                group.wait = Wait::No;
            }
        }
        let mut stubborn = None;
        if warp.groups.len() > 1 && self.apart[w] > PATIENCE {
            let chosen = block.rng.below(warp.groups.len() as u64) as usize;
            stubborn = Some(warp.groups[chosen].mask).filter(|_| warp.groups[chosen].wait == Wait::No);
        }
        while block.clock < end {
            let warp = &mut self.warps[w];
            merge(&mut warp.groups);
            let ready = |g: &&mut Group| g.wait == Wait::No;
            let behind = match stubborn {
                Some(mask) => warp.groups.iter_mut().find(|g| g.wait == Wait::No && g.mask & mask != 0),
                None => warp.groups.iter_mut().filter(ready).min_by_key(|g| g.pc),
            };
            let Some(group) = behind else { return Ok(()) };
            let (mut pc, mask) = (group.pc, group.mask);
            let single = warp.groups.len() == 1;
            if single {
                self.apart[w] = 0;
            } else {
                self.apart[w] = self.apart[w].saturating_add(1);
            }
            // Everything that keeps the lanes together, in a loop of its own.
            let warp = &mut self.warps[w];
            loop {
                let ins = &code.ins[pc as usize];
                let lanes = mask & (warp.predicates[ins.guard as usize] ^ ins.guard_flip);
                if warp.undefined.any() {
                    block.pc = pc;
                    undefined::check_guard(warp, block, ins, mask)?;
                }
                let meets = match (ins.control, ins.gather) {
                    (Control::Plain, Gather::No) => false,
                    (Control::Branch, _) if single && (lanes == mask || lanes == 0) => false,
                    (Control::Plain, Gather::All) if single && lanes == mask && mask == warp.live => false,
                    (Control::Plain, Gather::Members(slot)) if single && lanes == mask => {
                        let members = warp.get32(slot);
                        let named = members[0];
                        let alike = members.iter().fold(0, |apart, m| apart | (m ^ named)) == 0;
                        if !alike || mask & !named != 0 || named & warp.live & !mask != 0 {
                            break;
                        }
                        ins.class == Class::Synchronisation
                    }
                    _ => break,
                };
                block.clock += 1;
                let count = &mut tally.0[pc as usize];
                count.0 += 1;
                count.1 += u64::from(lanes.count_ones());
                block.pc = pc;
                if ins.control == Control::Branch {
                    pc = if lanes == 0 { pc + 1 } else { ins.target };
                    if block.clock >= end {
                        break;
                    }
                    continue;
                }
                if code.products {
                    asynchronous::warpgroup::check_registers(warp, block, code, pc)?;
                }
                if lanes != 0 {
                    execute(warp, block, code, ins, lanes)?;
                }
                if meets {
                    block.race.warp_sync(warp.index);
                }
                pc += 1;
                if !single || block.clock >= end {
                    break;
                }
            }
            if let Some(group) = self.warps[w].groups.iter_mut().find(|g| g.mask == mask) {
                group.pc = pc;
            }
            let ins = &code.ins[pc as usize];
            let special = ins.control != Control::Plain || ins.gather != Gather::No;
            // With others about, they are looked at before each instruction.
            let first = single || self.furthest_behind(w, pc, mask, stubborn);
            if special && first && block.clock < end {
                self.special(block, tally, w, pc, mask)?;
            }
        }
        Ok(())
    }

    /// Whether the group of `mask`, which has come to `pc`, may go on before the others are looked at again.
    fn furthest_behind(&self, w: usize, pc: u32, mask: u32, stubborn: Option<u32>) -> bool {
        let others = self.warps[w].groups.iter().filter(|g| g.mask != mask);
        let mut others = others.filter(|g| matches!(g.wait, Wait::No | Wait::Lanes(_)));
        match stubborn {
            Some(_) => !others.any(|g| g.pc == pc),
            None => !others.any(|g| g.pc == pc || g.pc < pc && g.wait == Wait::No),
        }
    }

    /// Control flow and instructions that gather lanes: one step of one group.
    fn special(&mut self, block: &mut Block<'_>, tally: &mut Tally, w: usize, pc: u32, mask: u32) -> Step {
        let code = &block.launch.entry.code;
        let ins = &code.ins[pc as usize];
        let warp = &mut self.warps[w];
        let lanes = mask & (warp.predicates[ins.guard as usize] ^ ins.guard_flip);
        block.pc = pc;
        let Some(place) = warp.groups.iter().position(|g| g.mask == mask) else { return Ok(()) };
        if warp.undefined.any() && matches!(ins.control, Control::Indexed | Control::Barrier) {
            undefined::check_operands(warp, block, code, lanes)?;
        }
        let mut count = |lanes: u32, block: &mut Block<'_>| {
            block.clock += 1;
            tally.0[pc as usize].0 += 1;
            tally.0[pc as usize].1 += u64::from(lanes.count_ones());
        };
        match ins.control {
            Control::Plain => {
                let waits = self.gathered(block, w, ins, place, lanes)?;
                if waits {
                    return Ok(());
                }
                if code.products {
                    asynchronous::warpgroup::check_registers(&mut self.warps[w], block, code, pc)?;
                }
                self.collective(block, w, ins, place, lanes, &mut count)
            }
            Control::Waiting => {
                count(lanes, block);
                if lanes != 0 {
                    execute(warp, block, code, ins, lanes)?;
                }
                let group = &mut warp.groups[place];
                if std::mem::take(&mut warp.asynchronous.blocked) {
                    group.wait = Wait::Event(block.asynchronous.events);
                } else {
                    group.pc += 1;
                }
                Ok(())
            }
            Control::Branch => {
                count(lanes, block);
                let rest = mask & !lanes;
                let group = &mut warp.groups[place];
                if rest == 0 {
                    group.pc = ins.target;
                } else if lanes == 0 {
                    group.pc += 1;
                } else {
                    *group = Group { pc: pc + 1, mask: rest, wait: Wait::No };
                    warp.groups.push(Group { pc: ins.target, mask: lanes, wait: Wait::No });
                    block.counters.divergent_branches += 1;
                }
                Ok(())
            }
            Control::Indexed => {
                count(lanes, block);
                let index = *warp.get32(ins.slots[0]);
                let mut rest = lanes;
                let mut parts = Vec::new();
                while rest != 0 {
                    let chosen = index[rest.trailing_zeros() as usize];
                    let same = race::lanes(rest).filter(|l| index[*l] == chosen).fold(0, |m, l| m | 1 << l);
                    rest &= !same;
                    let Some(target) = ins.more.get(chosen as usize) else {
                        let message = format!("brx.idx to target {chosen} of {}", ins.more.len());
                        return Err(block.fault(warp, same.trailing_zeros(), FaultKind::Operand, message));
                    };
                    parts.push(Group { pc: *target, mask: same, wait: Wait::No });
                }
                if mask & !lanes != 0 {
                    parts.push(Group { pc: pc + 1, mask: mask & !lanes, wait: Wait::No });
                }
                block.counters.divergent_branches += u64::from(parts.len() > 1);
                warp.groups.swap_remove(place);
                warp.groups.extend(parts);
                Ok(())
            }
            Control::Exit => {
                count(lanes, block);
                let rest = mask & !lanes;
                if rest == 0 {
                    warp.groups.swap_remove(place);
                } else {
                    warp.groups[place] = Group { pc: pc + 1, mask: rest, wait: Wait::No };
                }
                if lanes != 0 {
                    warp.live &= !lanes;
                    asynchronous::exit(warp, block, lanes)?;
                    for group in &mut warp.groups {
                        if matches!(group.wait, Wait::Lanes(_)) {
                            group.wait = Wait::No;
                        }
                    }
                    self.complete(block);
                }
                Ok(())
            }
            Control::Barrier => self.barrier(block, w, ins, place, lanes, &mut count),
        }
    }

    /// Parks a group whose instruction needs lanes that are not there. Says whether it did.
    fn gathered(&mut self, block: &Block<'_>, w: usize, ins: &Ins, place: usize, lanes: u32) -> Result<bool, Fault> {
        let warp = &mut self.warps[w];
        let group = warp.groups[place];
        if ins.gather != Gather::All || lanes == 0 {
            return Ok(false);
        }
        let missing = warp.live & !group.mask;
        if missing != 0 {
            warp.groups[place].wait = Wait::Lanes(warp.live);
            return Ok(true);
        }
        if lanes != group.mask && block.launch.options.checks.sync {
            let message = "an aligned instruction that the guard keeps some lanes of the warp from";
            return Err(block.fault(warp, (group.mask & !lanes).trailing_zeros(), FaultKind::Divergence, message));
        }
        Ok(false)
    }

    /// Executes a gathering instruction for all lanes that are complete, and parks the others.
    fn collective(
        &mut self,
        block: &mut Block<'_>,
        w: usize,
        ins: &Ins,
        place: usize,
        lanes: u32,
        count: &mut dyn FnMut(u32, &mut Block<'_>),
    ) -> Step {
        let warp = &mut self.warps[w];
        let Group { pc, mask, .. } = warp.groups[place];
        let Gather::Members(slot) = ins.gather else {
            count(lanes, block);
            if lanes != 0 {
                execute(warp, block, &block.launch.entry.code, ins, lanes)?;
            }
            warp.groups[place].pc = pc + 1;
            return Ok(());
        };
        let members = *warp.get32(slot);
        let (mut rest, mut parked) = (lanes, 0);
        let mut awaited = 0;
        while rest != 0 {
            let first = rest.trailing_zeros();
            let named = members[first as usize];
            let same = (0..LANES).fold(0, |m, l| m | u32::from(members[l] == named) << l) & rest;
            rest &= !same;
            let outside = same & !named;
            if outside != 0 {
                let message =
                    format!("the member mask {named:#010x} leaves out the lane that executes the instruction");
                if block.launch.options.checks.sync {
                    return Err(block.fault(warp, outside.trailing_zeros(), FaultKind::Divergence, message));
                }
            }
            if named & warp.live & !same != 0 {
                parked |= same;
                awaited |= named & warp.live;
                continue;
            }
            count(same, block);
            execute(warp, block, &block.launch.entry.code, ins, same)?;
            // Shuffles and votes promise nothing about memory.
            if ins.class == Class::Synchronisation {
                block.race.warp_sync(warp.index);
            }
        }
        let done = mask & !parked;
        let waiting = Group { pc, mask: parked, wait: Wait::Lanes(awaited) };
        if done == 0 {
            warp.groups[place] = waiting;
        } else {
            warp.groups[place] = Group { pc: pc + 1, mask: done, wait: Wait::No };
            if parked != 0 {
                warp.groups.push(waiting);
            }
        }
        Ok(())
    }

    fn barrier(
        &mut self,
        block: &mut Block<'_>,
        w: usize,
        ins: &Ins,
        place: usize,
        lanes: u32,
        count: &mut dyn FnMut(u32, &mut Block<'_>),
    ) -> Step {
        let warp = &mut self.warps[w];
        let Group { pc, mask, .. } = warp.groups[place];
        if lanes == 0 {
            count(lanes, block);
            warp.groups[place].pc = pc + 1;
            return Ok(());
        }
        if ins.immediate & control::BAR_ALIGNED != 0 {
            if warp.live & !mask != 0 {
                warp.groups[place].wait = Wait::Lanes(warp.live);
                return Ok(());
            }
            if lanes != mask && block.launch.options.checks.sync {
                let lane = (mask & !lanes).trailing_zeros();
                let message = "a barrier that the guard keeps some lanes of the warp from";
                return Err(block.fault(warp, lane, FaultKind::Divergence, message));
            }
        }
        count(lanes, block);
        let first = lanes.trailing_zeros() as usize;
        let (id, wanted) = (warp.get32(ins.slots[0])[first], warp.get32(ins.slots[1])[first]);
        if id > 15 || !wanted.is_multiple_of(32) {
            let message = format!("barrier {id} of {wanted} threads: numbers end at 15, counts are multiples of 32");
            return Err(block.fault(warp, first as u32, FaultKind::Operand, message));
        }
        let standing = self.standing.entry(id).or_insert_with(|| Standing { wanted, all: true, ..Standing::default() });
        if standing.wanted != wanted {
            let message = format!("barrier {id} for {wanted} threads while others wait at it for {}", standing.wanted);
            return Err(block.fault(warp, first as u32, FaultKind::Divergence, message));
        }
        if wanted != 0 {
            block.race.arrive(id.into(), warp.index);
        }
        standing.arrived += if lanes == warp.live { LANES as u32 } else { lanes.count_ones() };
        let kind = ins.immediate & !control::BAR_ALIGNED;
        if kind >= control::BAR_POPC {
            let held = predicate(warp, ins.slots[3]) & lanes;
            standing.popc += held.count_ones();
            standing.all &= held == lanes;
            standing.any |= held != 0;
        }
        let rest = mask & !lanes;
        if kind == control::BAR_ARRIVE {
            warp.groups[place].pc = pc + 1;
        } else {
            standing.waiting.push((w, lanes, pc));
            warp.groups[place] = Group { pc, mask: lanes, wait: Wait::Barrier(id) };
            if rest != 0 {
                warp.groups.push(Group { pc: pc + 1, mask: rest, wait: Wait::No });
            }
        }
        self.complete(block);
        Ok(())
    }

    /// Opens the barriers that have all they want.
    fn complete(&mut self, block: &mut Block<'_>) {
        if self.standing.is_empty() {
            return;
        }
        let everyone = LANES as u32 * self.warps.iter().filter(|w| w.live != 0).count() as u32;
        let code = &block.launch.entry.code;
        let warps = &mut self.warps;
        self.standing.retain(|id, standing| {
            let wanted = if standing.wanted == 0 { everyone } else { standing.wanted };
            if standing.arrived < wanted {
                return true;
            }
            block.counters.barriers += 1;
            weak::meet(block.launch, &[block.linear]);
            if standing.wanted == 0 {
                block.race.barrier_all();
            }
            for (w, lanes, pc) in &standing.waiting {
                let warp = &mut warps[*w];
                if standing.wanted != 0 {
                    block.race.wait((*id).into(), warp.index);
                }
                let ins = &code.ins[*pc as usize];
                let all_ones = |yes: bool| if yes { FULL } else { 0 };
                match ins.immediate & !control::BAR_ALIGNED {
                    control::BAR_POPC => warp.set32(ins.slots[2], [standing.popc; LANES], *lanes),
                    control::BAR_AND => warp.set_predicate(ins.slots[2], all_ones(standing.all), *lanes),
                    control::BAR_OR => warp.set_predicate(ins.slots[2], all_ones(standing.any), *lanes),
                    _ => {}
                }
                for group in &mut warp.groups {
                    if group.wait == Wait::Barrier(*id) && group.mask & lanes != 0 {
                        (group.wait, group.pc) = (Wait::No, pc + 1);
                    }
                }
            }
            if standing.wanted != 0 {
                block.race.forget((*id).into());
            }
            false
        });
    }

    /// Why nothing can run.
    #[cold]
    pub(crate) fn deadlock(&self, block: &Block<'_>) -> Fault {
        let groups = || self.warps.iter().flat_map(|w| w.groups.iter().map(move |g| (w, g)));
        let apart = groups().find_map(|(w, g)| match g.wait {
            Wait::Lanes(awaited) => Some((w, *g, awaited)),
            _ => None,
        });
        if let Some((warp, group, awaited)) = apart {
            let others = warp.groups.iter().filter(|o| o.mask != group.mask && o.mask & awaited != 0);
            let where_else: Vec<String> = others.map(|o| format!("{:#010x} at {}", o.mask, block.at(o.pc))).collect();
            let message = format!(
                "lanes {:#010x} wait here for lanes {awaited:#010x} of their warp; others stand elsewhere: {}",
                group.mask,
                if where_else.is_empty() { "none".into() } else { where_else.join(", ") }
            );
            let thread = block.thread(warp.index, group.mask.trailing_zeros());
            return block.place_at(Fault::new(FaultKind::Divergence, message), group.pc, Some(thread));
        }
        let mut places: BTreeMap<u32, u32> = BTreeMap::new();
        for (_, group) in groups() {
            *places.entry(group.pc).or_default() += group.mask.count_ones();
        }
        let list: Vec<String> = places.iter().map(|(pc, n)| format!("{n} at {}", block.at(*pc))).collect();
        let ended = block.threads - places.values().sum::<u32>();
        let message = format!("threads wait for ever: {}; {ended} have ended", list.join(", "));
        let first = groups().next();
        let pc = first.map_or(0, |(_, g)| g.pc);
        let thread = first.map(|(w, g)| block.thread(w.index, g.mask.trailing_zeros()));
        block.place_at(Fault::new(FaultKind::Deadlock, message), pc, thread)
    }
}

/// Executes the instruction at the block's place for those lanes.
#[inline(always)]
fn execute(warp: &mut Warp, block: &mut Block<'_>, code: &Code, ins: &Ins, lanes: u32) -> Step {
    if warp.undefined.any() {
        return undefined::step(warp, block, code, lanes);
    }
    // SAFETY: decoding chose the function by what this processor has.
    unsafe { (ins.run)(warp, block, ins, lanes) }
}

fn runnable(group: &Group, events: u64) -> bool {
    match group.wait {
        Wait::No => true,
        Wait::Event(seen) => seen != events,
        Wait::Lanes(_) | Wait::Barrier(_) => false,
    }
}

/// Groups that stand at one instruction become one, and look around again.
fn merge(groups: &mut Vec<Group>) {
    let mut n = 0;
    while groups.len() > 1 && n < groups.len() {
        let Group { pc, wait, .. } = groups[n];
        let meets = |wait: Wait| matches!(wait, Wait::No | Wait::Lanes(_));
        let mut other = n + 1;
        while meets(wait) && other < groups.len() {
            if groups[other].pc == pc && meets(groups[other].wait) {
                groups[n].mask |= groups[other].mask;
                groups[n].wait = Wait::No;
                groups.swap_remove(other);
            } else {
                other += 1;
            }
        }
        n += 1;
    }
}
