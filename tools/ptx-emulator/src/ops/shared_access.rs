//! One access of a warp to shared memory, its own block's or, through the cluster, another's: checked, counted, done.

use super::access::{Deed, Order, Payload, find, integer, ones, padded, unwritten};
use crate::{
    asynchronous::cluster,
    machine::{Block, FULL, LANES, R32, Step, Warp},
    race,
    report::{Fault, FaultKind},
    undefined::Holes,
};

/// Passes over the banks of the lanes `from..to`: the most distinct units in one bank, where a unit is as wide as the
/// access, or a word if that is wider, and a bank as many words wide as a unit.
#[inline(always)]
fn passes<const WIDTH: usize>(addresses: &R32, mask: u32, from: usize, to: usize) -> u64 {
    let unit = WIDTH.max(4);
    let (shift, banks) = (unit.ilog2(), 128 / unit);
    let (mut least, mut most) = (u32::MAX, 0);
    for lane in from..to {
        let at = addresses[lane] >> shift;
        (least, most) = (least.min(at), most.max(at));
    }
    let within = mask >> from & (u32::MAX >> (32 - (to - from)));
    // Units that lie within one turn around the banks do not meet in one.
    if most - least < banks as u32 {
        return u64::from(within != 0);
    }
    // Nor do as many units as there are banks in use.
    let mut used = 0u32;
    for lane in from..to {
        used |= u32::from(mask >> lane & 1 != 0) << (addresses[lane] >> shift & (banks as u32 - 1));
    }
    if used.count_ones() == within.count_ones() {
        return u64::from(within != 0);
    }
    // A unit counts where it is seen first; inactive lanes add nothing.
    let mut units = [u32::MAX; LANES];
    for lane in from..to {
        units[lane] = if mask >> lane & 1 != 0 { addresses[lane] >> shift } else { u32::MAX };
    }
    let (mut filled, mut most) = ([0u64; 32], 0);
    for lane in from..to {
        let mut seen = units[lane] == u32::MAX;
        for earlier in from..lane {
            seen |= units[earlier] == units[lane];
        }
        let bank = &mut filled[units[lane] as usize % banks];
        *bank += u64::from(!seen);
        most = most.max(*bank);
    }
    most
}

/// Counts a shared access: wavefronts as the banks see it.
#[inline(always)]
pub(crate) fn count_shared<const WIDTH: usize>(block: &mut Block<'_>, mask: u32, addresses: &R32, row: bool) {
    let groups = if WIDTH <= 4 { 1 } else { WIDTH / 4 };
    let size = LANES / groups;
    let mut ideal = 0;
    for group in 0..groups {
        ideal += u64::from(mask >> (group * size) & (u32::MAX >> (32 - size)) != 0);
    }
    let counters = &mut block.counters;
    counters.shared_requests += 1;
    counters.shared_ideal_wavefronts += ideal;
    if row && (WIDTH >= 4 || addresses[0].is_multiple_of(4)) {
        counters.shared_wavefronts += ideal;
        return;
    }
    // A loop, because iterators' own functions are not compiled for the vectors of their callers.
    for group in 0..groups {
        counters.shared_wavefronts += passes::<WIDTH>(addresses, mask, group * size, (group + 1) * size);
    }
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
    let (mut low, mut least, mut most, mut apart) = (0u32, u32::MAX, 0u32, 0u32);
    for lane in 0..LANES {
        low |= addresses[lane];
        least = least.min(addresses[lane]);
        most = most.max(addresses[lane]);
        apart |= addresses[lane] ^ addresses[0].wrapping_add((lane * WIDTH) as u32);
    }
    if low & (WIDTH as u32 - 1) != 0 || u64::from(most) + WIDTH as u64 > u64::from(block.shared.limit) {
        return Err(shared_fault(block, warp, mask, addresses, WIDTH as u32, deed));
    }
    if !block.shared.guards.is_empty() && block.shared.guarded(least, most + WIDTH as u32) {
        check_guards(block, warp, mask, addresses, WIDTH as u32, deed)?;
    }
    Ok(mask == FULL && apart == 0)
}

/// The lanes' addresses lie on both sides of a guard between variables, or in one.
#[cold]
#[inline(never)]
fn check_guards(block: &Block<'_>, warp: &Warp, mask: u32, addresses: &R32, width: u32, deed: Deed) -> Step {
    let wrong = |lane: &usize| block.shared.guarded(addresses[*lane], addresses[*lane] + width);
    match race::lanes(mask).find(wrong) {
        Some(lane) => Err(beyond_variable(block, warp, lane, addresses[lane], width, deed.words())),
        None => Ok(()),
    }
}

/// The fault of an access between two variables of shared memory.
#[cold]
#[inline(never)]
pub(crate) fn beyond_variable(
    block: &Block<'_>,
    warp: &Warp,
    lane: usize,
    address: u32,
    width: u32,
    what: &str,
) -> Fault {
    let message = format!("a {what} of {width} bytes past the end of a variable in shared memory");
    block.fault(warp, lane as u32, FaultKind::OutOfBounds, message).edit(|r| {
        r.address = Some(address.into());
        r.allocation = block.shared_name(address);
    })
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
#[inline]
pub(crate) fn remote<'p, const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &Warp,
    lane: usize,
    address: u32,
    order: Order,
    deed: Deed,
) -> Result<Option<(&'p mut Block<'static>, std::ops::Range<usize>)>, Fault> {
    if address >> 24 == 0 {
        return Ok(None);
    }
    let at = address & 0xff_ffff;
    let Some(peer) = cluster::peer(warp, block, lane, address >> 24)? else { return Ok(None) };
    shared_check::<WIDTH>(peer, warp, 1 << lane, &[at; LANES], deed)?;
    let done = if deed == Deed::Load { race::Deed::Read } else { race::Deed::Write };
    cluster::note(warp, block, peer, (lane, at, WIDTH as u32), done, order.strength)?;
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
) -> Result<Option<Box<Holes>>, Fault> {
    let mut addresses = settled32(addresses, mask);
    let mut own = mask;
    if addresses.iter().fold(0, |all, a| all | a) >> 24 != 0 {
        own &= !remote_load::<WIDTH>(block, warp, mask, &mut addresses, order, into)?;
        if own == 0 {
            return Ok(None);
        }
        addresses = settled32(&addresses, own);
    }
    let row = shared_check::<WIDTH>(block, warp, own, &addresses, Deed::Load)?;
    race::shared_load(block, warp.index, own, &addresses, WIDTH as u32, order.strength)?;
    count_shared::<WIDTH>(block, own, &addresses, row);
    block.counters.shared_load_bytes += u64::from(own.count_ones()) * WIDTH as u64;
    let check = !block.shared.written.is_empty();
    if row {
        let start = addresses[0] as usize;
        let range = start..start + LANES * WIDTH;
        into[..LANES * WIDTH].copy_from_slice(&block.shared.bytes[range.clone()]);
        if check && block.shared.written[range].iter().fold(1, |all, w| all & w) == 0 {
            return Ok(Some(unwritten_shared::<WIDTH>(block, own, &addresses)));
        }
        return Ok(None);
    }
    // Inactive lanes are settled on an active one's address, so that they need no branch; but what they load of it belongs
    // to nobody, and must not overwrite what came from elsewhere.
    let mut known = u128::MAX;
    for lane in 0..LANES {
        let start = addresses[lane] as usize;
        if check {
            known &= integer::<WIDTH>(&block.shared.written[start..start + WIDTH]);
        }
        if own == mask || own >> lane & 1 != 0 {
            into[lane * WIDTH..(lane + 1) * WIDTH].copy_from_slice(&block.shared.bytes[start..start + WIDTH]);
        }
    }
    if known & ones::<WIDTH>() != ones::<WIDTH>() {
        return Ok(Some(unwritten_shared::<WIDTH>(block, own, &addresses)));
    }
    Ok(None)
}

/// Which of the lanes' bytes nobody wrote.
#[cold]
#[inline(never)]
fn unwritten_shared<const WIDTH: usize>(block: &Block<'_>, mask: u32, addresses: &R32) -> Box<Holes> {
    let mut holes = Box::new(Holes::new("shared"));
    for lane in race::lanes(mask) {
        let start = addresses[lane] as usize;
        let name = |first: usize| block.shared_name((start + first) as u32);
        if let Some(known) = block.shared.written.get(start..start + WIDTH) {
            let first = known.iter().position(|w| *w == 0).unwrap_or(0);
            holes.add(lane * WIDTH, known, start as u64, || name(first));
        }
    }
    holes
}

/// What a store has just put there is undefined where `holes` is not zero.
pub(super) fn unwrite(block: &mut Block<'_>, address: u32, holes: &[u8]) {
    let start = (address & 0xff_ffff) as usize;
    let written = &mut block.shared.written;
    // Other blocks of a cluster take what they are given.
    if address >> 24 == 0
        && let Some(written) = written.get_mut(start..start + holes.len())
    {
        written.iter_mut().zip(holes).for_each(|(written, hole)| *written &= u8::from(*hole == 0));
    }
}

/// Loads from other blocks of the cluster, for the lanes whose addresses name one; says which. Own ranks are cut off.
#[cold]
#[inline(never)]
fn remote_load<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &mut R32,
    order: Order,
    into: &mut Payload,
) -> Result<u32, Fault> {
    let others = foreign(block, addresses, mask);
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
    Ok(others)
}

/// Stores to other blocks of the cluster, as `remote_load`.
#[cold]
#[inline(never)]
fn remote_store<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &mut R32,
    order: Order,
    from: &Payload,
) -> Result<u32, Fault> {
    let others = foreign(block, addresses, mask);
    for lane in (0..LANES).filter(|lane| others >> lane & 1 != 0) {
        let Some((peer, range)) = remote::<WIDTH>(block, warp, lane, addresses[lane], order, Deed::Store)? else {
            continue;
        };
        if let Some(written) = peer.shared.written.get_mut(range.clone()) {
            written.fill(1);
        }
        peer.shared.bytes[range].copy_from_slice(&from[lane * WIDTH..][..WIDTH]);
    }
    Ok(others)
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
    let mut own = mask;
    if addresses.iter().fold(0, |all, a| all | a) >> 24 != 0 {
        own &= !remote_store::<WIDTH>(block, warp, mask, &mut addresses, order, from)?;
        if own == 0 {
            return Ok(());
        }
        addresses = settled32(&addresses, own);
    }
    let row = shared_check::<WIDTH>(block, warp, own, &addresses, Deed::Store)?;
    let values = |lane: usize| padded::<WIDTH>(from, lane);
    race::shared_store(block, warp.index, own, &addresses, WIDTH as u32, order.strength, order.release, Some(&values))?;
    count_shared::<WIDTH>(block, own, &addresses, row);
    block.counters.shared_store_bytes += u64::from(own.count_ones()) * WIDTH as u64;
    let check = !block.shared.written.is_empty();
    if row {
        let range = addresses[0] as usize..addresses[0] as usize + LANES * WIDTH;
        if check {
            block.shared.written[range.clone()].fill(1);
        }
        block.shared.bytes[range].copy_from_slice(&from[..LANES * WIDTH]);
        return Ok(());
    }
    for lane in (0..LANES).filter(|lane| own >> lane & 1 != 0) {
        let range = addresses[lane] as usize..addresses[lane] as usize + WIDTH;
        if check {
            block.shared.written[range.clone()].fill(1);
        }
        block.shared.bytes[range].copy_from_slice(&from[lane * WIDTH..(lane + 1) * WIDTH]);
    }
    Ok(())
}

/// Checks and counts an atomic on shared memory; the addresses come back with own ranks cut off.
#[inline(always)]
pub(crate) fn shared_atomic<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &R32,
    order: Order,
    reads: bool,
) -> Result<R32, Fault> {
    let mut all = settled32(addresses, mask);
    let apart = all.iter().fold(0, |all, a| all | a) >> 24 != 0;
    let others = if apart { foreign(block, &mut all, mask) } else { 0 };
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
