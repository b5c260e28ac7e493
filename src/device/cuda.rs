//! The [`Driver`] that is NVIDIA's: one GPU through the driver API, loaded when asked for. With the files below `cuda/`, the
//! only one that names cudarc.
//!
//! Nothing of a toolkit is needed to build or to run; a driver of R525 or newer is. Work goes to one explicit stream, copies
//! between host and device go through pinned staging memory on a second one, ordered against the first by events. The PTX of
//! an entry is compiled when it is first used, or before that in parallel with others. Memory comes from a caching [`Pool`]; captured steps become CUDA graphs.
//!
//! `ISG_CUDA_SYNC=1` waits after every launch, so that a fault names its kernel.

pub mod errors;
pub mod jit;
mod library;
mod tensor_map;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    ffi::{CString, c_char, c_int, c_void},
    ptr::null_mut,
    rc::Rc,
    time::Instant,
};

use cudarc::driver::sys;
use rayon::prelude::*;

use self::{
    errors::{check, sentence},
    jit::{Made, Maker},
    library::probe,
};
use super::{
    driver::{
        Attributes, CapturedGraph, DeviceProps, DevicePtr, Driver, KernelEntry, LaunchConfig, Memory, Pattern,
        TensorMap,
    },
    images::Images,
    loads::{self, Load, Origin},
    module::Module,
    pool::{Failure, Pool, Source},
};
use crate::error::{Error, Result};

/// Staging memory: pieces of this size, this many.
const PIECE_BYTES: usize = 4 << 20;
const PIECES: usize = 4;

/// One NVIDIA GPU.
pub struct Cuda(Rc<Context>);

struct Context {
    name: String,
    props: DeviceProps,
    device: sys::CUdevice,
    context: sys::CUcontext,
    /// Whether context and stream are ours to give back.
    owned: bool,
    stream: sys::CUstream,
    copies: Copies,
    pool: RefCell<Pool>,
    images: Images,
    /// One for each entry.
    modules: RefCell<Vec<sys::CUmodule>>,
    entries: RefCell<Vec<Entry>>,
    /// By the module's address: two crates may call theirs the same.
    by_name: RefCell<HashMap<(*const Module, String), KernelEntry>>,
    capture: Cell<Option<Capture>>,
    wait_always: bool,
}

/// A kernel that is ready.
struct Entry {
    function: sys::CUfunction,
    name: String,
    /// Shared memory beside what a launch asks for.
    static_bytes: u32,
    /// The dynamic shared memory that it was prepared for last.
    settled: Cell<Option<u32>>,
}

/// Shared memory that a launch may ask for without the kernel being told.
const UNASKED_SHARED_BYTES: u32 = 48 << 10;

/// How an SM's memory is split between shared memory and first-level cache for blocks of so much shared memory, in percent of the
/// most; `None` where the driver may choose. Kernels without any live by the cache, tiled ones by how many blocks fit.
fn carve_out(block_bytes: u32) -> Option<c_int> {
    const TILED: u32 = 16 << 10;
    match block_bytes {
        0 => Some(0),
        TILED.. => Some(100),
        _ => None,
    }
}

impl Entry {
    /// Before the first launch with so much dynamic shared memory.
    fn settle(&self, dynamic_bytes: u32) -> Result<()> {
        use sys::CUfunction_attribute as Attribute;
        if self.settled.get() == Some(dynamic_bytes) {
            return Ok(());
        }
        let set = |which: Attribute, value: c_int| {
            // SAFETY: the function is of a loaded module.
            check(unsafe { sys::cuFuncSetAttribute(self.function, which, value) }, &format!("preparing {}", self.name))
        };
        if self.static_bytes + dynamic_bytes > UNASKED_SHARED_BYTES {
            set(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, dynamic_bytes as c_int)?;
        }
        if let Some(percent) = carve_out(self.static_bytes + dynamic_bytes) {
            set(Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, percent)?;
        }
        self.settled.set(Some(dynamic_bytes));
        Ok(())
    }
}

/// A capture under way.
#[derive(Clone, Copy)]
struct Capture {
    /// The pool's number for it.
    number: u64,
    /// Counts replays, in device memory.
    replay_counter: DevicePtr,
}

/// The copy stream, its staging memory, and the events that order it against the main stream.
struct Copies {
    stream: sys::CUstream,
    pieces: RefCell<Vec<Piece>>,
    next: Cell<usize>,
    /// Capture on the main stream where the copy stream waits for it.
    main_done: sys::CUevent,
    /// Capture on the copy stream where the main stream waits for it.
    copied: sys::CUevent,
}

/// Pinned memory and the event after which it is free again.
#[derive(Clone, Copy)]
struct Piece {
    memory: *mut u8,
    done: sys::CUevent,
}

impl Cuda {
    /// The GPU of that number.
    pub fn open(index: u32) -> Result<Rc<Cuda>> {
        probe()?;
        let mut count = 0;
        // SAFETY: `probe` has found every function used here and below; results go to locals that outlive the calls.
        check(unsafe { sys::cuDeviceGetCount(&mut count) }, "counting GPUs")?;
        if count == 0 {
            return Err(Error::Device(format!("cuda: {}", sentence(100))));
        }
        let ordinal = c_int::try_from(index).ok().filter(|index| *index < count);
        let ordinal = ordinal
            .ok_or_else(|| Error::Device(format!("cuda:{index}: there are {count} GPUs here, numbered from 0")))?;
        let mut device = 0;
        let mut context = null_mut();
        // SAFETY: as above.
        unsafe {
            check(sys::cuDeviceGet(&mut device, ordinal), "opening the GPU")?;
            check(sys::cuDevicePrimaryCtxRetain(&mut context, device), "opening a context on the GPU")?;
        }
        Cuda::on(device, context, None)
    }

    /// Runs on a context and stream that another library made, and gives neither back.
    ///
    /// # Safety
    /// `context` is a live `CUcontext` of GPU number `index` and `stream` a live `CUstream` of it; both outlive this device
    /// and all its tensors, and the stream is not one that is captured.
    pub unsafe fn adopt(index: u32, context: *mut c_void, stream: *mut c_void) -> Result<Rc<Cuda>> {
        probe()?;
        let mut device = 0;
        let ordinal = c_int::try_from(index).unwrap_or(c_int::MAX);
        // SAFETY: `probe` has found the function; the result goes to a local.
        check(unsafe { sys::cuDeviceGet(&mut device, ordinal) }, "opening the GPU")?;
        Cuda::on(device, context.cast(), Some(stream.cast()))
    }

    fn on(device: sys::CUdevice, context: sys::CUcontext, stream: Option<sys::CUstream>) -> Result<Rc<Cuda>> {
        use sys::CUdevice_attribute as Attribute;
        let attribute = |which: Attribute| {
            let mut value = 0;
            // SAFETY: as in `open`.
            check(unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) }, "asking what the GPU is")
                .map(|()| value as u32)
        };
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let props = DeviceProps {
            capability,
            num_sms: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        };
        let mut name = [0 as c_char; 256];
        // SAFETY: the buffer is as long as said.
        check(unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 256, device) }, "asking the GPU's name")?;
        let name: Vec<u8> = name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
        let name = String::from_utf8_lossy(&name).into_owned();
        if capability < (8, 0) {
            let (major, minor) = capability;
            return Err(Error::Device(format!(
                "cuda: {name} has compute capability {major}.{minor}; the kernels need 8.0 (Ampere) or newer"
            )));
        }
        // The release of the kernel module tells drivers of one CUDA version apart.
        let release = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
        let compiler = format!("{} {release} {capability:?}", cuda_version()?);
        let owned = stream.is_none();
        // SAFETY: the context is live: retained by `open`, or promised by `adopt`'s caller.
        check(unsafe { sys::cuCtxSetCurrent(context) }, "entering the context")?;
        let stream = stream.map_or_else(new_stream, Ok)?;
        let copies = Copies {
            stream: new_stream()?,
            pieces: RefCell::default(),
            next: Cell::new(0),
            main_done: new_event(false)?,
            copied: new_event(false)?,
        };
        Ok(Rc::new(Cuda(Rc::new(Context {
            name,
            props,
            device,
            context,
            owned,
            stream,
            copies,
            pool: RefCell::default(),
            images: Images::from_env(&compiler),
            modules: RefCell::default(),
            entries: RefCell::default(),
            by_name: RefCell::default(),
            capture: Cell::new(None),
            wait_always: std::env::var_os("ISG_CUDA_SYNC").is_some_and(|value| value == "1"),
        }))))
    }

    /// The `CUcontext` and `CUstream` everything here uses, for libraries that join in.
    pub fn raw(&self) -> (*mut c_void, *mut c_void) {
        (self.0.context.cast(), self.0.stream.cast())
    }

    /// The newest CUDA the driver knows, as people write it.
    pub fn cuda_version(&self) -> Result<String> {
        cuda_version()
    }

    /// How many entries are ready to be launched.
    pub fn loaded(&self) -> usize {
        self.0.entries.borrow().len()
    }
}

fn cuda_version() -> Result<String> {
    let mut version = 0;
    // SAFETY: the driver is loaded and the result goes to a local.
    check(unsafe { sys::cuDriverGetVersion(&mut version) }, "asking the driver's version")?;
    Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
}

fn new_stream() -> Result<sys::CUstream> {
    let mut stream = null_mut();
    // SAFETY: a context is current and the result goes to a local. Flag 1: does not wait for the legacy default stream.
    check(unsafe { sys::cuStreamCreate(&mut stream, 1) }, "making a stream").map(|()| stream)
}

fn new_event(timed: bool) -> Result<sys::CUevent> {
    let mut event = null_mut();
    // SAFETY: as above. Flag 2: no timestamps, cheaper.
    check(unsafe { sys::cuEventCreate(&mut event, if timed { 0 } else { 2 }) }, "making an event").map(|()| event)
}

fn attributes(function: sys::CUfunction) -> Result<Attributes> {
    use sys::CUfunction_attribute as Attribute;
    let ask = |which: Attribute| {
        let mut value = 0;
        // SAFETY: the function is of a loaded module and the result goes to a local.
        check(unsafe { sys::cuFuncGetAttribute(&mut value, which, function) }, "asking about a kernel")
            .map(|()| value as u32)
    };
    Ok(Attributes {
        registers: ask(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
        local_bytes: ask(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
        shared_bytes: ask(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
        most_threads: ask(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
    })
}

/// One thread fills pinned memory at 5 to 10 GB/s, a fraction of what the bus takes.
fn copy_by_threads(from: &[u8], to: &mut [u8]) {
    const PART: usize = 256 << 10;
    to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| to.copy_from_slice(from));
}

/// The driver as the pool's source.
struct Raw<'a>(&'a Context);

impl Source for Raw<'_> {
    type Error = Error;

    fn take(&mut self, bytes: u64) -> Result<Option<u64>> {
        let mut address = 0;
        // SAFETY: the context is current and the result goes to a local.
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes as usize) } {
            result if result as u32 == 2 => Ok(None),
            result => check(result, "taking memory").map(|()| Some(address)),
        }
    }

    fn give_back(&mut self, address: u64) {
        // SAFETY: from `take`, given back once, and the pool has waited for the work that used it. A failure here can only
        // repeat one that a launch has reported already.
        let _ = unsafe { sys::cuMemFree_v2(address) };
    }

    fn wait(&mut self) {
        // SAFETY: both streams are live. As above for failures.
        let _ = unsafe { (sys::cuStreamSynchronize(self.0.stream), sys::cuStreamSynchronize(self.0.copies.stream)) };
    }

    fn room(&self) -> (u64, u64) {
        let (mut free, mut total) = (0, 0);
        // SAFETY: results go to locals; on failure they stay zero.
        let _ = unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) };
        (free as u64, total as u64)
    }
}

impl Context {
    /// Makes the context this thread's own. Cheap where it is already.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context is live as long as `self`.
        check(unsafe { sys::cuCtxSetCurrent(self.context) }, "entering the context")
    }

    fn reject_in_capture(&self, what: &str) -> Result<()> {
        if self.capture.get().is_some() {
            return Err(Error::Device(format!("cuda: a captured step cannot {what}; do it before or after")));
        }
        Ok(())
    }

    /// The next piece of staging memory, free to be used.
    fn piece(&self) -> Result<Piece> {
        let mut pieces = self.copies.pieces.borrow_mut();
        if pieces.len() < PIECES {
            let mut memory = null_mut();
            // SAFETY: a context is current and the result goes to a local.
            check(unsafe { sys::cuMemHostAlloc(&mut memory, PIECE_BYTES, 0) }, "taking pinned host memory")?;
            pieces.push(Piece { memory: memory.cast(), done: new_event(false)? });
            return Ok(pieces[pieces.len() - 1]);
        }
        let next = self.copies.next.get();
        self.copies.next.set((next + 1) % PIECES);
        // SAFETY: the event is live; it was recorded by the piece's last use.
        check(unsafe { sys::cuEventSynchronize(pieces[next].done) }, "copying")?;
        Ok(pieces[next])
    }

    /// Copies queued from here on see what the main stream has done so far.
    fn copies_after_main(&self) -> Result<()> {
        // SAFETY: event and streams are live.
        unsafe {
            check(sys::cuEventRecord(self.copies.main_done, self.stream), "copying")?;
            check(sys::cuStreamWaitEvent(self.copies.stream, self.copies.main_done, 0), "copying")
        }
    }

    /// Work queued on the main stream from here on sees what was copied so far.
    fn main_after_copies(&self) -> Result<()> {
        // SAFETY: event and streams are live.
        unsafe {
            check(sys::cuEventRecord(self.copies.copied, self.copies.stream), "copying")?;
            check(sys::cuStreamWaitEvent(self.stream, self.copies.copied, 0), "copying")
        }
    }

    /// Makes an image an entry: what its first launch waits for.
    fn add(&self, module: &'static Module, kernel: &str, made: Made) -> Result<KernelEntry> {
        let Made { ptx, mut image, mut origin, mut took } = made;
        let start = Instant::now();
        let loaded = match jit::load(kernel, &image) {
            // Whole, and yet not this driver's: compiled again.
            Err(_) if origin == Origin::Cached => {
                image = jit::compile(self.context, kernel, module.arch, &ptx)?;
                self.images.put(&ptx, &image);
                origin = Origin::Compiled;
                jit::load(kernel, &image)?
            }
            loaded => loaded?,
        };
        self.modules.borrow_mut().push(loaded);
        let symbol = CString::new(kernel).map_err(|_| Error::Device(format!("cuda: {kernel:?} names no kernel")))?;
        let mut function = null_mut();
        // SAFETY: the module is loaded, the name zero-terminated.
        let found = unsafe { sys::cuModuleGetFunction(&mut function, loaded, symbol.as_ptr()) };
        check(found, &format!("module {} has no entry {kernel}", module.name))?;
        let static_bytes = attributes(function)?.shared_bytes;
        let mut entries = self.entries.borrow_mut();
        let entry = KernelEntry(entries.len() as u64);
        entries.push(Entry { function, name: kernel.to_string(), static_bytes, settled: Cell::new(None) });
        self.by_name.borrow_mut().insert((std::ptr::from_ref(module), kernel.to_string()), entry);
        took += start.elapsed();
        loads::record(Load { entry: kernel.to_string(), origin, took, log: image.log });
        Ok(entry)
    }
}

impl Context {
    fn maker(&self) -> Maker<'_> {
        let Context { context, ref images, props, ref name, .. } = *self;
        Maker { context, images, capability: props.capability, device: name }
    }
}

impl Driver for Cuda {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn props(&self) -> DeviceProps {
        self.0.props
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        self.0.enter()?;
        let address = self.0.pool.borrow_mut().alloc(bytes as u64, &mut Raw(&self.0));
        address.map(DevicePtr).map_err(|failure| match failure {
            Failure::Full(full) => Error::Device(format!("cuda: {full}")),
            Failure::Source(error) => error,
        })
    }

    unsafe fn free(&self, ptr: DevicePtr) {
        let known = self.0.pool.borrow_mut().free(ptr.0);
        debug_assert!(known, "memory is freed once, to the device it came from");
    }

    unsafe fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        let context = &*self.0;
        context.reject_in_capture("copy from the host")?;
        context.enter()?;
        context.copies_after_main()?;
        for (i, chunk) in from.chunks(PIECE_BYTES).enumerate() {
            let piece = context.piece()?;
            let at = to.offset_bytes(i * PIECE_BYTES);
            // SAFETY: the piece is PIECE_BYTES long and no copy uses it; `to` is as long as `from`, by the caller; the event
            // is recorded behind the copy, so the piece is not reused before it is done.
            unsafe {
                copy_by_threads(chunk, std::slice::from_raw_parts_mut(piece.memory, chunk.len()));
                let stream = context.copies.stream;
                check(sys::cuMemcpyHtoDAsync_v2(at.0, piece.memory.cast(), chunk.len(), stream), "copying to the GPU")?;
                check(sys::cuEventRecord(piece.done, stream), "copying to the GPU")?;
            }
        }
        context.main_after_copies()
    }

    unsafe fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        let context = &*self.0;
        context.reject_in_capture("copy to the host")?;
        context.enter()?;
        context.copies_after_main()?;
        let arrive = |(piece, chunk): (Piece, &mut [u8])| {
            // SAFETY: the event was recorded behind the copy into this piece, which holds the chunk's bytes once it is done.
            unsafe {
                check(sys::cuEventSynchronize(piece.done), "copying from the GPU")?;
                std::ptr::copy_nonoverlapping(piece.memory, chunk.as_mut_ptr(), chunk.len());
            }
            Ok(())
        };
        // One piece arrives while the next is on its way.
        let mut under_way: Option<(Piece, &mut [u8])> = None;
        for (i, chunk) in to.chunks_mut(PIECE_BYTES).enumerate() {
            let piece = context.piece()?;
            let at = from.offset_bytes(i * PIECE_BYTES);
            // SAFETY: as in `upload`, the other way round.
            unsafe {
                let stream = context.copies.stream;
                let copy = sys::cuMemcpyDtoHAsync_v2(piece.memory.cast(), at.0, chunk.len(), stream);
                check(copy, "copying from the GPU")?;
                check(sys::cuEventRecord(piece.done, stream), "copying from the GPU")?;
            }
            if let Some(before) = under_way.replace((piece, chunk)) {
                arrive(before)?;
            }
        }
        under_way.map_or(Ok(()), arrive)
    }

    unsafe fn fill(&self, to: DevicePtr, pattern: Pattern, count: usize) -> Result<()> {
        self.0.enter()?;
        let stream = self.0.stream;
        // SAFETY: `to` is from `alloc` and as long as `count` patterns, by the caller.
        let result = unsafe {
            match pattern {
                _ if count == 0 => return Ok(()),
                Pattern::Bits8(v) => sys::cuMemsetD8Async(to.0, v, count, stream),
                Pattern::Bits16(v) => sys::cuMemsetD16Async(to.0, v, count, stream),
                Pattern::Bits32(v) => sys::cuMemsetD32Async(to.0, v, count, stream),
            }
        };
        check(result, "filling memory")
    }

    unsafe fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.0.enter()?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: both ranges are from `alloc` and as long as `bytes`, by the caller.
        check(unsafe { sys::cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, self.0.stream) }, "copying on the GPU")
    }

    fn entry(&self, module: &'static Module, kernel: &str) -> Result<KernelEntry> {
        let context = &*self.0;
        if let Some(entry) = context.by_name.borrow().get(&(std::ptr::from_ref(module), kernel.to_string())) {
            return Ok(*entry);
        }
        context.reject_in_capture(&format!("load {kernel} for the first time"))?;
        context.enter()?;
        context.add(module, kernel, context.maker().make(module, kernel)?)
    }

    fn compiles(&self) -> bool {
        true
    }

    fn preload(&self, wanted: &[(&'static Module, String)]) -> Result<()> {
        let context = &*self.0;
        let missing: Vec<_> = {
            let known = context.by_name.borrow();
            wanted
                .iter()
                .filter(|(module, kernel)| !known.contains_key(&(std::ptr::from_ref(*module), kernel.clone())))
                .collect()
        };
        let maker = context.maker();
        let made: Vec<Result<Made>> = missing.par_iter().map(|(module, kernel)| maker.make(module, kernel)).collect();
        context.enter()?;
        missing
            .into_iter()
            .zip(made)
            .try_for_each(|((module, kernel), made)| context.add(module, kernel, made?).map(|_| ()))
    }

    unsafe fn launch(&self, entry: KernelEntry, config: LaunchConfig, params: &[u8]) -> Result<()> {
        let context = &*self.0;
        context.enter()?;
        let entries = context.entries.borrow();
        let entry = &entries[entry.0 as usize];
        let LaunchConfig { grid, block, shared_bytes } = config;
        entry.settle(shared_bytes)?;
        let Entry { function, name, .. } = entry;
        let mut arguments = [params.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the function is live; `params` is its one parameter, by the caller, and is copied by the call.
        let queued = unsafe {
            sys::cuLaunchKernel(
                *function,
                grid[0],
                grid[1],
                grid[2],
                block[0],
                block[1],
                block[2],
                shared_bytes,
                context.stream,
                arguments.as_mut_ptr(),
                null_mut(),
            )
        };
        check(queued, &format!("{name} on {grid:?} blocks of {block:?} threads with {shared_bytes} shared bytes"))?;
        if context.wait_always && context.capture.get().is_none() {
            // SAFETY: the stream is live.
            check(unsafe { sys::cuStreamSynchronize(context.stream) }, &format!("{name} on {grid:?} blocks"))?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.0.reject_in_capture("wait for itself")?;
        self.0.enter()?;
        // SAFETY: the stream is live, and waits for the copy stream where it uses what was copied.
        check(unsafe { sys::cuStreamSynchronize(self.0.stream) }, "waiting for the GPU")
    }

    fn begin_capture(&self) -> Result<()> {
        let context = &*self.0;
        context.reject_in_capture("capture another")?;
        context.enter()?;
        let number = context.pool.borrow_mut().begin_capture(&mut Raw(context));
        // Relaxed: where the pool has no block of a size, asking the driver for one is no part of the graph and is allowed.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is live and not capturing.
        let begun = check(unsafe { sys::cuStreamBeginCapture_v2(context.stream, mode) }, "capturing");
        begun.inspect_err(|_| context.pool.borrow_mut().end_capture())?;
        context.capture.set(Some(Capture { number, replay_counter: DevicePtr::NULL }));
        match self.alloc(size_of::<u32>()) {
            Ok(replay_counter) => {
                context.capture.set(Some(Capture { number, replay_counter }));
                Ok(())
            }
            // Ends the capture, then says why there was none.
            Err(error) => self.end_capture().and(Err(error)),
        }
    }

    fn end_capture(&self) -> Result<Box<dyn CapturedGraph>> {
        let context = &*self.0;
        let Some(Capture { number, replay_counter }) = context.capture.take() else {
            return Err(Error::Device("cuda: nothing is being captured".to_string()));
        };
        {
            let mut pool = context.pool.borrow_mut();
            // Kept for this graph alone until it is gone.
            pool.free(replay_counter.0);
            pool.end_capture();
        }
        let forget = |error| {
            context.pool.borrow_mut().forget_graph(number);
            error
        };
        let mut graph = null_mut();
        // SAFETY: the stream is capturing; the result goes to a local.
        check(unsafe { sys::cuStreamEndCapture(context.stream, &mut graph) }, "capturing").map_err(forget)?;
        let (mut steps, mut exec) = (0, null_mut());
        // SAFETY: the graph is live until destroyed here; the executable form does not need it.
        let made = unsafe {
            let made = check(sys::cuGraphGetNodes(graph, null_mut(), &mut steps), "capturing")
                .and_then(|()| check(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0), "instantiating the graph"));
            let _ = sys::cuGraphDestroy(graph);
            made
        };
        made.map_err(forget)?;
        let replays = Cell::new(0);
        Ok(Box::new(CudaGraph { exec, steps, number, replay_counter, replays, context: self.0.clone() }))
    }

    fn replay_counter(&self) -> DevicePtr {
        self.0.capture.get().map_or(DevicePtr::NULL, |recorded| recorded.replay_counter)
    }

    fn memory(&self) -> Memory {
        let (used_bytes, peak_bytes, held_bytes) = self.0.pool.borrow().usage();
        let (_, total_bytes) = Raw(&self.0).room();
        Memory { used_bytes, peak_bytes, held_bytes, total_bytes }
    }

    fn set_profiled(&self, profiled: bool) -> Result<()> {
        self.sync()?;
        // SAFETY: a context is current.
        let result = unsafe { if profiled { sys::cuProfilerStart() } else { sys::cuProfilerStop() } };
        check(result, "talking to the profiler")
    }

    fn time_ms(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.0.enter()?;
        let (begin, end) = (new_event(true)?, new_event(true)?);
        let mut elapsed = 0.0;
        // SAFETY: the events are live until destroyed here, the stream as long as `self`.
        unsafe {
            let timed = check(sys::cuEventRecord(begin, self.0.stream), "timing")
                .and_then(|()| work())
                .and_then(|()| check(sys::cuEventRecord(end, self.0.stream), "timing"))
                .and_then(|()| check(sys::cuEventSynchronize(end), "timing"))
                .and_then(|()| check(sys::cuEventElapsedTime(&mut elapsed, begin, end), "timing"));
            let _ = (sys::cuEventDestroy_v2(begin), sys::cuEventDestroy_v2(end));
            timed?;
        }
        Ok(f64::from(elapsed))
    }

    fn attributes(&self, entry: KernelEntry) -> Result<Option<Attributes>> {
        self.0.enter()?;
        attributes(self.0.entries.borrow()[entry.0 as usize].function).map(Some)
    }

    fn encode_tensor_map(&self, map: &TensorMap) -> Result<[u8; 128]> {
        if self.0.props.capability < (9, 0) {
            return Err(Error::Device(format!("{}: has no TMA", self.0.name)));
        }
        tensor_map::encode(map)
    }
}

struct CudaGraph {
    exec: sys::CUgraphExec,
    steps: usize,
    number: u64,
    replay_counter: DevicePtr,
    replays: Cell<u32>,
    context: Rc<Context>,
}

impl CapturedGraph for CudaGraph {
    fn replay(&self) -> Result<()> {
        self.context.reject_in_capture("replay another")?;
        self.context.enter()?;
        let replay = self.replays.get();
        self.replays.set(replay.wrapping_add(1));
        let counter = self.replay_counter.0;
        // SAFETY: the word is the graph's own, and the stream orders this behind the replay before.
        check(unsafe { sys::cuMemsetD32Async(counter, replay, 1, self.context.stream) }, "counting a replay")?;
        // SAFETY: the graph is live, and its memory is its own until it is dropped.
        check(unsafe { sys::cuGraphLaunch(self.exec, self.context.stream) }, "replaying a graph")
    }

    fn nodes(&self) -> usize {
        self.steps
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: made in `end_capture`, destroyed once; replays under way go on to their end.
        let _ = unsafe { sys::cuGraphExecDestroy(self.exec) };
        self.context.pool.borrow_mut().forget_graph(self.number);
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        let mut raw = Raw(self);
        raw.wait();
        let pool = std::mem::take(&mut *self.pool.borrow_mut());
        pool.into_addresses().for_each(|address| Raw(self).give_back(address));
        // SAFETY: all of these are ours, live, and used by nothing any more: tensors and graphs hold this context.
        unsafe {
            for module in self.modules.get_mut().drain(..) {
                let _ = sys::cuModuleUnload(module);
            }
            for piece in self.copies.pieces.get_mut().drain(..) {
                let _ = (sys::cuMemFreeHost(piece.memory.cast()), sys::cuEventDestroy_v2(piece.done));
            }
            let _ = (sys::cuEventDestroy_v2(self.copies.main_done), sys::cuEventDestroy_v2(self.copies.copied));
            let _ = sys::cuStreamDestroy_v2(self.copies.stream);
            if self.owned {
                let _ = sys::cuStreamDestroy_v2(self.stream);
                let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_says_so_and_does_not_panic() {
        match Cuda::open(0) {
            Ok(cuda) => assert!(!cuda.name().is_empty()),
            Err(error) => {
                let error = error.to_string();
                assert!(error.starts_with("device cuda: "), "{error}");
                assert!(error.contains("driver") || error.contains("GPU") || error.contains("libcuda"), "{error}");
            }
        }
    }
}
