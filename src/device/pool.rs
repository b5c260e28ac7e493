//! A caching pool of device memory: a freed block is handed out again in stream order, without asking the driver.
//!
//! Sizes are rounded up to classes, eight a power of two, so at most an eighth is wasted and tensors of nearby sizes share
//! blocks. When the device is full, kept blocks are given back and the request is tried once more before it fails; a
//! failure names what was asked, held and free, and leaves everything as it was. During capture nothing can be given back, so
//! kept blocks are before: what fits eagerly fits captured. Blocks a captured graph used stay
//! its own: no later tensor may be put where a replay writes.

use std::collections::{BTreeMap, HashMap};

/// The allocator below: the driver's.
pub trait Source {
    type Error;
    /// `Ok(None)` where the device has no such block left.
    fn take(&mut self, bytes: u64) -> Result<Option<u64>, Self::Error>;
    /// Called only after everything queued is done.
    fn give_back(&mut self, address: u64);
    /// Waits until everything queued is done.
    fn wait(&mut self);
    /// Free and total bytes of the device.
    fn room(&self) -> (u64, u64);
}

/// Who may be handed a free block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Owner {
    Anyone,
    /// A captured graph, by number.
    Graph(u64),
}

#[derive(Clone, Copy, Debug)]
struct Block {
    class: u64,
    owner: Owner,
}

/// Why an allocation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full {
    pub asked_bytes: u64,
    /// By tensors and graphs.
    pub held_bytes: u64,
    pub free_bytes: u64,
    pub total_bytes: u64,
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        write!(
            f,
            "out of memory: {:.3} GiB asked, {:.3} GiB held, {:.3} of {:.3} GiB free; use a smaller batch",
            gib(self.asked_bytes),
            gib(self.held_bytes),
            gib(self.free_bytes),
            gib(self.total_bytes)
        )
    }
}

pub enum Failure<E> {
    Full(Full),
    Source(E),
}

#[derive(Default)]
pub struct Pool {
    free: BTreeMap<(Owner, u64), Vec<u64>>,
    live: HashMap<u64, Block>,
    used_bytes: u64,
    kept_bytes: u64,
    peak_bytes: u64,
    capture: Option<u64>,
    graphs: u64,
}

impl Pool {
    /// Memory for `bytes`, of unspecified content.
    pub fn alloc<S: Source>(&mut self, bytes: u64, source: &mut S) -> Result<u64, Failure<S::Error>> {
        let class = size_class(bytes);
        let owner = self.capture.map_or(Owner::Anyone, Owner::Graph);
        let address = match self.reuse(owner, class) {
            Some(address) => address,
            None => self.take(class, bytes, source)?,
        };
        self.live.insert(address, Block { class, owner });
        self.used_bytes += class;
        self.peak_bytes = self.peak_bytes.max(self.used_bytes);
        Ok(address)
    }

    /// A kept block of this class: the owner's own before anyone's.
    fn reuse(&mut self, owner: Owner, class: u64) -> Option<u64> {
        for owner in [owner, Owner::Anyone] {
            if let Some(address) = self.free.get_mut(&(owner, class)).and_then(Vec::pop) {
                self.kept_bytes -= class;
                return Some(address);
            }
        }
        None
    }

    fn take<S: Source>(&mut self, class: u64, asked: u64, source: &mut S) -> Result<u64, Failure<S::Error>> {
        if let Some(address) = source.take(class).map_err(Failure::Source)? {
            return Ok(address);
        }
        // During capture, nothing may wait and nothing is given back.
        if self.capture.is_none()
            && self.trim(source) > 0
            && let Some(address) = source.take(class).map_err(Failure::Source)?
        {
            return Ok(address);
        }
        let (free_bytes, total_bytes) = source.room();
        let held_bytes = self.used_bytes + self.kept_bytes;
        Err(Failure::Full(Full { asked_bytes: asked, held_bytes, free_bytes, total_bytes }))
    }

    /// Keeps a block for the next who asks. False where the pool does not know the address.
    pub fn free(&mut self, address: u64) -> bool {
        let Some(Block { class, owner }) = self.live.remove(&address) else { return false };
        self.used_bytes -= class;
        self.kept_bytes += class;
        // What is freed during capture was read or written by the graph.
        let owner = self.capture.map_or(owner, Owner::Graph);
        self.free.entry((owner, class)).or_default().push(address);
        true
    }

    /// Gives back what nobody uses and returns how many bytes that was.
    pub fn trim<S: Source>(&mut self, source: &mut S) -> u64 {
        let mut given = 0;
        for ((_, class), blocks) in self.free.iter_mut().filter(|((owner, _), _)| *owner == Owner::Anyone) {
            if !blocks.is_empty() && given == 0 {
                source.wait();
            }
            given += class * blocks.len() as u64;
            blocks.drain(..).for_each(|address| source.give_back(address));
        }
        self.kept_bytes -= given;
        given
    }

    /// Gives back what nobody uses; from here on blocks belong to a new graph, whose number is returned.
    pub fn begin_capture<S: Source>(&mut self, source: &mut S) -> u64 {
        self.trim(source);
        self.graphs += 1;
        self.capture = Some(self.graphs);
        self.graphs
    }

    pub fn end_capture(&mut self) {
        self.capture = None;
    }

    /// The graph is gone: its blocks are anyone's.
    pub fn forget_graph(&mut self, number: u64) {
        let theirs = Owner::Graph(number);
        let classes: Vec<u64> =
            self.free.keys().filter(|(owner, _)| *owner == theirs).map(|(_, class)| *class).collect();
        for class in classes {
            let blocks = self.free.remove(&(theirs, class)).unwrap_or_default();
            self.free.entry((Owner::Anyone, class)).or_default().extend(blocks);
        }
        self.live.values_mut().filter(|block| block.owner == theirs).for_each(|block| block.owner = Owner::Anyone);
    }

    /// Every block, kept or not: for when the device is closed.
    pub fn into_addresses(self) -> impl Iterator<Item = u64> {
        self.free.into_values().flatten().chain(self.live.into_keys())
    }

    /// Owned by tensors, the most ever owned, and all that was taken from the device.
    pub fn usage(&self) -> (u64, u64, u64) {
        (self.used_bytes, self.peak_bytes, self.used_bytes + self.kept_bytes)
    }
}

/// The size a request is rounded up to: multiples of 512 bytes, then eight steps a power of two.
pub fn size_class(bytes: u64) -> u64 {
    const SMALLEST: u64 = 512;
    let bytes = bytes.max(1);
    let step = (bytes.next_power_of_two() / 16).max(SMALLEST);
    bytes.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device of a few kilobytes.
    struct Device {
        capacity: u64,
        taken: HashMap<u64, u64>,
        next: u64,
        calls: u64,
    }

    impl Source for Device {
        type Error = ();
        fn take(&mut self, bytes: u64) -> Result<Option<u64>, ()> {
            self.calls += 1;
            if self.taken.values().sum::<u64>() + bytes > self.capacity {
                return Ok(None);
            }
            self.next += 1 << 20;
            self.taken.insert(self.next, bytes);
            Ok(Some(self.next))
        }
        fn give_back(&mut self, address: u64) {
            assert!(self.taken.remove(&address).is_some());
        }
        fn wait(&mut self) {}
        fn room(&self) -> (u64, u64) {
            (self.capacity - self.taken.values().sum::<u64>(), self.capacity)
        }
    }

    fn device(capacity: u64) -> Device {
        Device { capacity, taken: HashMap::new(), next: 0, calls: 0 }
    }

    fn alloc(pool: &mut Pool, device: &mut Device, bytes: u64) -> u64 {
        pool.alloc(bytes, device).unwrap_or_else(|_| panic!("{bytes} bytes"))
    }

    #[test]
    fn classes_waste_at_most_an_eighth_of_large_blocks() {
        for bytes in (1..200).map(|i| i * i * 977 + 8192) {
            let class = size_class(bytes);
            assert!(class >= bytes && (class - bytes) * 8 <= bytes, "{bytes} becomes {class}");
            assert_eq!(size_class(class), class);
        }
        assert_eq!((size_class(0), size_class(1), size_class(513)), (512, 512, 1024));
    }

    /// A step's blocks of one class lie free where a captured one asks for another.
    #[test]
    fn a_step_that_fits_eagerly_fits_in_a_capture() {
        let (mut pool, mut device) = (Pool::default(), device(8192));
        let step = |pool: &mut Pool, device: &mut Device| {
            let a = alloc(pool, device, 6144);
            pool.free(a);
        };
        let other = alloc(&mut pool, &mut device, 5120);
        pool.free(other);
        step(&mut pool, &mut device);
        let other = alloc(&mut pool, &mut device, 5120);
        pool.free(other);
        pool.begin_capture(&mut device);
        step(&mut pool, &mut device);
        pool.end_capture();
        assert_eq!(pool.usage(), (0, 6144, 6144));
    }

    #[test]
    fn freed_blocks_are_handed_out_again() {
        let (mut pool, mut device) = (Pool::default(), device(1 << 20));
        let a = alloc(&mut pool, &mut device, 1000);
        assert!(pool.free(a) && !pool.free(a));
        assert_eq!(alloc(&mut pool, &mut device, 900), a);
        assert_eq!(device.calls, 1);
        assert_eq!(pool.usage(), (1024, 1024, 1024));
    }

    #[test]
    fn a_full_device_gets_kept_blocks_back_then_fails_with_numbers_and_goes_on() {
        let (mut pool, mut device) = (Pool::default(), device(8192));
        let a = alloc(&mut pool, &mut device, 4096);
        let b = alloc(&mut pool, &mut device, 2048);
        pool.free(a);
        // The kept 4096 do not fit 5120, but given back they make room.
        let c = alloc(&mut pool, &mut device, 5120);
        assert_eq!(device.taken.len(), 2);
        let Err(Failure::Full(full)) = pool.alloc(4000, &mut device) else { panic!("there is no room") };
        assert_eq!(full, Full { asked_bytes: 4000, held_bytes: 7168, free_bytes: 1024, total_bytes: 8192 });
        pool.free(c);
        pool.free(b);
        alloc(&mut pool, &mut device, 4096);
    }

    #[test]
    fn what_a_graph_used_stays_its_own_until_it_is_gone() {
        let (mut pool, mut device) = (Pool::default(), device(1 << 20));
        let before = alloc(&mut pool, &mut device, 4096);
        let number = pool.begin_capture(&mut device);
        let scratch = alloc(&mut pool, &mut device, 512);
        pool.free(scratch);
        assert_eq!(alloc(&mut pool, &mut device, 512), scratch, "reused within the capture");
        pool.free(scratch);
        let result = alloc(&mut pool, &mut device, 2048);
        pool.free(before);
        pool.end_capture();
        for taken in [before, scratch] {
            let fresh = alloc(&mut pool, &mut device, if taken == before { 4096 } else { 512 });
            assert_ne!(fresh, taken);
        }
        // The result's tensor goes, the graph still writes there.
        pool.free(result);
        assert_ne!(alloc(&mut pool, &mut device, 2048), result);
        pool.forget_graph(number);
        assert_eq!(alloc(&mut pool, &mut device, 2048), result);
    }
}
