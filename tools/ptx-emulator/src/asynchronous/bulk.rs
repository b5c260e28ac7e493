//! `cp.async.bulk` and `cp.async.bulk.tensor`: copies of whole blocks of bytes and of boxes of tensors.
//!
//! Copies into shared memory report to an mbarrier and complete when somebody could wait no longer; copies out of it read
//! their source at the wait for their group. The hardware is free to do both earlier; a correct kernel cannot tell.

use super::{
    barrier_instructions::{find, key, put},
    cluster,
    ends::{self, Use},
    tensor_map::TensorMap,
};
use crate::{
    ast::{Base, Instruction, Operand},
    caches,
    decode::{Decoded, Decoder, Reg, Start, Symbol},
    machine::{Block, Class, Ins, Step, Warp},
    memory::{PARAM_WINDOW, WINDOW_SHIFT},
    race::{self, ENGINE_COUNT, ENGINES, ReadFault},
    report::{Fault, FaultKind},
};

/// What moves.
#[derive(Clone)]
pub(super) enum Body {
    /// So many bytes from a global address.
    Bytes(u64, u32),
    /// The box at these coordinates.
    Tensor(std::sync::Arc<TensorMap>, [i32; 5]),
    /// So many bytes of the shared memory of the block of that rank plus one.
    Shared { rank: u32, from: u32, bytes: u32 },
    /// These.
    Values(Box<[u8]>),
}

impl Body {
    fn bytes(&self) -> u32 {
        match self {
            Self::Bytes(_, bytes) => *bytes,
            Self::Tensor(map, _) => map.box_bytes(),
            Self::Shared { bytes, .. } => *bytes,
            Self::Values(values) => values.len() as u32,
        }
    }

    /// Calls `visit(global address or None for zeros, offset in shared memory, bytes)`.
    fn pieces(&self, start: u32, mut visit: impl FnMut(Option<u64>, u32, u32)) {
        match self {
            Self::Bytes(address, bytes) => visit(Some(*address), 0, *bytes),
            Self::Tensor(map, coordinates) => map.pieces(&coordinates[..map.rank()], start, visit),
            // These come from no global address.
            Self::Shared { .. } | Self::Values(_) => {}
        }
    }
}

/// A copy into shared memory that is not complete.
pub(super) struct Arrival {
    body: Body,
    shared: u32,
    barrier: u32,
    warp: u32,
    lane: usize,
    /// The instruction that started it, for reports.
    pc: u32,
}

impl Arrival {
    pub(super) fn new(body: Body, shared: u32, barrier: u32, warp: u32, lane: usize, pc: u32) -> Self {
        Self { body, shared, barrier, warp, lane, pc }
    }

    /// What it writes: offset and bytes.
    pub(super) fn range(&self) -> (u32, u32) {
        (self.shared, self.body.bytes())
    }

    pub(super) fn barrier(&self) -> u32 {
        self.barrier
    }

    /// Index of the warp that started it.
    pub(super) fn warp(&self) -> usize {
        self.warp as usize
    }
}

/// A copy out of shared memory whose source is still needed.
struct Departure {
    body: Body,
    shared: u32,
    lane: usize,
    group: u32,
    pc: u32,
    /// Not a copy but a reduction: which, of what type, and the type's width.
    reduction: Option<(u32, u32, u32)>,
}

/// Copies out of shared memory of one warp.
#[derive(Default)]
pub(super) struct Departures {
    open: Vec<Departure>,
    committed: [u32; 32],
}

impl Departures {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

const TENSOR: i64 = 1;
const MULTICAST: i64 = 2;
/// The tensor map is a parameter of the kernel.
const PARAMETER: i64 = 4;
/// What leaves is added to what is there, or joined with it otherwise.
const REDUCE: i64 = 8;

/// `cp.async.bulk.*`.
pub(super) fn decode<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Option<Ins>> {
    let reduces = matches!(i.parts[..], ["cp", "reduce", "async", "bulk", ..]);
    let (["cp", "async", "bulk", rest @ ..] | ["cp", "reduce", "async", "bulk", rest @ ..]) = &i.parts[..] else {
        return Ok(None);
    };
    if reduces && (i.has("tensor") || !i.has("bulk_group")) {
        return Err(d.unsupported(i));
    }
    let ins = match rest {
        ["commit_group"] => d.blank(commit, Class::Synchronisation),
        ["wait_group", ..] => {
            let mut ins = d.blank(wait, Class::Synchronisation);
            ins.immediate = d.integer(i, 0)?;
            ins
        }
        ["prefetch", ..] => d.blank(crate::ops::control::nothing, Class::Memory),
        _ if i.has("bulk_group") && i.has("shared::cta") && i.has("global") => leave(d, i)?,
        _ if i.has("mbarrier::complete_tx::bytes") && i.has("global") => enter(d, i)?,
        _ => return Err(d.unsupported(i)),
    };
    Ok(Some(ins))
}

/// Slots of an address: base and whether it is wide.
fn base<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>, index: usize) -> Decoded<([u32; 2], u32)> {
    let place = d.place(i, index)?;
    let base = match place.start {
        Start::R32(slot) => [slot, 0],
        Start::R64(slot) => [slot, 1],
        Start::None => [d.constant32(0), 0],
    };
    Ok((base, place.offset as u32))
}

/// The tensor map and the coordinates of `[map, {c0, c1}]`: slot of the map's address, its flag, coordinates.
fn tensor<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>, index: usize) -> Decoded<(u32, i64, Vec<u32>)> {
    let unsupported = i.parts.iter().any(|p| p.starts_with("im2col") || p.starts_with("tile::"));
    let Operand::Address { base, offset, more } = d.operand(i, index)?.clone() else { return Err(d.unsupported(i)) };
    let (Base::Name(name), [Operand::Vector(coordinates)], false) = (base, &more[..], unsupported) else {
        return Err(d.unsupported(i));
    };
    let dimensions = ["1d", "2d", "3d", "4d", "5d"].iter().position(|p| i.has(p));
    if dimensions.map(|n| n + 1) != Some(coordinates.len()) {
        return Err(d.refuse(i, "as many coordinates as dimensions are needed"));
    }
    let (slot, flag) = match d.find(name) {
        Some(Symbol::Register(Reg::R64(slot))) if offset == 0 => (slot, 0),
        Some(Symbol::Param(at)) => {
            d.param_address_taken = true;
            (d.constant64((i64::from(at) + offset) as u64), PARAMETER)
        }
        _ => return Err(d.unsupported(i)),
    };
    let mut slots = Vec::new();
    for coordinate in coordinates {
        slots.push(d.source32(i, coordinate, 32)?);
    }
    Ok((slot, flag, slots))
}

/// slots: shared base, wide, barrier base, wide, global base or map, size or rank, multicast mask, coordinates; more: offsets
/// of shared address, barrier and global address
fn enter<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    let (to, to_offset) = base(d, i, 0)?;
    let mut slots = [0; 12];
    let mut flags = 0;
    let mut global_offset = 0;
    let next = if i.has("tensor") {
        let (map, flag, coordinates) = tensor(d, i, 1)?;
        (slots[4], slots[5], flags) = (map, coordinates.len() as u32, flag | TENSOR);
        slots[7..7 + coordinates.len()].copy_from_slice(&coordinates);
        2
    } else {
        let place = d.place(i, 1)?;
        let Start::R64(slot) = place.start else { return Err(d.unsupported(i)) };
        global_offset = place.offset as u32;
        (slots[4], slots[5]) = (slot, d.from32(i, 2, 32)?);
        3
    };
    let (barrier, barrier_offset) = base(d, i, next)?;
    if i.has("multicast::cluster") {
        slots[6] = d.from32(i, next + 1, 16)?;
        flags |= MULTICAST;
    }
    slots[..4].copy_from_slice(&[to[0], to[1], barrier[0], barrier[1]]);
    let mut ins = d.with(start_arrival, Class::Memory, &slots);
    ins.immediate = flags;
    ins.more = [to_offset, barrier_offset, global_offset].into();
    Ok(ins)
}

/// The same slots, without a barrier.
fn leave<'t>(d: &mut Decoder<'_, 't>, i: &Instruction<'t>) -> Decoded<Ins> {
    let mut slots = [0; 12];
    let (mut flags, mut global_offset) = (0, 0);
    if i.has("tensor") {
        let (map, flag, coordinates) = tensor(d, i, 0)?;
        (slots[4], slots[5], flags) = (map, coordinates.len() as u32, flag | TENSOR);
        slots[7..7 + coordinates.len()].copy_from_slice(&coordinates);
    } else {
        let place = d.place(i, 0)?;
        let Start::R64(slot) = place.start else { return Err(d.unsupported(i)) };
        global_offset = place.offset as u32;
        (slots[4], slots[5]) = (slot, d.from32(i, 2, 32)?);
    }
    let (from, from_offset) = base(d, i, 1)?;
    slots[..2].copy_from_slice(&from);
    if i.parts[1] == "reduce" {
        let kind = crate::ops::kind(i);
        let bytes = crate::parse::type_bytes(kind).ok_or_else(|| d.unsupported(i))?;
        let (deed, kind) = crate::ops::atomic::bulk_numbers(i, kind).ok_or_else(|| d.unsupported(i))?;
        (slots[9], slots[10], slots[11]) = (deed, kind, bytes);
        flags |= REDUCE;
        d.code.communicates = true;
    }
    let mut ins = d.with(start_departure, Class::Memory, &slots);
    ins.immediate = flags;
    ins.more = [from_offset, 0, global_offset].into();
    Ok(ins)
}

fn address(warp: &Warp, base: u32, wide: u32, offset: u32, lane: usize) -> u32 {
    match wide {
        0 => warp.get32(base)[lane].wrapping_add(offset),
        _ => (warp.get64(base)[lane] as u32).wrapping_add(offset),
    }
}

/// What a copy moves, from its operands.
fn body(warp: &Warp, block: &Block<'_>, ins: &Ins, lane: usize) -> Result<Body, Fault> {
    let global = warp.get64(ins.slots[4])[lane];
    if ins.immediate & TENSOR == 0 {
        let from = global.wrapping_add_signed((ins.more[2] as i32).into());
        let bytes = warp.get32(ins.slots[5])[lane];
        if bytes == 0 || !bytes.is_multiple_of(16) || !from.is_multiple_of(16) {
            let message = format!("a bulk copy of {bytes} bytes at {from:#x}: both must be multiples of 16");
            return Err(block.fault(warp, lane as u32, FaultKind::Misaligned, message));
        }
        return Ok(Body::Bytes(from, bytes));
    }
    let mut encoded = [0; 128];
    let parameter = match global >> WINDOW_SHIFT {
        _ if ins.immediate & PARAMETER != 0 => Some(global as usize),
        window if window == PARAM_WINDOW >> WINDOW_SHIFT => Some((global - PARAM_WINDOW) as usize),
        _ => None,
    };
    match parameter {
        Some(at) => match block.launch.params.get(at..at + 128) {
            Some(bytes) => encoded.copy_from_slice(bytes),
            None => {
                let message = "a tensor map outside the kernel's parameters";
                return Err(block.fault(warp, lane as u32, FaultKind::OutOfBounds, message));
            }
        },
        None => ends::global(block, warp, lane, global, 128, Use::Read)?.read(&mut encoded),
    }
    let Some(map) = TensorMap::decode(&encoded) else {
        let message = "these 128 bytes are no tensor map made by encode_tensor_map";
        return Err(block.fault(warp, lane as u32, FaultKind::Operand, message));
    };
    if map.rank() != ins.slots[5] as usize {
        let message = format!("a tensor map of {} dimensions in a copy of {}", map.rank(), ins.slots[5]);
        return Err(block.fault(warp, lane as u32, FaultKind::Operand, message));
    }
    let coordinates = std::array::from_fn(|n| warp.get32(ins.slots[7 + n])[lane] as i32);
    Ok(Body::Tensor(std::sync::Arc::new(map), coordinates))
}

unsafe fn start_arrival(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let align = if ins.immediate & TENSOR != 0 { 128 } else { 16 };
    for lane in race::lanes(mask) {
        let body = body(warp, block, ins, lane)?;
        let shared = address(warp, ins.slots[0], ins.slots[1], ins.more[0], lane);
        let barrier = address(warp, ins.slots[2], ins.slots[3], ins.more[1], lane);
        let (shared, barrier) = (shared & 0xff_ffff, barrier & 0xff_ffff);
        ends::shared(block, warp, lane, shared, body.bytes(), align)?;
        block.counters.async_copies += 1;
        if ins.immediate & MULTICAST != 0 {
            let to = warp.get32(ins.slots[6])[lane] & 0xffff;
            let arrival = |warp: &Warp, pc| Arrival { body: body.clone(), shared, barrier, warp: warp.index, lane, pc };
            let range = (shared, body.bytes());
            cluster::multicast(warp, block, lane, to, range, &mut |warp, block| {
                begin(warp, block, lane, arrival(warp, block.pc))
            })?;
        } else {
            let arrival = Arrival { body, shared, barrier, warp: warp.index, lane, pc: block.pc };
            begin(warp, block, lane, arrival)?;
        }
    }
    Ok(())
}

/// Queues a copy in the block whose shared memory it writes.
pub(super) fn begin(warp: &Warp, block: &mut Block<'_>, lane: usize, arrival: Arrival) -> Step {
    find(block, warp, lane, arrival.barrier)?;
    if block.race.on {
        let races = &mut block.race;
        let index = warp.index as usize;
        if races.shadow.unfenced(&races.clocks, index, arrival.barrier, 8).is_some() {
            let message = "mbarrier.init is not made visible to the asynchronous proxy by a fence before this copy";
            return Err(block.fault(warp, lane as u32, FaultKind::AsyncHazard, message));
        }
        let begun = races.shadow.begin_write(&mut races.clocks, index, lane, arrival.shared, arrival.body.bytes());
        begun.map_err(|c| race::shared_fault(block, warp.index, c, "asynchronous write"))?;
    }
    block.counters.shared_store_bytes += u64::from(arrival.body.bytes());
    block.asynchronous.arrivals.push(arrival);
    Ok(())
}

/// Completes one copy: the bytes are there, and the barrier knows.
pub(super) fn complete(warp: &Warp, block: &mut Block<'_>, arrival: &Arrival) -> Step {
    let here = std::mem::replace(&mut block.pc, arrival.pc);
    let (lane, shared) = (arrival.lane, arrival.shared);
    let mut loads = Vec::new();
    let mut result = Ok(());
    arrival.body.pieces(shared, |from, at, bytes| {
        let range = (shared + at) as usize..(shared + at + bytes) as usize;
        match from {
            None => block.shared.bytes[range.clone()].fill(0),
            Some(from) if result.is_ok() => match ends::global(block, warp, lane, from, bytes as usize, Use::Read) {
                Ok(source) => {
                    source.read(&mut block.shared.bytes[range.clone()]);
                    loads.push((from, bytes));
                }
                Err(fault) => result = Err(fault),
            },
            Some(_) => {}
        }
        if !block.shared.written.is_empty() {
            block.shared.written[range].fill(1);
        }
    });
    result?;
    deliver(warp, block, arrival)?;
    note_global(warp, block, &loads, Done::Loaded)?;
    ends::count_load(block, loads.into_iter());
    let mut barrier = find(block, warp, lane, arrival.barrier)?;
    if block.race.on {
        let engine = ENGINES + arrival.barrier as usize / 8 % ENGINE_COUNT;
        let races = &mut block.race;
        let clock = races.clocks.engine_now();
        races.shadow.written_by_engine(engine, clock, shared, arrival.body.bytes());
        races.clocks.arrive_engine(key(arrival.barrier, barrier.phase), engine, clock);
    }
    let turned = barrier.complete_bytes(arrival.body.bytes());
    let turned = turned.map_err(|_| super::barrier_instructions::overrun(warp, block, lane, arrival.barrier))?;
    put(block, arrival.barrier, barrier, turned);
    block.asynchronous.events += 1;
    block.pc = here;
    Ok(())
}

/// The bytes of a copy that come from no global memory.
fn deliver(warp: &Warp, block: &mut Block<'_>, arrival: &Arrival) -> Step {
    let to = arrival.shared as usize..(arrival.shared + arrival.body.bytes()) as usize;
    match &arrival.body {
        Body::Bytes(..) | Body::Tensor(..) => return Ok(()),
        Body::Values(values) => block.shared.bytes[to.clone()].copy_from_slice(values),
        Body::Shared { rank, from, bytes } => {
            let range = *from as usize..(from + bytes) as usize;
            match cluster::peer(warp, block, arrival.lane, *rank)? {
                None => {
                    block.shared.bytes.copy_within(range, to.start);
                    if block.race.on {
                        block.race.shadow.reads_done(&block.race.clocks, arrival.warp(), &[(*from, *bytes)]);
                    }
                }
                Some(source) => {
                    block.shared.bytes[to.clone()].copy_from_slice(&source.shared.bytes[range]);
                    if source.race.on {
                        source.race.shadow.reads_done(&source.race.clocks, arrival.warp(), &[(*from, *bytes)]);
                    }
                }
            }
        }
    }
    if !block.shared.written.is_empty() {
        block.shared.written[to].fill(1);
    }
    Ok(())
}

/// The source of a copy out of the block's shared memory, from its start until it is complete.
pub(super) fn lend(warp: &Warp, block: &mut Block<'_>, lane: usize, shared: u32, bytes: u32, align: u32) -> Step {
    let range = ends::shared(block, warp, lane, shared, bytes, align)?;
    begin_reads(warp, block, lane, &[(shared, bytes)])?;
    if !block.shared.written.is_empty() && block.shared.written[range].contains(&0) {
        let message = "an asynchronous copy reads shared memory that nobody has written whole";
        return Err(block.fault(warp, lane as u32, FaultKind::Uninitialised, message));
    }
    Ok(())
}

/// Marks ranges of the block's shared memory as being read by the asynchronous proxy, on behalf of that lane. What threads wrote
/// there must have passed a proxy fence.
pub(super) fn begin_reads(warp: &Warp, block: &mut Block<'_>, lane: usize, ranges: &[(u32, u32)]) -> Step {
    let races = &mut block.race;
    if !races.on {
        return Ok(());
    }
    match races.shadow.begin_reads(&mut races.clocks, warp.index as usize, lane, ranges) {
        Ok(()) => Ok(()),
        Err(ReadFault::Conflict(c)) => Err(race::shared_fault(block, warp.index, c, "asynchronous read")),
        Err(ReadFault::Unfenced(at)) => {
            let message = "shared memory written by stores or cp.async of threads is read by the asynchronous proxy without \
                a fence.proxy.async between";
            let fault = block.fault(warp, lane as u32, FaultKind::AsyncHazard, message);
            Err(fault.edit(|r| (r.address, r.allocation) = (Some(at.into()), block.shared_name(at))))
        }
    }
}

/// What a copy did to global memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    Loaded,
    Stored,
    Reduced,
}

/// Tells the race detector of global accesses by a copy, on behalf of the warp that started it.
fn note_global(warp: &Warp, block: &mut Block<'_>, pieces: &[(u64, u32)], done: Done) -> Step {
    if !block.race.on {
        return Ok(());
    }
    for (address, bytes) in pieces {
        // Sixteen bytes to a lane, as many lanes as it takes.
        let mut at = 0;
        while at < *bytes {
            let width = (*bytes - at).min(16);
            let width = 1 << width.ilog2();
            let lanes = ((*bytes - at) / width).min(32);
            let addresses = std::array::from_fn(|n| address + u64::from(at) + u64::from(width) * (n as u64));
            let mask = if lanes == 32 { !0 } else { (1 << lanes) - 1 };
            if done == Done::Loaded {
                race::global_load(block, warp.index, mask, &addresses, width, race::Strength::Plain, None)?;
            } else {
                let atomic = done == Done::Reduced;
                let strength = if atomic { race::Strength::Strong } else { race::Strength::Plain };
                race::global_store(block, warp.index, mask, &addresses, width, strength, atomic, false, None, None)?;
            }
            at += lanes * width;
        }
    }
    Ok(())
}

unsafe fn start_departure(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let align = if ins.immediate & TENSOR != 0 { 128 } else { 16 };
    for lane in race::lanes(mask) {
        let body = body(warp, block, ins, lane)?;
        let shared = address(warp, ins.slots[0], ins.slots[1], ins.more[0], lane) & 0xff_ffff;
        block.counters.async_copies += 1;
        lend(warp, block, lane, shared, body.bytes(), align)?;
        let departures = &mut warp.asynchronous.departures;
        let group = departures.committed[lane];
        let reduction = Some((ins.slots[9], ins.slots[10], ins.slots[11])).filter(|_| ins.immediate & REDUCE != 0);
        departures.open.push(Departure { body, shared, lane, group, pc: block.pc, reduction });
    }
    Ok(())
}

unsafe fn commit(warp: &mut Warp, _: &mut Block<'_>, _: &Ins, mask: u32) -> Step {
    race::lanes(mask).for_each(|lane| warp.asynchronous.departures.committed[lane] += 1);
    Ok(())
}

/// `immediate`: how many groups may stay under way.
unsafe fn wait(warp: &mut Warp, block: &mut Block<'_>, ins: &Ins, mask: u32) -> Step {
    let mut open = std::mem::take(&mut warp.asynchronous.departures.open);
    let committed = warp.asynchronous.departures.committed;
    let done =
        |d: &Departure| mask >> d.lane & 1 != 0 && i64::from(d.group) + ins.immediate < i64::from(committed[d.lane]);
    let mut result = Ok(());
    open.retain(|departure| {
        let over = done(departure);
        if over && result.is_ok() {
            result = depart(warp, block, departure);
        }
        !over
    });
    warp.asynchronous.departures.open = open;
    result
}

fn depart(warp: &Warp, block: &mut Block<'_>, departure: &Departure) -> Step {
    let here = std::mem::replace(&mut block.pc, departure.pc);
    let (lane, shared) = (departure.lane, departure.shared);
    let mut stores = Vec::new();
    departure.body.pieces(shared, |to, at, bytes| stores.extend(to.map(|to| (to, at, bytes))));
    let pieces: Vec<_> = stores.iter().map(|(to, _, bytes)| (*to, *bytes)).collect();
    let mut sectors: Vec<u64> =
        pieces.iter().flat_map(|(to, bytes)| to / 32..=(to + u64::from(*bytes) - 1) / 32).collect();
    sectors.dedup();
    let bytes: u64 = pieces.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    block.counters.global_store_requests += 1;
    block.counters.global_store_sectors += sectors.len() as u64;
    block.counters.global_store_ideal_sectors += bytes.div_ceil(32);
    block.counters.global_store_bytes += bytes;
    caches::count(block, caches::Access::Store, pieces.iter().copied());
    for (to, at, bytes) in stores {
        let target = ends::global(block, warp, lane, to, bytes as usize, Use::Write)?;
        let from = (shared + at) as usize;
        let source = &block.shared.bytes[from..from + bytes as usize];
        match departure.reduction {
            None => target.write(source),
            Some((deed, kind, width)) => {
                let mut all = vec![0; bytes as usize];
                ends::global(block, warp, lane, to, bytes as usize, Use::Read)?.read(&mut all);
                let width = width as usize;
                for (old, value) in all.chunks_exact_mut(width).zip(source.chunks_exact(width)) {
                    let number = |bytes: &[u8]| {
                        let mut all = [0; 8];
                        all[..width].copy_from_slice(bytes);
                        u64::from_le_bytes(all)
                    };
                    let new = crate::ops::atomic::apply((deed, kind), number(old), number(value)).to_le_bytes();
                    old.copy_from_slice(&new[..width]);
                }
                target.write(&all);
            }
        }
    }
    note_global(warp, block, &pieces, if departure.reduction.is_some() { Done::Reduced } else { Done::Stored })?;
    if block.race.on {
        let races = &mut block.race;
        races.shadow.reads_done(&races.clocks, warp.index as usize, &[(shared, departure.body.bytes())]);
    }
    block.pc = here;
    Ok(())
}

/// The last thread of a block ends: nothing may still be on its way into the shared memory that goes with it.
pub(super) fn end(block: &Block<'_>) -> Step {
    let Some(left) = block.asynchronous.arrivals.first() else { return Ok(()) };
    let message = "the block ends while this copy still writes its shared memory: nobody has waited for its mbarrier";
    let thread = block.thread(left.warp, left.lane as u32);
    Err(block.place_at(Fault::new(FaultKind::AsyncHazard, message), left.pc, Some(thread)))
}

/// Threads that end while copies still read their shared memory leave them to chance.
pub(super) fn exit(warp: &Warp, block: &Block<'_>, mask: u32) -> Step {
    let left = warp.asynchronous.departures.open.iter().find(|d| mask >> d.lane & 1 != 0);
    let Some(left) = left else { return Ok(()) };
    let message = "the thread ends without cp.async.bulk.wait_group while this copy still reads shared memory";
    let thread = block.thread(warp.index, left.lane as u32);
    Err(block.place_at(Fault::new(FaultKind::AsyncHazard, message), left.pc, Some(thread)))
}
