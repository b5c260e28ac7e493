//! What is queued on streams: launches, copies, fills, calls of the host. It is done at once, in the order of the
//! calls, which is one of the orders that a device may choose; on a stream that records it is kept for a graph.

use std::{ffi::c_void, sync::Arc};

use ptx_emulator::LaunchShape;

use crate::{
    abi::{Answer, error},
    graph::{Graph, Node},
    module::Function,
    state::{State, state},
};

/// A stream: nothing but the graph that it records into, if it does.
#[derive(Default)]
pub(crate) struct Stream {
    pub recording: Option<usize>,
    pub flags: u32,
    pub priority: i32,
}

/// An event: when it was last recorded, in milliseconds since the program began.
#[derive(Default)]
pub(crate) struct Event {
    pub at: Option<f64>,
    /// The recording that it belongs to.
    pub recording: Option<usize>,
}

#[derive(Clone)]
pub(crate) struct Launch {
    pub function: Function,
    pub shape: LaunchShape,
    pub params: Vec<u8>,
}

/// Rows of equal bytes, in slices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Of the host or of the device, as the address says.
    pub address: usize,
    pub row_bytes: usize,
    pub slice_rows: usize,
}

impl Place {
    /// Bytes one after the other.
    pub fn flat(address: usize) -> Self {
        Self { address, row_bytes: 0, slice_rows: 0 }
    }

    fn row(&self, y: usize, z: usize) -> usize {
        self.address + self.row_bytes * (y + self.slice_rows * z)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub to: Place,
    pub from: Place,
    /// Bytes of a row, rows of a slice, slices.
    pub extent: [usize; 3],
}

#[derive(Clone, Debug)]
pub(crate) struct Fill {
    pub to: Place,
    pub value: Vec<u8>,
    /// Values in a row, rows of a slice, slices.
    pub extent: [usize; 3],
}

#[derive(Clone)]
pub(crate) enum Work {
    Launch(Launch),
    Copy(Copy),
    Fill(Fill),
    Host(unsafe extern "C" fn(*mut c_void), usize),
    Graph(Arc<Vec<Node>>),
    Nothing,
}

impl State {
    pub fn is_device(&self, address: usize) -> bool {
        self.gpu.allocation(address as u64).is_some()
    }

    fn copy(&mut self, copy: &Copy) -> Answer {
        let [bytes, rows, slices] = copy.extent;
        for z in 0..slices {
            for y in 0..rows {
                let (to, from) = (copy.to.row(y, z), copy.from.row(y, z));
                let moved = match (self.is_device(to), self.is_device(from)) {
                    _ if bytes == 0 => Ok(()),
                    (true, true) => self.gpu.copy(to as u64, from as u64, bytes as u64),
                    (true, false) => {
                        // SAFETY: memory of the host, which the program says is there.
                        let from = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) };
                        self.gpu.write(to as u64, from)
                    }
                    (false, true) => {
                        // SAFETY: as above.
                        let to = unsafe { std::slice::from_raw_parts_mut(to as *mut u8, bytes) };
                        self.gpu.read(from as u64, to)
                    }
                    (false, false) => {
                        // SAFETY: as above; the ranges may overlap.
                        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
                        Ok(())
                    }
                };
                if let Err(wrong) = moved {
                    self.refuse(&format!("a copy of {bytes} bytes from {from:#x} to {to:#x}: {wrong}"));
                    return Err(error::INVALID_VALUE);
                }
            }
        }
        Ok(())
    }

    fn fill(&mut self, fill: &Fill) -> Answer {
        let [count, rows, slices] = fill.extent;
        let row = fill.value.repeat(count);
        for z in 0..slices {
            for y in 0..rows {
                let to = fill.to.row(y, z);
                if let Err(wrong) = self.gpu.write(to as u64, &row) {
                    self.refuse(&format!("a fill of {} bytes at {to:#x}: {wrong}", row.len()));
                    return Err(error::INVALID_VALUE);
                }
            }
        }
        Ok(())
    }

    fn launch(&mut self, launch: &Launch) -> Answer {
        self.tally.launch();
        let Function { module, entry } = &launch.function;
        let result = self.gpu.launch_as(module, entry, &launch.shape, &launch.params);
        self.tell_notes();
        match result {
            Ok(_) => Ok(()),
            Err(fault) => {
                self.flush_printed();
                let status = self.fault(&fault);
                // A kernel that failed is told of at the next call, as on a device.
                if self.failed.is_some() { Ok(()) } else { Err(status) }
            }
        }
    }

    /// Keeps the work for a graph, if the stream records one.
    fn keep(&mut self, stream: *mut c_void, work: &Work) -> Answer<bool> {
        let Some(recording) = self.recording(stream) else { return Ok(false) };
        let graph = self.recordings.get_mut(&recording).ok_or(error::CAPTURE_UNMATCHED)?;
        graph.append(work.clone());
        Ok(true)
    }

    /// The recording that a stream takes part in.
    pub fn recording(&self, stream: *mut c_void) -> Option<usize> {
        self.streams.get(stream).ok()?.recording
    }

    /// What the last kernel left behind, for every later call.
    pub fn healthy(&self) -> Answer {
        self.failed.map_or(Ok(()), Err)
    }
}

fn run(work: &Work) -> Answer {
    match work {
        Work::Launch(launch) => state().launch(launch),
        Work::Copy(copy) => state().copy(copy),
        Work::Fill(fill) => state().fill(fill),
        // The program's own function may call us: the state is not held.
        Work::Host(function, data) => {
            // SAFETY: the program gave both together.
            unsafe { function(std::ptr::with_exposed_provenance_mut(*data)) };
            Ok(())
        }
        Work::Graph(nodes) => run_all(nodes),
        Work::Nothing => Ok(()),
    }
}

/// The nodes of a graph, in an order that their dependences allow.
pub(crate) fn run_all(nodes: &[Node]) -> Answer {
    nodes.iter().try_for_each(|node| run(&node.work))
}

/// Does the work, or keeps it if the stream records.
pub(crate) fn queue(stream: *mut c_void, work: Work) -> Answer {
    {
        let mut state = state();
        state.healthy()?;
        if stream.addr() > 2 {
            state.streams.get(stream)?;
        }
        if state.keep(stream, &work)? {
            return Ok(());
        }
    }
    run(&work)
}

/// Waits for everything, and shows what kernels printed. Not possible on a stream that records.
pub(crate) fn synchronise(stream: Option<*mut c_void>) -> Answer {
    let mut state = state();
    state.flush_printed();
    if stream.is_some_and(|stream| state.recording(stream).is_some()) {
        return Err(error::CAPTURE_UNSUPPORTED);
    }
    state.healthy()
}

/// A stream begins to record.
pub(crate) fn begin_recording(stream: *mut c_void) -> Answer {
    let mut state = state();
    let found = state.streams.get_mut(stream)?;
    if found.recording.is_some() {
        return Err(error::INVALID_VALUE);
    }
    found.recording = Some(stream.addr());
    state.recordings.insert(stream.addr(), Graph::default());
    Ok(())
}

/// What a stream and those that joined it recorded.
pub(crate) fn end_recording(stream: *mut c_void) -> Answer<Graph> {
    let mut state = state();
    let graph = state.recordings.remove(&stream.addr()).ok_or(error::CAPTURE_UNMATCHED)?;
    let ended = Some(stream.addr());
    state.streams.values_mut().filter(|s| s.recording == ended).for_each(|s| s.recording = None);
    state.events.values_mut().filter(|e| e.recording == ended).for_each(|e| e.recording = None);
    Ok(graph)
}

/// An event takes the time, or its part in a recording.
pub(crate) fn record(event: *mut c_void, stream: *mut c_void) -> Answer {
    let mut state = state();
    let recording = state.recording(stream);
    let now = state.begun.elapsed().as_secs_f64() * 1e3;
    let event = state.events.get_mut(event)?;
    event.recording = recording;
    if recording.is_none() {
        event.at = Some(now);
    }
    Ok(())
}

/// A stream waits for an event: all that was before it is done, but a stream may so join a recording.
pub(crate) fn wait_for(stream: *mut c_void, event: *mut c_void) -> Answer {
    let mut state = state();
    let recording = state.events.get(event)?.recording;
    if let (Some(_), Ok(stream)) = (recording, state.streams.get_mut(stream)) {
        stream.recording = recording;
    }
    Ok(())
}

/// Milliseconds between two events: of this machine's time, not of a device's.
pub(crate) fn elapsed_ms(from: *mut c_void, to: *mut c_void) -> Answer<f32> {
    let state = state();
    match (state.events.get(from)?.at, state.events.get(to)?.at) {
        (Some(from), Some(to)) => Ok(((to - from) as f32).max(0.001)),
        _ => Err(error::INVALID_HANDLE),
    }
}
