//! Streams, events, calls of the host.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

use super::told;
use crate::{
    abi::{error, exported, offer, put},
    state::state,
    work::{Event, Stream, Work, begin_recording, elapsed_ms, end_recording, queue, record, synchronise, wait_for},
};

/// A call of the program when a stream has come so far.
struct Callback {
    function: unsafe extern "C" fn(*mut c_void, c_uint, *mut c_void),
    stream: *mut c_void,
    data: *mut c_void,
}

unsafe extern "C" fn call_back(callback: *mut c_void) {
    // SAFETY: from `cudaStreamAddCallback`, run once.
    let Callback { function, stream, data } = *unsafe { Box::from_raw(callback.cast::<Callback>()) };
    // SAFETY: the program's own function and data.
    unsafe { function(stream, 0, data) };
}

exported! { told;
    fn cudaStreamCreate(stream: *mut *mut c_void) { put(stream, state().streams.insert(Stream::default())) }

    fn cudaStreamCreateWithFlags(stream: *mut *mut c_void, flags: c_uint) {
        put(stream, state().streams.insert(Stream { flags, ..Stream::default() }))
    }

    fn cudaStreamCreateWithPriority(stream: *mut *mut c_void, flags: c_uint, priority: c_int) {
        put(stream, state().streams.insert(Stream { flags, priority, recording: None }))
    }

    fn cudaStreamDestroy(stream: *mut c_void) { state().streams.remove(stream).map(|_| ()) }

    fn cudaStreamSynchronize(stream: *mut c_void) { synchronise(Some(stream)) }

    fn cudaStreamQuery(stream: *mut c_void) { synchronise(Some(stream)) }

    fn cudaStreamGetFlags(stream: *mut c_void, flags: *mut c_uint) {
        put(flags, state().streams.get(stream).map_or(0, |s| s.flags))
    }

    fn cudaStreamGetPriority(stream: *mut c_void, priority: *mut c_int) {
        put(priority, state().streams.get(stream).map_or(0, |s| s.priority))
    }

    fn cudaStreamGetDevice(_stream: *mut c_void, device: *mut c_int) { put(device, 0) }

    fn cudaStreamGetId(stream: *mut c_void, id: *mut c_ulonglong) { put(id, stream.addr() as u64) }

    fn cudaStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _flags: c_uint) { wait_for(stream, event) }

    fn cudaStreamAttachMemAsync(_stream: *mut c_void, _memory: *mut c_void, _bytes: usize, _flags: c_uint) { Ok(()) }

    fn cudaStreamBeginCapture(stream: *mut c_void, _mode: c_int) { begin_recording(stream) }

    fn cudaStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) {
        let recorded = end_recording(stream)?;
        put(graph, state().graphs.insert(recorded))
    }

    fn cudaStreamIsCapturing(stream: *mut c_void, capturing: *mut c_int) {
        put(capturing, c_int::from(state().recording(stream).is_some()))
    }

    fn cudaStreamGetCaptureInfo(
        stream: *mut c_void,
        capturing: *mut c_int,
        id: *mut c_ulonglong,
        graph: *mut *mut c_void,
        dependences: *mut *const c_void,
        edges: *mut *const c_void,
        count: *mut usize,
    ) {
        let recording = state().recording(stream);
        offer(id, recording.unwrap_or(0) as u64);
        offer(graph, std::ptr::null_mut());
        offer(dependences, std::ptr::null());
        offer(edges, std::ptr::null());
        offer(count, 0);
        put(capturing, c_int::from(recording.is_some()))
    }

    fn cudaThreadExchangeStreamCaptureMode(_mode: *mut c_int) { Ok(()) }

    fn cudaLaunchHostFunc(
        stream: *mut c_void,
        function: Option<unsafe extern "C" fn(*mut c_void)>,
        data: *mut c_void,
    ) {
        queue(stream, Work::Host(function.ok_or(error::INVALID_VALUE)?, data.expose_provenance()))
    }

    fn cudaStreamAddCallback(
        stream: *mut c_void,
        function: Option<unsafe extern "C" fn(*mut c_void, c_uint, *mut c_void)>,
        data: *mut c_void,
        _flags: c_uint,
    ) {
        let function = function.ok_or(error::INVALID_VALUE)?;
        if state().recording(stream).is_some() {
            return Err(error::CAPTURE_UNSUPPORTED);
        }
        let callback = Box::into_raw(Box::new(Callback { function, stream, data }));
        queue(stream, Work::Host(call_back, callback.expose_provenance()))
    }

    fn cudaEventCreate(event: *mut *mut c_void) { put(event, state().events.insert(Event::default())) }

    fn cudaEventCreateWithFlags(event: *mut *mut c_void, _flags: c_uint) {
        put(event, state().events.insert(Event::default()))
    }

    fn cudaEventDestroy(event: *mut c_void) { state().events.remove(event).map(|_| ()) }

    fn cudaEventRecord(event: *mut c_void, stream: *mut c_void) { record(event, stream) }

    fn cudaEventRecordWithFlags(event: *mut c_void, stream: *mut c_void, _flags: c_uint) { record(event, stream) }

    fn cudaEventSynchronize(event: *mut c_void) {
        state().events.get(event)?;
        synchronise(None)
    }

    fn cudaEventQuery(event: *mut c_void) { state().events.get(event).map(|_| ()) }

    fn cudaEventElapsedTime(ms: *mut f32, from: *mut c_void, to: *mut c_void) { put(ms, elapsed_ms(from, to)?) }

    fn cudaEventElapsedTime_v2(ms: *mut f32, from: *mut c_void, to: *mut c_void) { put(ms, elapsed_ms(from, to)?) }
}
