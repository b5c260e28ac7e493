//! A launch: its operands checked, its blocks set up, run in a seeded order and counted.

use std::{
    cmp::Ordering as Order,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    sync::{Mutex, PoisonError},
};

use crate::{
    Counters, Fault, FaultKind, Gpu, MemoryError, Module, asynchronous,
    decode::{RESERVED_SHARED_BYTES, SHARED_GUARD_BYTES},
    machine::{Block, FULL, Group, LANES, Launch, Preset, Shared, Special, Step, Wait, Warp},
    module::Entry,
    race::BlockRaces,
    rng::Rng,
    scheduler::{Schedule, Tally, Turn},
    undefined::Undefined,
};

/// Slack behind shared memory, so that wide reads of its last bytes stay inside the buffer.
const SLACK_BYTES: usize = 16;
/// Dynamic shared memory starts at a multiple of this, as on the device without static shared memory before it.
const DYNAMIC_ALIGN: u32 = 1024;

/// Everything a launch says beside the kernel and its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// Blocks, or with clusters still blocks, per axis.
    pub grid: [u32; 3],
    /// Threads of a block per axis.
    pub block: [u32; 3],
    /// Shared memory beside what the code declares.
    pub dynamic_shared_bytes: u32,
    /// Blocks of a cluster per axis, where the code does not fix them.
    pub cluster: Option<[u32; 3]>,
    /// All blocks must be able to wait for each other: refused where a device could not hold them at once.
    pub cooperative: bool,
}

impl LaunchShape {
    /// Blocks and threads, nothing else.
    pub fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        Self { grid, block, dynamic_shared_bytes: 0, cluster: None, cooperative: false }
    }
}

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
    gpu.race.begin_launch(found.code.strong_stores);
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
        cluster: found.cluster.or(cluster).unwrap_or([1; 3]).map(|c| c.max(1)),
        workspace,
        weak: gpu.options.weak_memory.then(Mutex::default),
        printed: Mutex::default(),
        race: &gpu.race,
        notes: Mutex::default(),
        stop: AtomicBool::new(false),
        spent: AtomicU64::new(0),
    };
    let result = run(&launch);
    gpu.printed.push_str(&launch.printed.into_inner().unwrap_or_else(PoisonError::into_inner));
    let mut notes = launch.notes.into_inner().unwrap_or_else(PoisonError::into_inner);
    notes.sort_by_key(|note| note.ptx_line);
    notes.retain(|new| !gpu.notes.iter().any(|old| (&old.kernel, old.ptx_line) == (&new.kernel, new.ptx_line)));
    gpu.notes.extend(notes);
    if workspace != 0 {
        // Alive until here: nobody else knows of it.
        let _ = gpu.free(workspace);
    }
    result
}

/// What `grid.sync()` of cooperative groups finds in the registers of the environment: its own size, and a barrier.
fn workspace(gpu: &mut Gpu) -> Result<u64, MemoryError> {
    let address = gpu.alloc_named(8, "workspace of the cooperative grid")?;
    gpu.write(address, &[8, 0, 0, 0, 0, 0, 0, 0])?;
    Ok(address)
}

fn check(gpu: &Gpu, entry: &Entry, shape: &LaunchShape, params: &[u8]) -> Result<(), String> {
    let &LaunchShape { grid, block, dynamic_shared_bytes: dynamic_shared, .. } = shape;
    let threads = block.iter().try_fold(1u32, |n, b| n.checked_mul(*b)).unwrap_or(u32::MAX);
    if threads == 0 || threads > 1024 || block[2] > 64 {
        return Err(format!("a block of {}x{}x{} threads; 1 to 1024 are possible", block[0], block[1], block[2]));
    }
    if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
        return Err(format!("a grid of {}x{}x{} blocks", grid[0], grid[1], grid[2]));
    }
    if let Some(most) = entry.max_threads
        && u128::from(threads) > most.iter().map(|n| u128::from(*n)).product()
    {
        return Err(format!("{threads} threads in a block; .maxntid allows {most:?}"));
    }
    if let Some(required) = entry.required_threads
        && block != required
    {
        return Err(format!("a block of {block:?} threads; .reqntid asks for {required:?}"));
    }
    if let (Some(fixed), Some(asked)) = (entry.cluster, shape.cluster)
        && fixed != asked
    {
        return Err(format!("clusters of {asked:?} blocks; .reqnctapercluster asks for {fixed:?}"));
    }
    let cluster = entry.cluster.or(shape.cluster);
    if let Some(cluster) = cluster
        && cluster.iter().map(|n| u128::from(*n)).product::<u128>() > 16
    {
        return Err(format!("clusters of {cluster:?} blocks; 16 are the most"));
    }
    if let Some(cluster) = cluster
        && let Some(axis) = (0..3).find(|&n| !grid[n].is_multiple_of(cluster[n].max(1)))
    {
        return Err(format!("a grid of {grid:?} blocks is no multiple of clusters of {cluster:?} on axis {axis}"));
    }
    if params.len() != entry.param_bytes as usize {
        return Err(format!("{} bytes of parameters; the entry takes {}", params.len(), entry.param_bytes));
    }
    let shared = shared_bytes(entry, dynamic_shared);
    if shared > gpu.options.max_shared_bytes {
        return Err(format!("{shared} bytes of shared memory; the device has {}", gpu.options.max_shared_bytes));
    }
    if shape.cooperative {
        let per_multiprocessor = (2048 / threads.next_multiple_of(32)).min(32).min(228 * 1024 / (shared + 1024));
        let most = u64::from(per_multiprocessor) * u64::from(MULTIPROCESSORS);
        let blocks: u64 = grid.iter().map(|n| u64::from(*n)).product();
        if blocks > most {
            return Err(format!("a cooperative grid of {blocks} blocks; {most} of them fit on the device at once"));
        }
    }
    Ok(())
}

/// What `%nsmid` says.
const MULTIPROCESSORS: u32 = 132;

/// Where dynamic shared memory starts, on a device.
fn dynamic_start(entry: &Entry, dynamic_shared: u32) -> u32 {
    let align = if dynamic_shared >= DYNAMIC_ALIGN { DYNAMIC_ALIGN } else { 16 };
    if entry.dynamic_shared { entry.shared_bytes.next_multiple_of(align) } else { entry.shared_bytes }
}

/// Shared memory of a block on a device.
fn shared_bytes(entry: &Entry, dynamic_shared: u32) -> u32 {
    dynamic_start(entry, dynamic_shared).saturating_add(dynamic_shared)
}

/// Shared memory as it lies here, with guards between variables.
#[derive(Clone, Copy)]
struct SharedLayout {
    dynamic: u32,
    reserved: u32,
    limit: u32,
}

impl SharedLayout {
    fn new(entry: &Entry, dynamic_shared: u32) -> Self {
        let code = &entry.code;
        let mut guards = if code.shared.is_empty() { 0 } else { code.guard_bytes };
        // Behind the last variable a guard needs something to keep it from.
        if dynamic_shared == 0 && !code.reserved_shared {
            guards = guards.saturating_sub(SHARED_GUARD_BYTES);
        }
        let dynamic = dynamic_start(entry, dynamic_shared).saturating_add(guards);
        let end = dynamic.saturating_add(dynamic_shared);
        if !code.reserved_shared {
            return Self { dynamic, reserved: end, limit: end };
        }
        let reserved = end.saturating_add(SHARED_GUARD_BYTES).next_multiple_of(SHARED_GUARD_BYTES);
        Self { dynamic, reserved, limit: reserved + RESERVED_SHARED_BYTES }
    }

    /// Ranges that belong to nothing.
    fn guards(self, entry: &Entry, dynamic_shared: u32) -> Vec<(u32, u32)> {
        let mut taken: Vec<(u32, u32)> = entry.code.shared.iter().map(|(_, at, bytes)| (*at, at + bytes)).collect();
        taken.push((self.dynamic, self.dynamic + dynamic_shared));
        taken.push((self.reserved, self.limit));
        taken.retain(|(start, end)| start < end);
        taken.sort_unstable();
        let gaps = taken.windows(2).map(|pair| (pair[0].1, pair[1].0));
        gaps.filter(|(start, end)| end.saturating_sub(*start) >= SHARED_GUARD_BYTES).collect()
    }
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
}

impl Plan {
    fn new(launch: &Launch<'_>) -> Self {
        let cluster = launch.cluster;
        let clusters: [u32; 3] = std::array::from_fn(|n| launch.grid[n] / cluster[n]);
        let count = clusters.iter().map(|c| u64::from(*c)).product::<u64>();
        let mut order: Vec<u32> = (0..count.min(u32::MAX.into()) as u32).collect();
        Rng::from_parts(&[launch.options.seed, launch.number]).shuffle(&mut order);
        Self { cluster, clusters, order }
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

fn run(launch: &Launch<'_>) -> Result<Counters, Fault> {
    let plan = Plan::new(launch);
    let code = &launch.entry.code;
    let threads = match code.communicates || plan.size() > 1 {
        true => 1,
        false => launch.options.threads.clamp(1, plan.order.len().max(1)),
    };
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
            launch.stop.store(true, Ordering::Relaxed);
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
        None => Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner)),
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
        if begin && !launch.stop.load(Ordering::Relaxed) {
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
            block.counters = Counters::default();
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
            if launch.stop.load(Ordering::Relaxed) {
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
