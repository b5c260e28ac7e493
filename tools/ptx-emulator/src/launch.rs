//! A launch: its operands checked, its blocks set up, run in a seeded order and counted.

mod shape;

use std::{
    cmp::Ordering as Order,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    sync::{Mutex, PoisonError},
};

use crate::{
    Counters, Fault, FaultKind, Gpu, Module, asynchronous, caches,
    machine::{Block, FULL, Group, LANES, Launch, Preset, Shared, Special, Step, Wait, Warp},
    race::BlockRaces,
    rng::Rng,
    scheduler::{Schedule, Tally, Turn},
    undefined::Undefined,
};

pub use shape::LaunchShape;
use shape::{MULTIPROCESSORS, SharedLayout, check, shared_bytes, workspace};

/// Slack behind shared memory, so that wide reads of its last bytes stay inside the buffer.
const SLACK_BYTES: usize = 16;

pub(crate) fn launch(
    gpu: &mut Gpu,
    module: &Module,
    entry: &str,
    shape: &LaunchShape,
    params: &[u8],
) -> Result<Counters, Fault> {
    let &LaunchShape { grid, block, dynamic_shared_bytes: dynamic_shared, cluster, cooperative } = shape;
    let refuse = |message: String| Fault::new(FaultKind::Launch, message).edit(|r| r.kernel = entry.to_owned());
    let Some(found) = module.entry(entry) else { return Err(refuse(format!("the module has no entry {entry}"))) };
    check(gpu, found, shape, params).map_err(refuse)?;
    let globals = gpu.load_globals(module).map_err(|e| refuse(e.to_string()))?;
    let workspace = if cooperative { workspace(gpu).map_err(|e| refuse(e.to_string()))? } else { 0 };
    gpu.launches += 1;
    let cluster = found.cluster.or(cluster).unwrap_or([1; 3]).map(|c| c.max(1));
    // What is printed stands in the order of blocks, too.
    let threads = match found.code.communicates || found.code.prints || cluster != [1; 3] {
        true => 1,
        false => gpu.options.threads.clamp(1, grid.iter().map(|n| *n as usize).product::<usize>().max(1)),
    };
    let attempt = |gpu: &Gpu, threads: usize| {
        gpu.race.begin_launch(found.code.strong_stores, threads);
        let launch = Launch {
            memory: &gpu.memory,
            entry: found,
            options: &gpu.options,
            number: gpu.launches,
            grid,
            block,
            params,
            globals: &globals,
            dynamic_shared,
            cluster,
            workspace,
            weak: gpu.options.weak_memory.then(Mutex::default),
            textures: &gpu.textures,
            printed: Mutex::default(),
            race: &gpu.race,
            notes: Mutex::default(),
            stop: AtomicUsize::new(usize::MAX),
            spent: AtomicU64::new(0),
            footprint: caches::Footprint::default(),
        };
        let result = run(&launch, threads);
        let Launch { printed, notes, .. } = launch;
        (
            result,
            printed.into_inner().unwrap_or_else(PoisonError::into_inner),
            notes.into_inner().unwrap_or_else(PoisonError::into_inner),
        )
    };
    let (result, printed, mut notes) = match threads {
        1 => attempt(&*gpu, 1),
        _ => {
            gpu.memory.begin_keeping();
            let found = attempt(&*gpu, threads);
            let failed = found.0.is_err();
            gpu.memory.end_keeping(failed);
            // Who races with whom depends on who is faster; on one thread, on the seed alone.
            if failed { attempt(&*gpu, 1) } else { found }
        }
    };
    gpu.printed.push_str(&printed);
    notes.sort_by_key(|note| note.ptx_line);
    notes.retain(|new| !gpu.notes.iter().any(|old| (&old.kernel, old.ptx_line) == (&new.kernel, new.ptx_line)));
    gpu.notes.extend(notes);
    if workspace != 0 {
        // Alive until here: nobody else knows of it.
        let _ = gpu.free(workspace);
    }
    result
}

/// Blocks of one cluster, or a single block, with all they need.
struct Unit<'a> {
    blocks: Vec<Block<'a>>,
    schedules: Vec<Schedule>,
    /// Place in the launch's order.
    place: usize,
    done: bool,
    /// No block has run in it yet.
    fresh: bool,
}

/// The order of units, and how a unit's number becomes block indices.
struct Plan {
    cluster: [u32; 3],
    clusters: [u32; 3],
    order: Vec<u32>,
    /// Units of the grid, of which `order` may be some.
    units: usize,
}

impl Plan {
    fn new(launch: &Launch<'_>) -> Self {
        let cluster = launch.cluster;
        let clusters: [u32; 3] = std::array::from_fn(|n| launch.grid[n] / cluster[n]);
        let count = clusters.iter().map(|c| u64::from(*c)).product::<u64>();
        let units = count.min(u32::MAX.into()) as u32;
        let most = launch.options.most_blocks.div_ceil(cluster.iter().product::<u32>().max(1));
        let run = if most == 0 { units } else { units.min(most) };
        let mut order: Vec<u32> = ((units - run) / 2..(units - run) / 2 + run).collect();
        Rng::from_parts(&[launch.options.seed, launch.number]).shuffle(&mut order);
        Self { cluster, clusters, order, units: units as usize }
    }

    fn size(&self) -> u32 {
        self.cluster.iter().product()
    }

    /// Index of a block by its unit and its rank there.
    fn block(&self, unit: u32, rank: u32) -> [u32; 3] {
        let [x, y, _] = self.clusters;
        let at = [unit % x, unit / x % y, unit / (x * y)];
        let [cx, cy, _] = self.cluster;
        let inner = [rank % cx, rank / cx % cy, rank / (cx * cy)];
        std::array::from_fn(|n| at[n] * self.cluster[n] + inner[n])
    }
}

fn run(launch: &Launch<'_>, threads: usize) -> Result<Counters, Fault> {
    let plan = Plan::new(launch);
    let code = &launch.entry.code;
    let next = AtomicUsize::new(0);
    // The fault that comes first in the order of blocks is the one to report, whoever finds it.
    let fault: Mutex<Option<(usize, Fault)>> = Mutex::new(None);
    let total = Mutex::new(Counters::default());
    let work = || {
        let mut tally = Tally::new(code.ins.len());
        let mut counters = Counters::default();
        if let Err((place, found)) = worker(launch, &plan, &next, &mut tally, &mut counters) {
            let mut first = fault.lock().unwrap_or_else(PoisonError::into_inner);
            if first.as_ref().is_none_or(|(earlier, _)| place < *earlier) {
                *first = Some((place, found));
            }
            launch.stop.fetch_min(place, Ordering::Relaxed);
        }
        tally.add_to(code, &mut counters);
        *total.lock().unwrap_or_else(PoisonError::into_inner) += &counters;
    };
    if threads == 1 {
        work();
    } else {
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    }
    match fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, fault)) => Err(fault),
        None => {
            let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
            Ok(if plan.order.len() == plan.units {
                total
            } else {
                total.scaled(plan.order.len() as u64, plan.units as u64)
            })
        }
    }
}

/// Takes units until there are none. Where blocks may wait for each other, a unit that does not end soon gets company: the
/// block it waits for may not have begun.
fn worker<'a>(
    launch: &'a Launch<'a>,
    plan: &Plan,
    next: &AtomicUsize,
    tally: &mut Tally,
    counters: &mut Counters,
) -> Result<(), (usize, Fault)> {
    let mut rng = Rng::from_parts(&[launch.options.seed, launch.number, 1]);
    let communicates = launch.entry.code.communicates;
    let mut running: Vec<Unit<'a>> = Vec::new();
    let mut spare: Vec<Unit<'a>> = Vec::new();
    loop {
        let begin = running.is_empty() || communicates && rng.below(4) == 0;
        if begin && launch.stop.load(Ordering::Relaxed) == usize::MAX {
            let place = next.fetch_add(1, Ordering::Relaxed);
            if let Some(number) = plan.order.get(place) {
                let mut unit = spare.pop().unwrap_or_else(|| Unit::new(launch, plan));
                unit.begin(launch, plan, *number, place);
                running.push(unit);
            }
        }
        if running.is_empty() {
            return Ok(());
        }
        let chosen = rng.below(running.len() as u64) as usize;
        let budget = if communicates { 32 << rng.below(9) } else { 1 << 20 };
        let unit = &mut running[chosen];
        unit.turn(launch, tally, budget).map_err(|fault| (unit.place, fault))?;
        if unit.done {
            let unit = running.swap_remove(chosen);
            unit.blocks.iter().for_each(|b| *counters += &b.counters);
            spare.push(unit);
        }
    }
}

impl<'a> Unit<'a> {
    fn new(launch: &'a Launch<'a>, plan: &Plan) -> Self {
        let threads = launch.block.iter().product::<u32>();
        let warps = threads.div_ceil(LANES as u32);
        let layout = SharedLayout::new(launch.entry, launch.dynamic_shared);
        let limit = layout.limit;
        let code = &launch.entry.code;
        let checks = launch.options.checks;
        let block = || Block {
            launch,
            index: [0; 3],
            linear: 0,
            warps,
            threads,
            shared: Shared {
                bytes: vec![0; limit as usize + SLACK_BYTES],
                written: if checks.init { vec![0; limit as usize + SLACK_BYTES] } else { Vec::new() },
                limit,
                guards: layout.guards(launch.entry, launch.dynamic_shared),
            },
            counters: Counters::default(),
            first_level: caches::FirstLevel::new(launch.options.l1_bytes),
            race: BlockRaces::new(launch, 0, limit, code.narrowest_shared, warps),
            asynchronous: asynchronous::BlockState::default(),
            rng: Rng::new(0),
            pc: 0,
            clock: 0,
        };
        let local = code.local_bytes as usize * LANES;
        let warp = |index: u32| Warp {
            index,
            r32: vec![[0; LANES]; code.slots32],
            r64: vec![[0; LANES]; code.slots64],
            predicates: vec![0; code.predicates],
            live: 0,
            groups: Vec::new(),
            local: vec![0; local + SLACK_BYTES],
            local_written: if checks.init { vec![0; local + SLACK_BYTES] } else { Vec::new() },
            undefined: Undefined::default(),
            asynchronous: asynchronous::WarpState::default(),
        };
        let size = plan.size();
        Self {
            blocks: (0..size).map(|_| block()).collect(),
            schedules: (0..size).map(|_| Schedule::new((0..warps).map(warp).collect())).collect(),
            place: 0,
            done: false,
            fresh: true,
        }
    }

    /// Sets everything up for the unit of that number.
    fn begin(&mut self, launch: &Launch<'_>, plan: &Plan, number: u32, place: usize) {
        let fresh = std::mem::take(&mut self.fresh);
        (self.place, self.done) = (place, false);
        let poison = if launch.options.poison { 0xff } else { 0 };
        let (gx, gy) = (u64::from(launch.grid[0]), u64::from(launch.grid[1]));
        for (rank, (block, schedule)) in self.blocks.iter_mut().zip(&mut self.schedules).enumerate() {
            block.index = plan.block(number, rank as u32);
            let [x, y, z] = block.index.map(u64::from);
            block.linear = x + gx * (y + gy * z);
            block.shared.bytes.fill(poison);
            block.shared.written.fill(0);
            block.counters = Counters {
                blocks: 1,
                warps: block.warps.into(),
                shared_bytes: shared_bytes(launch.entry, launch.dynamic_shared).into(),
                ..Counters::default()
            };
            block.first_level.iter_mut().for_each(caches::FirstLevel::clear);
            block.race.restart(block.linear);
            block.asynchronous = asynchronous::BlockState::default();
            block.rng = Rng::from_parts(&[launch.options.seed, launch.number, block.linear, 2]);
            (block.pc, block.clock) = (0, 0);
            schedule.restart();
            for warp in &mut schedule.warps {
                start(warp, block, plan, number, rank as u32, fresh);
            }
        }
        if self.blocks.len() > 1 {
            asynchronous::cluster::connect(&mut self.blocks);
        }
    }

    /// Runs each block of the unit for a while.
    fn turn(&mut self, launch: &Launch<'_>, tally: &mut Tally, budget: u64) -> Step {
        let (mut done, mut stuck, mut moved) = (0, 0, false);
        for n in 0..self.blocks.len() {
            let (block, schedule) = (&mut self.blocks[n], &mut self.schedules[n]);
            let before = block.clock;
            match schedule.turn(block, tally, budget)? {
                Turn::Done => done += 1,
                Turn::Stuck if block.clock == before => stuck += 1,
                Turn::Stuck | Turn::More => {}
            }
            let spent = block.clock - before;
            moved |= spent > 0;
            let all = launch.spent.fetch_add(spent, Ordering::Relaxed) + spent;
            if all > launch.options.max_warp_instructions {
                let message = format!("no end after {all} warp instructions");
                return Err(block.place_at(Fault::new(FaultKind::Endless, message), block.pc, None));
            }
            // Those before the one that found a fault go on: they may find one that comes before it.
            if launch.stop.load(Ordering::Relaxed) < self.place {
                self.done = true;
                return Ok(());
            }
        }
        // A block that moved may have done what one before it waits for.
        if stuck > 0 && !moved && done + stuck == self.blocks.len() {
            let first = (0..self.blocks.len()).find(|&n| self.schedules[n].warps.iter().any(|w| w.live != 0));
            let n = first.unwrap_or(0);
            return Err(self.schedules[n].deadlock(&self.blocks[n]));
        }
        self.done = done == self.blocks.len();
        Ok(())
    }
}

/// A warp before its first instruction.
fn start(warp: &mut Warp, block: &Block<'_>, plan: &Plan, unit: u32, rank: u32, fresh: bool) {
    let launch = block.launch;
    let first = warp.index * LANES as u32;
    let present = (block.threads - first).min(LANES as u32);
    warp.live = if present == LANES as u32 { FULL } else { (1 << present) - 1 };
    warp.groups.clear();
    warp.groups.push(Group { pc: 0, mask: warp.live, wait: Wait::No });
    warp.predicates.fill(0);
    warp.predicates[0] = FULL;
    warp.local.fill(if launch.options.poison { 0xff } else { 0 });
    warp.local_written.fill(0);
    warp.asynchronous = asynchronous::WarpState::default();
    warp.undefined.clear();
    for (_, slot, preset) in &launch.entry.code.presets {
        let slot = *slot as usize;
        match *preset {
            // What is the same in every block stays from the block before: nobody writes these registers.
            Preset::Bits32(bits) if fresh => warp.r32[slot] = [bits; LANES],
            Preset::Bits64(bits) if fresh => warp.r64[slot] = [bits; LANES],
            Preset::Global(number, offset) if fresh => {
                let start = launch.globals.get(number as usize).copied().unwrap_or(0);
                warp.r64[slot] = [start.wrapping_add_signed(offset); LANES];
            }
            Preset::Special(special @ (Special::Tid(_) | Special::LaneId | Special::LaneMask(..))) if fresh => {
                let value = |lane: usize| special_value(special, block, warp.index, lane as u32, plan, unit, rank);
                warp.r32[slot] = std::array::from_fn(value);
            }
            Preset::Special(Special::Tid(_) | Special::LaneId | Special::LaneMask(..)) => {}
            Preset::Special(special) => {
                warp.r32[slot] = [special_value(special, block, warp.index, 0, plan, unit, rank); LANES];
            }
            Preset::Bits32(_) | Preset::Bits64(_) | Preset::Global(..) => {}
        }
    }
}

fn special_value(s: Special, block: &Block<'_>, warp: u32, lane: u32, plan: &Plan, unit: u32, rank: u32) -> u32 {
    let launch = block.launch;
    let below = (1u32 << lane) - 1;
    let [x, y, _] = plan.clusters;
    let cluster = [unit % x, unit / x % y, unit / (x * y)];
    match s {
        Special::Tid(axis) => block.thread(warp, lane)[axis as usize],
        Special::Ntid(axis) => launch.block[axis as usize],
        Special::Ctaid(axis) => block.index[axis as usize],
        Special::Nctaid(axis) => launch.grid[axis as usize],
        Special::LaneId => lane,
        Special::WarpId => warp,
        Special::NumWarps => block.warps,
        Special::LaneMask(order, inclusive) => {
            let own = if inclusive { 1 << lane } else { 0 };
            match order {
                Order::Equal => 1 << lane,
                Order::Less => below | own,
                Order::Greater => !below & !(1 << lane) | own,
            }
        }
        Special::GridId => launch.number as u32,
        Special::SmId => (block.linear % u64::from(MULTIPROCESSORS)) as u32,
        Special::NumSm => MULTIPROCESSORS,
        Special::WarpSize => LANES as u32,
        Special::DynamicShared => SharedLayout::new(launch.entry, launch.dynamic_shared).dynamic,
        Special::TotalShared => shared_bytes(launch.entry, launch.dynamic_shared),
        Special::Reserved(offset) => SharedLayout::new(launch.entry, launch.dynamic_shared).reserved + offset,
        Special::StackStart => launch.entry.code.stack_start.unwrap_or(0),
        Special::Environment(1) => (launch.workspace >> 32) as u32,
        Special::Environment(2) => launch.workspace as u32,
        Special::Environment(_) => 0,
        Special::ClusterCtaId(axis) => block.index[axis as usize] % plan.cluster[axis as usize],
        Special::ClusterCtas(axis) => plan.cluster[axis as usize],
        Special::ClusterId(axis) => cluster[axis as usize],
        Special::Clusters(axis) => plan.clusters[axis as usize],
        Special::ClusterRank => rank,
        Special::ClusterSize => plan.size(),
    }
}
