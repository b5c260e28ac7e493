//! One access of a warp to one space: bounds, alignment, lifetime, initialisation, race shadows, counters, and then the
//! bytes. The usual case, all lanes in one allocation and side by side, is checked once for the whole warp and copied whole.

use crate::{
    asynchronous::cluster,
    machine::{Block, FULL, LANES, R32, R64, Step, Warp},
    memory::{Allocation, Global},
    race::{self, Strength},
    report::{Fault, FaultKind},
};

/// The bytes of all lanes, lane after lane at the access's width.
pub(crate) type Payload = [u8; 16 * LANES];

/// What reports call an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Load,
    Store,
    Atomic,
}

impl Deed {
    fn words(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Store => "store",
            Self::Atomic => "atomic",
        }
    }
}

/// How an access is ordered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub strength: Strength,
    pub release: bool,
    /// Count it as global traffic (`ld.const` is not).
    pub counted: bool,
}

/// Whether lane 0..32 access `first`, `first + width`, ...
#[inline(always)]
fn in_a_row(addresses: &R64, width: usize) -> bool {
    let first = addresses[0];
    let mut apart = 0;
    for lane in 0..LANES {
        apart |= addresses[lane] ^ first.wrapping_add((lane * width) as u64);
    }
    apart == 0
}

/// Inactive lanes take the first active lane's address, so that loops over all lanes see nothing foreign.
#[inline(always)]
fn settled(addresses: &R64, mask: u32) -> R64 {
    if mask == FULL {
        return *addresses;
    }
    let first = addresses[(mask.trailing_zeros() & 31) as usize];
    let mut out = [first; LANES];
    for lane in 0..LANES {
        out[lane] = if mask >> lane & 1 != 0 { addresses[lane] } else { first };
    }
    out
}

/// The first active lane, from `lanes`, for which `bad` holds.
fn find(mask: u32, mut bad: impl FnMut(usize) -> bool) -> usize {
    (0..LANES).find(|lane| mask >> lane & 1 != 0 && bad(*lane)).unwrap_or(mask.trailing_zeros() as usize & 31)
}

#[cold]
#[inline(never)]
fn global_fault(block: &Block<'_>, warp: &Warp, mask: u32, addresses: &R64, width: u64, deed: Deed) -> Fault {
    let memory = block.launch.memory;
    let fits = |a: u64| memory.find(a).is_some_and(|x| Global::offset(a) + width <= x.bytes);
    let lane = find(mask, |lane| !fits(addresses[lane]));
    if !fits(addresses[lane]) {
        return block.place(memory.fault(addresses[lane], width, deed.words()), warp.index, lane as u32);
    }
    let lane = find(mask, |lane| !addresses[lane].is_multiple_of(width));
    let (kind, message) = match addresses[lane].is_multiple_of(width) {
        false => (
            FaultKind::Misaligned,
            format!("a {} of {width} bytes at an address that is no multiple of {width}", deed.words()),
        ),
        true => (FaultKind::ReadOnly, format!("a {} to constant memory", deed.words())),
    };
    block.fault(warp, lane as u32, kind, message).edit(|r| {
        r.address = Some(addresses[lane]);
        r.allocation = memory.find(addresses[lane]).map(|a| a.name.clone());
    })
}

#[cold]
#[inline(never)]
fn unwritten(block: &Block<'_>, warp: &Warp, lane: usize, address: u64, name: Option<String>, what: &str) -> Fault {
    let message = format!("a load of {what} memory that nobody wrote");
    block.fault(warp, lane as u32, FaultKind::Uninitialised, message).edit(|r| {
        r.address = Some(address);
        r.allocation = name;
    })
}

/// The allocation all active lanes fall into, if it is one and every access fits; a fault if one does not.
#[inline(always)]
fn one_allocation<'a, const WIDTH: usize>(
    block: &Block<'a>,
    warp: &Warp,
    mask: u32,
    addresses: &R64,
    deed: Deed,
) -> Result<Option<&'a Allocation>, Fault> {
    let memory = block.launch.memory;
    let first = addresses[0];
    let (mut low, mut most, mut apart) = (0, 0, 0);
    for lane in 0..LANES {
        let address = addresses[lane];
        low |= address;
        most = most.max(Global::offset(address));
        apart |= address ^ first;
    }
    if low & (WIDTH as u64 - 1) == 0
        && apart >> crate::memory::OFFSET_BITS == 0
        && let Some(allocation) = memory.find(first)
        && most + WIDTH as u64 <= allocation.bytes
        && (deed == Deed::Load || allocation.writable)
    {
        return Ok(Some(allocation));
    }
    for lane in 0..LANES {
        let address = addresses[lane];
        let fine = memory
            .find(address)
            .is_some_and(|a| Global::offset(address) + WIDTH as u64 <= a.bytes && (deed == Deed::Load || a.writable));
        if !fine || !address.is_multiple_of(WIDTH as u64) {
            return Err(global_fault(block, warp, mask, addresses, WIDTH as u64, deed));
        }
    }
    Ok(None)
}

/// Sectors of 32 bytes touched by a request, and the fewest its distinct bytes would need.
fn sectors<const WIDTH: usize>(addresses: &R64, mask: u32) -> (u64, u64) {
    if mask == FULL && in_a_row(addresses, WIDTH) {
        let bytes = (LANES * WIDTH) as u64;
        return ((addresses[0] % 32 + bytes).div_ceil(32), bytes / 32);
    }
    let mut sorted = *addresses;
    if !sorted.is_sorted() {
        sorted.sort_unstable();
    }
    let (mut touched, mut distinct) = (1, 1);
    for lane in 1..LANES {
        touched += u64::from(sorted[lane] >> 5 != sorted[lane - 1] >> 5);
        distinct += u64::from(sorted[lane] != sorted[lane - 1]);
    }
    (touched, (distinct * WIDTH as u64).div_ceil(32))
}

/// Loads from global memory into `into`.
#[inline(always)]
pub(crate) fn global_load<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &R64,
    order: Order,
    into: &mut Payload,
) -> Step {
    let addresses = &settled(addresses, mask);
    let allocation = one_allocation::<WIDTH>(block, warp, mask, addresses, Deed::Load)?;
    race::global_load(block, warp.index, mask, addresses, WIDTH as u32, order.strength)?;
    if order.counted {
        let (touched, ideal) = sectors::<WIDTH>(addresses, mask);
        block.counters.global_load_requests += 1;
        block.counters.global_load_sectors += touched;
        block.counters.global_load_ideal_sectors += ideal;
        block.counters.global_load_bytes += u64::from(mask.count_ones()) * WIDTH as u64;
    }
    let whole = mask == FULL && in_a_row(addresses, WIDTH);
    match allocation {
        Some(a) if whole => {
            let start = Global::offset(addresses[0]) as usize;
            if let Some(written) = &a.written {
                let known = &written.slice()[start..start + LANES * WIDTH];
                if known.iter().fold(1, |all, w| all & w) == 0 {
                    let hole = known.iter().position(|w| *w == 0).unwrap_or(0);
                    let address = addresses[0] + hole as u64;
                    return Err(unwritten(block, warp, hole / WIDTH, address, Some(a.name.clone()), "global"));
                }
            }
            // SAFETY: `one_allocation` checked that every lane's bytes lie in the allocation, which lives through the launch.
            unsafe {
                std::ptr::copy_nonoverlapping(a.data.pointer().add(start), into.as_mut_ptr(), LANES * WIDTH);
            }
        }
        _ => {
            for lane in 0..LANES {
                if mask >> lane & 1 == 0 {
                    continue;
                }
                let Some(a) = allocation.or_else(|| block.launch.memory.find(addresses[lane])) else { continue };
                let start = Global::offset(addresses[lane]) as usize;
                if let Some(written) = &a.written
                    && written.slice()[start..start + WIDTH].contains(&0)
                {
                    return Err(unwritten(block, warp, lane, addresses[lane], Some(a.name.clone()), "global"));
                }
                // SAFETY: as above.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        a.data.pointer().add(start),
                        into.as_mut_ptr().add(lane * WIDTH),
                        WIDTH,
                    );
                }
            }
        }
    }
    Ok(())
}

fn padded<const WIDTH: usize>(from: &Payload, lane: usize) -> [u8; 16] {
    let mut value = [0; 16];
    value[..WIDTH].copy_from_slice(&from[lane * WIDTH..(lane + 1) * WIDTH]);
    value
}

/// Stores `from` to global memory.
#[inline(always)]
pub(crate) fn global_store<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &R64,
    order: Order,
    from: &Payload,
) -> Step {
    let addresses = &settled(addresses, mask);
    let allocation = one_allocation::<WIDTH>(block, warp, mask, addresses, Deed::Store)?;
    let values = |lane: usize| padded::<WIDTH>(from, lane);
    race::global_store(
        block,
        warp.index,
        mask,
        addresses,
        WIDTH as u32,
        order.strength,
        false,
        order.release,
        Some(&values),
    )?;
    let (touched, ideal) = sectors::<WIDTH>(addresses, mask);
    block.counters.global_store_requests += 1;
    block.counters.global_store_sectors += touched;
    block.counters.global_store_ideal_sectors += ideal;
    block.counters.global_store_bytes += u64::from(mask.count_ones()) * WIDTH as u64;
    let whole = mask == FULL && in_a_row(addresses, WIDTH);
    match allocation {
        Some(a) if whole => {
            let start = Global::offset(addresses[0]) as usize;
            // SAFETY: `one_allocation` checked the range; the shadow is as long as the data.
            unsafe {
                std::ptr::copy_nonoverlapping(from.as_ptr(), a.data.pointer().add(start), LANES * WIDTH);
                if let Some(written) = &a.written {
                    std::ptr::write_bytes(written.pointer().add(start), 1, LANES * WIDTH);
                }
            }
        }
        _ => {
            for lane in 0..LANES {
                if mask >> lane & 1 == 0 {
                    continue;
                }
                let Some(a) = allocation.or_else(|| block.launch.memory.find(addresses[lane])) else { continue };
                let start = Global::offset(addresses[lane]) as usize;
                // SAFETY: as above.
                unsafe {
                    std::ptr::copy_nonoverlapping(from.as_ptr().add(lane * WIDTH), a.data.pointer().add(start), WIDTH);
                    if let Some(written) = &a.written {
                        std::ptr::write_bytes(written.pointer().add(start), 1, WIDTH);
                    }
                }
            }
        }
    }
    Ok(())
}

/// An atomic's access to one lane's place in global memory, after the checks of `global_atomic`.
pub(crate) fn global_cell(block: &Block<'_>, address: u64, width: usize) -> Option<(*mut u8, Option<*mut u8>)> {
    let a = block.launch.memory.find(address)?;
    let start = Global::offset(address) as usize;
    if start as u64 + width as u64 > a.bytes {
        return None;
    }
    Some((a.data.pointer().wrapping_add(start), a.written.as_ref().map(|w| w.pointer().wrapping_add(start))))
}

/// Checks and counts an atomic on global memory.
pub(crate) fn global_atomic<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &R64,
    order: Order,
    reads: bool,
) -> Step {
    let addresses = &settled(addresses, mask);
    one_allocation::<WIDTH>(block, warp, mask, addresses, Deed::Atomic)?;
    race::global_store(block, warp.index, mask, addresses, WIDTH as u32, order.strength, true, order.release, None)?;
    if reads {
        for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
            if let Some(a) = block.launch.memory.find(addresses[lane])
                && let Some(written) = &a.written
                && written.slice()[Global::offset(addresses[lane]) as usize..][..WIDTH].contains(&0)
            {
                return Err(unwritten(block, warp, lane, addresses[lane], Some(a.name.clone()), "global"));
            }
        }
    }
    let (touched, ideal) = sectors::<WIDTH>(addresses, mask);
    block.counters.global_store_requests += 1;
    block.counters.global_store_sectors += touched;
    block.counters.global_store_ideal_sectors += ideal;
    Ok(())
}

/// Passes over the banks of the lanes `from..to`: the most distinct units in one bank, where a unit is as wide as the
/// access, or a word if that is wider, and a bank as many words wide as a unit.
#[inline(always)]
fn passes<const WIDTH: usize>(addresses: &R32, mask: u32, from: usize, to: usize) -> u64 {
    let unit = WIDTH.max(4);
    let (shift, banks) = (unit.ilog2(), 128 / unit);
    let mut owner = [u32::MAX; 32];
    let mut conflict = false;
    // Inactive lanes are settled on an active one's address; they add nothing.
    for lane in from..to {
        let at = addresses[lane] >> shift;
        let held = &mut owner[at as usize % banks];
        conflict |= *held != u32::MAX && *held != at;
        *held = at;
    }
    let size = to - from;
    let active = mask >> from & (u32::MAX >> (32 - size));
    if !conflict || active == 0 {
        return u64::from(active != 0);
    }
    let mut all = [u32::MAX; LANES];
    let mut count = 0;
    for lane in (from..to).filter(|lane| mask >> lane & 1 != 0) {
        all[count] = addresses[lane] >> shift;
        count += 1;
    }
    let all = &mut all[..count];
    all.sort_unstable();
    let mut filled = [0u8; 32];
    let mut last = u32::MAX;
    for at in all.iter().copied() {
        filled[at as usize % banks] += u8::from(at != last);
        last = at;
    }
    u64::from(filled.iter().copied().max().unwrap_or(1))
}

/// Counts a shared access: wavefronts as the banks see it.
pub(crate) fn count_shared<const WIDTH: usize>(block: &mut Block<'_>, mask: u32, addresses: &R32, row: bool) {
    let groups = if WIDTH <= 4 { 1 } else { WIDTH / 4 };
    let ideal = {
        let size = LANES / groups;
        (0..groups).filter(|g| mask >> (g * size) & (u32::MAX >> (32 - size)) != 0).count() as u64
    };
    let counters = &mut block.counters;
    counters.shared_requests += 1;
    counters.shared_ideal_wavefronts += ideal;
    if row && (WIDTH >= 4 || addresses[0].is_multiple_of(4)) {
        counters.shared_wavefronts += ideal;
        return;
    }
    let size = LANES / groups;
    counters.shared_wavefronts +=
        (0..groups).map(|g| passes::<WIDTH>(addresses, mask, g * size, (g + 1) * size)).sum::<u64>();
}

#[cold]
#[inline(never)]
fn shared_fault(block: &Block<'_>, warp: &Warp, mask: u32, addresses: &R32, width: u32, deed: Deed) -> Fault {
    let limit = block.shared.limit;
    let outside = |lane: usize| u64::from(addresses[lane]) + u64::from(width) > u64::from(limit);
    let lane = find(mask, outside);
    let (lane, kind, message) = if outside(lane) {
        let words = format!("a {} of {width} bytes past the end of {limit} bytes of shared memory", deed.words());
        (lane, FaultKind::OutOfBounds, words)
    } else {
        let lane = find(mask, |lane| !addresses[lane].is_multiple_of(width));
        let words = format!("a {} of {width} bytes at a shared address that is no multiple of {width}", deed.words());
        (lane, FaultKind::Misaligned, words)
    };
    block.fault(warp, lane as u32, kind, message).edit(|r| {
        r.address = Some(addresses[lane].into());
        r.allocation = block.shared_name(addresses[lane]);
    })
}

/// Checks a shared access and says whether the lanes stand in a row. Inactive lanes must be settled.
#[inline(always)]
pub(crate) fn shared_check<const WIDTH: usize>(
    block: &Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &R32,
    deed: Deed,
) -> Result<bool, Fault> {
    let (mut low, mut most, mut apart) = (0u32, 0u32, 0u32);
    for lane in 0..LANES {
        low |= addresses[lane];
        most = most.max(addresses[lane]);
        apart |= addresses[lane] ^ addresses[0].wrapping_add((lane * WIDTH) as u32);
    }
    if low & (WIDTH as u32 - 1) != 0 || u64::from(most) + WIDTH as u64 > u64::from(block.shared.limit) {
        return Err(shared_fault(block, warp, mask, addresses, WIDTH as u32, deed));
    }
    Ok(mask == FULL && apart == 0)
}

/// Inactive lanes take the first active lane's address.
#[inline(always)]
pub(crate) fn settled32(addresses: &R32, mask: u32) -> R32 {
    if mask == FULL {
        return *addresses;
    }
    let first = addresses[(mask.trailing_zeros() & 31) as usize];
    let mut out = [first; LANES];
    for lane in 0..LANES {
        out[lane] = if mask >> lane & 1 != 0 { addresses[lane] } else { first };
    }
    out
}

/// Lanes whose address names another block of the cluster; own ranks are cut from the addresses.
fn foreign(block: &Block<'_>, addresses: &mut R32, mask: u32) -> u32 {
    let mut found = 0;
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let rank = addresses[lane] >> 24;
        if rank == 0 {
            continue;
        }
        if cluster::is_own(block, rank) {
            addresses[lane] &= 0xff_ffff;
        } else {
            found |= 1 << lane;
        }
    }
    found
}

/// A place in the shared memory of another block of the cluster, checked; none if it is the block's own.
pub(crate) fn remote<'p, const WIDTH: usize>(
    block: &Block<'_>,
    warp: &Warp,
    lane: usize,
    address: u32,
    order: Order,
    deed: Deed,
) -> Result<Option<(&'p mut Block<'static>, std::ops::Range<usize>)>, Fault> {
    let at = address & 0xff_ffff;
    let Some(peer) = cluster::peer(warp, block, lane, address >> 24)? else { return Ok(None) };
    shared_check::<WIDTH>(peer, warp, 1 << lane, &[at; LANES], deed)?;
    if peer.race.on {
        let (races, write) = (&mut peer.race, deed != Deed::Load);
        let own = cluster::rank(block) as usize;
        let result = races.shadow.remote(&races.clocks, own, lane, at, WIDTH as u32, write, order.strength);
        result.map_err(|c| race::shared_fault(block, warp.index, c, if write { "write" } else { "read" }))?;
    }
    Ok(Some((peer, at as usize..at as usize + WIDTH)))
}

/// Loads from shared memory into `into`.
#[inline(always)]
pub(crate) fn shared_load<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &R32,
    order: Order,
    into: &mut Payload,
) -> Step {
    let mut addresses = settled32(addresses, mask);
    if addresses.iter().fold(0, |all, a| all | a) >> 24 != 0 {
        let others = foreign(block, &mut addresses, mask);
        for lane in (0..LANES).filter(|lane| others >> lane & 1 != 0) {
            let Some((peer, range)) = remote::<WIDTH>(block, warp, lane, addresses[lane], order, Deed::Load)? else {
                continue;
            };
            if peer.shared.written.get(range.clone()).is_some_and(|w| w.contains(&0)) {
                let message = format!("a load of shared memory of block {:?} that nobody wrote", peer.index);
                return Err(block.fault(warp, lane as u32, FaultKind::Uninitialised, message));
            }
            into[lane * WIDTH..][..WIDTH].copy_from_slice(&peer.shared.bytes[range]);
        }
        return match mask & !others {
            0 => Ok(()),
            rest => shared_load::<WIDTH>(block, warp, rest, &addresses, order, into),
        };
    }
    let row = shared_check::<WIDTH>(block, warp, mask, &addresses, Deed::Load)?;
    race::shared_load(block, warp.index, mask, &addresses, WIDTH as u32, order.strength)?;
    count_shared::<WIDTH>(block, mask, &addresses, row);
    block.counters.shared_load_bytes += u64::from(mask.count_ones()) * WIDTH as u64;
    if row {
        let start = addresses[0] as usize;
        if !block.shared.written.is_empty() {
            let known = &block.shared.written[start..start + LANES * WIDTH];
            if known.iter().fold(1, |all, w| all & w) == 0 {
                let hole = known.iter().position(|w| *w == 0).unwrap_or(0);
                let name = block.shared_name((start + hole) as u32);
                return Err(unwritten(block, warp, hole / WIDTH, (start + hole) as u64, name, "shared"));
            }
        }
        into[..LANES * WIDTH].copy_from_slice(&block.shared.bytes[start..start + LANES * WIDTH]);
        return Ok(());
    }
    let check = !block.shared.written.is_empty();
    for lane in 0..LANES {
        // Inactive lanes are settled on an active one's address, so that they need no branch.
        let start = addresses[lane] as usize;
        if check && block.shared.written[start..start + WIDTH].iter().fold(1, |all, w| all & w) == 0 {
            let name = block.shared_name(start as u32);
            return Err(unwritten(block, warp, lane, start as u64, name, "shared"));
        }
        into[lane * WIDTH..(lane + 1) * WIDTH].copy_from_slice(&block.shared.bytes[start..start + WIDTH]);
    }
    Ok(())
}

/// Stores `from` to shared memory.
#[inline(always)]
pub(crate) fn shared_store<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &R32,
    order: Order,
    from: &Payload,
) -> Step {
    let mut addresses = settled32(addresses, mask);
    if addresses.iter().fold(0, |all, a| all | a) >> 24 != 0 {
        let others = foreign(block, &mut addresses, mask);
        for lane in (0..LANES).filter(|lane| others >> lane & 1 != 0) {
            let Some((peer, range)) = remote::<WIDTH>(block, warp, lane, addresses[lane], order, Deed::Store)? else {
                continue;
            };
            if let Some(written) = peer.shared.written.get_mut(range.clone()) {
                written.fill(1);
            }
            peer.shared.bytes[range].copy_from_slice(&from[lane * WIDTH..][..WIDTH]);
        }
        return match mask & !others {
            0 => Ok(()),
            rest => shared_store::<WIDTH>(block, warp, rest, &addresses, order, from),
        };
    }
    let row = shared_check::<WIDTH>(block, warp, mask, &addresses, Deed::Store)?;
    let values = |lane: usize| padded::<WIDTH>(from, lane);
    race::shared_store(
        block,
        warp.index,
        mask,
        &addresses,
        WIDTH as u32,
        order.strength,
        order.release,
        Some(&values),
    )?;
    count_shared::<WIDTH>(block, mask, &addresses, row);
    block.counters.shared_store_bytes += u64::from(mask.count_ones()) * WIDTH as u64;
    let check = !block.shared.written.is_empty();
    if row {
        let range = addresses[0] as usize..addresses[0] as usize + LANES * WIDTH;
        if check {
            block.shared.written[range.clone()].fill(1);
        }
        block.shared.bytes[range].copy_from_slice(&from[..LANES * WIDTH]);
        return Ok(());
    }
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let range = addresses[lane] as usize..addresses[lane] as usize + WIDTH;
        if check {
            block.shared.written[range.clone()].fill(1);
        }
        block.shared.bytes[range].copy_from_slice(&from[lane * WIDTH..(lane + 1) * WIDTH]);
    }
    Ok(())
}

/// The range of one lane's local memory.
fn local_range(
    block: &Block<'_>,
    warp: &Warp,
    lane: usize,
    address: u64,
    width: usize,
    deed: Deed,
) -> Result<std::ops::Range<usize>, Fault> {
    let frame = warp.local.len() / LANES;
    let limit = block.launch.entry.code.local_bytes as u64;
    let wrong = if address.checked_add(width as u64).is_none_or(|end| end > limit) {
        Some((
            FaultKind::OutOfBounds,
            format!("a {} of {width} bytes at offset {address} of {limit} bytes of local memory", deed.words()),
        ))
    } else if !address.is_multiple_of(width as u64) {
        Some((FaultKind::Misaligned, format!("a {} of {width} bytes at local address {address}", deed.words())))
    } else {
        None
    };
    match wrong {
        Some((kind, message)) => Err(block.fault(warp, lane as u32, kind, message).edit(|r| r.address = Some(address))),
        None => Ok(lane * frame + address as usize..lane * frame + address as usize + width),
    }
}

/// Loads from the lanes' local memory.
pub(crate) fn local_load<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &R64,
    into: &mut Payload,
) -> Step {
    block.counters.local_accesses += u64::from(mask.count_ones());
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let range = local_range(block, warp, lane, addresses[lane], WIDTH, Deed::Load)?;
        if warp.local_written.get(range.clone()).is_some_and(|w| w.contains(&0)) {
            return Err(unwritten(block, warp, lane, addresses[lane], None, "local"));
        }
        if let Some(bytes) = warp.local.get(range) {
            into[lane * WIDTH..(lane + 1) * WIDTH].copy_from_slice(bytes);
        }
    }
    Ok(())
}

/// Stores to the lanes' local memory.
pub(crate) fn local_store<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &mut Warp,
    mask: u32,
    addresses: &R64,
    from: &Payload,
) -> Step {
    block.counters.local_accesses += u64::from(mask.count_ones());
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let range = local_range(block, warp, lane, addresses[lane], WIDTH, Deed::Store)?;
        if let Some(written) = warp.local_written.get_mut(range.clone()) {
            written.fill(1);
        }
        if let Some(bytes) = warp.local.get_mut(range) {
            bytes.copy_from_slice(&from[lane * WIDTH..(lane + 1) * WIDTH]);
        }
    }
    Ok(())
}

/// Reads kernel parameters.
pub(crate) fn param_load<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &R64,
    into: &mut Payload,
) -> Step {
    let params = block.launch.params;
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let start = addresses[lane];
        let bytes = usize::try_from(start).ok().and_then(|s| params.get(s..s.checked_add(WIDTH)?));
        let Some(bytes) = bytes else {
            let message = format!("a load of {WIDTH} bytes at offset {start} of {} bytes of parameters", params.len());
            return Err(block.fault(warp, lane as u32, FaultKind::OutOfBounds, message));
        };
        into[lane * WIDTH..(lane + 1) * WIDTH].copy_from_slice(bytes);
    }
    Ok(())
}

/// Checks and counts an atomic on shared memory; the addresses come back with own ranks cut off.
pub(crate) fn shared_atomic<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &R32,
    order: Order,
    reads: bool,
) -> Result<R32, Fault> {
    let mut all = settled32(addresses, mask);
    let others = foreign(block, &mut all, mask);
    let own = mask & !others;
    if own == 0 {
        return Ok(all);
    }
    let addresses = settled32(&all, own);
    let row = shared_check::<WIDTH>(block, warp, own, &addresses, Deed::Atomic)?;
    race::shared_store(block, warp.index, own, &addresses, WIDTH as u32, order.strength, order.release, None)?;
    count_shared::<WIDTH>(block, own, &addresses, row);
    for lane in (0..LANES).filter(|lane| reads && own >> lane & 1 != 0) {
        let start = addresses[lane] as usize;
        if block.shared.written.get(start..start + WIDTH).is_some_and(|w| w.contains(&0)) {
            let name = block.shared_name(start as u32);
            return Err(unwritten(block, warp, lane, start as u64, name, "shared"));
        }
    }
    Ok(all)
}
