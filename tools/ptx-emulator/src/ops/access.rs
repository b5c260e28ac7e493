//! One access of a warp to one space: bounds, alignment, lifetime, initialisation, race shadows, counters, and then the
//! bytes. The usual case, all lanes in one allocation and side by side, is checked once for the whole warp and copied whole.

use crate::{
    caches,
    machine::{Block, FULL, LANES, R64, Step, Warp},
    memory::{Allocation, Buffer, Global},
    race::{self, Strength},
    report::{Fault, FaultKind},
    undefined::Holes,
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
    pub(super) fn words(self) -> &'static str {
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
    pub acquire: bool,
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
pub(crate) fn settled(addresses: &R64, mask: u32) -> R64 {
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
pub(super) fn find(mask: u32, mut bad: impl FnMut(usize) -> bool) -> usize {
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
pub(super) fn unwritten(
    block: &Block<'_>,
    warp: &Warp,
    lane: usize,
    address: u64,
    name: Option<String>,
    what: &str,
) -> Fault {
    let message = format!("a load of {what} memory that nobody wrote");
    block.fault(warp, lane as u32, FaultKind::Uninitialised, message).edit(|r| {
        r.address = Some(address);
        r.allocation = name;
    })
}

/// The allocation that holds all accesses, each aligned.
#[inline(always)]
pub(crate) fn common_allocation<'m, const WIDTH: usize>(memory: &'m Global, addresses: &R64) -> Option<&'m Allocation> {
    let first = addresses[0];
    let (mut low, mut most, mut apart) = (0, 0, 0);
    for lane in 0..LANES {
        let address = addresses[lane];
        low |= address;
        most = most.max(Global::offset(address));
        apart |= address ^ first;
    }
    if low & (WIDTH as u64 - 1) != 0 || apart >> crate::memory::OFFSET_BITS != 0 {
        return None;
    }
    memory.find(first).filter(|allocation| most + WIDTH as u64 <= allocation.bytes)
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
    if let Some(allocation) = common_allocation::<WIDTH>(memory, addresses)
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
#[inline(always)]
pub(crate) fn sectors<const WIDTH: usize>(addresses: &R64, mask: u32) -> (u64, u64) {
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
) -> Result<Option<Box<Holes>>, Fault> {
    let addresses = &settled(addresses, mask);
    let allocation = one_allocation::<WIDTH>(block, warp, mask, addresses, Deed::Load)?;
    race::global_load(block, warp.index, mask, addresses, WIDTH as u32, order.strength, allocation)?;
    if order.counted {
        let (touched, ideal) = sectors::<WIDTH>(addresses, mask);
        block.counters.global_load_requests += 1;
        block.counters.global_load_sectors += touched;
        block.counters.global_load_ideal_sectors += ideal;
        block.counters.global_load_bytes += u64::from(mask.count_ones()) * WIDTH as u64;
        caches::count(block, caches::Access::Load, addresses.iter().map(|&at| (at, WIDTH as u32)));
    }
    let whole = mask == FULL && in_a_row(addresses, WIDTH);
    match allocation {
        Some(a) if whole => {
            let start = Global::offset(addresses[0]) as usize;
            if let Some(written) = &a.written {
                let known = &written.slice()[start..start + LANES * WIDTH];
                if known.iter().fold(1, |all, w| all & w) == 0 {
                    return Ok(Some(load_apart::<WIDTH>(block, mask, addresses, into)));
                }
            }
            // SAFETY: `one_allocation` checked that every lane's bytes lie in the allocation, which lives through the launch.
            unsafe {
                std::ptr::copy_nonoverlapping(a.data.pointer().add(start), into.as_mut_ptr(), LANES * WIDTH);
            }
        }
        Some(a) if a.written.as_ref().is_none_or(|written| all_written::<WIDTH>(written, addresses)) => {
            // Inactive lanes are settled on an active one's address; what they get goes nowhere.
            for lane in 0..LANES {
                let start = Global::offset(addresses[lane]) as usize;
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
        _ => return Ok(Some(load_apart::<WIDTH>(block, mask, addresses, into)).filter(|holes| holes.any())),
    }
    Ok(None)
}

/// Whether every lane's bytes, known to lie in the allocation, were written.
#[inline(always)]
pub(crate) fn all_written<const WIDTH: usize>(written: &Buffer, addresses: &R64) -> bool {
    let mut known = u128::MAX;
    for address in addresses {
        let start = Global::offset(*address) as usize;
        // SAFETY: the shadow is as long as the allocation's data.
        known &= integer::<WIDTH>(unsafe { std::slice::from_raw_parts(written.pointer().add(start), WIDTH) });
    }
    known & ones::<WIDTH>() == ones::<WIDTH>()
}

/// `WIDTH` bytes as one number.
#[inline(always)]
pub(crate) fn integer<const WIDTH: usize>(bytes: &[u8]) -> u128 {
    let mut value = [0; 16];
    value[..WIDTH].copy_from_slice(&bytes[..WIDTH]);
    u128::from_le_bytes(value)
}

/// A one in each of `WIDTH` bytes.
#[inline(always)]
pub(crate) const fn ones<const WIDTH: usize>() -> u128 {
    (u128::MAX / 255) >> (8 * (16 - WIDTH))
}

/// Loads lane by lane, where lanes fall into several allocations or into bytes that nobody wrote; says which those are.
#[cold]
#[inline(never)]
fn load_apart<const WIDTH: usize>(block: &Block<'_>, mask: u32, addresses: &R64, into: &mut Payload) -> Box<Holes> {
    let mut holes = Box::new(Holes::new("global"));
    for lane in race::lanes(mask) {
        let Some(a) = block.launch.memory.find(addresses[lane]) else { continue };
        let start = Global::offset(addresses[lane]) as usize;
        if let Some(written) = &a.written {
            let known = &written.slice()[start..start + WIDTH];
            holes.add(lane * WIDTH, known, addresses[lane], || Some(a.name.clone()));
        }
        // SAFETY: `one_allocation` checked that every lane's bytes lie in an allocation, which lives through the launch.
        unsafe {
            std::ptr::copy_nonoverlapping(a.data.pointer().add(start), into.as_mut_ptr().add(lane * WIDTH), WIDTH);
        }
    }
    holes
}

pub(super) fn padded<const WIDTH: usize>(from: &Payload, lane: usize) -> [u8; 16] {
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
        allocation,
        Some(&values),
    )?;
    let (touched, ideal) = sectors::<WIDTH>(addresses, mask);
    block.counters.global_store_requests += 1;
    block.counters.global_store_sectors += touched;
    block.counters.global_store_ideal_sectors += ideal;
    block.counters.global_store_bytes += u64::from(mask.count_ones()) * WIDTH as u64;
    caches::count(block, caches::Access::Store, addresses.iter().map(|&at| (at, WIDTH as u32)));
    let whole = mask == FULL && in_a_row(addresses, WIDTH);
    if let Some(allocation) = allocation {
        block.launch.memory.about_to_write(allocation, addresses[0]);
    }
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
                block.launch.memory.about_to_write(a, addresses[lane]);
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
#[inline(always)]
pub(crate) fn global_atomic<const WIDTH: usize>(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &R64,
    order: Order,
    reads: bool,
) -> Step {
    let addresses = &settled(addresses, mask);
    let one = one_allocation::<WIDTH>(block, warp, mask, addresses, Deed::Atomic)?;
    let width = WIDTH as u32;
    race::global_store(block, warp.index, mask, addresses, width, order.strength, true, order.release, one, None)?;
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
) -> Result<Option<Box<Holes>>, Fault> {
    block.counters.local_accesses += u64::from(mask.count_ones());
    let mut holes: Option<Box<Holes>> = None;
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let range = local_range(block, warp, lane, addresses[lane], WIDTH, Deed::Load)?;
        if let Some(known) = warp.local_written.get(range.clone())
            && known.contains(&0)
        {
            let all = holes.get_or_insert_with(|| Box::new(Holes::new("local")));
            all.add(lane * WIDTH, known, addresses[lane], || None);
        }
        if let Some(bytes) = warp.local.get(range) {
            into[lane * WIDTH..(lane + 1) * WIDTH].copy_from_slice(bytes);
        }
    }
    Ok(holes)
}

/// What a store has just put into a lane's local memory is undefined where `holes` is not zero.
pub(super) fn local_unwrite(block: &Block<'_>, warp: &mut Warp, lane: usize, address: u64, holes: &[u8]) {
    let Ok(range) = local_range(block, warp, lane, address, holes.len(), Deed::Store) else { return };
    if let Some(written) = warp.local_written.get_mut(range) {
        written.iter_mut().zip(holes).for_each(|(written, hole)| *written &= u8::from(*hole == 0));
    }
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
) -> Result<Option<Box<Holes>>, Fault> {
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
    Ok(None)
}
