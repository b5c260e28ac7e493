//! Streams, events, calls of the host.

use std::ffi::{c_int, c_uint, c_void};

use crate::{
    abi::{error, exported, offer, put, status},
    state::state,
    work::{Event, Stream, Work, begin_recording, elapsed_ms, end_recording, queue, record, synchronise, wait_for},
};

exported! { status;
    fn cuStreamCreate(stream: *mut *mut c_void, flags: c_uint) {
        put(stream, state().streams.insert(Stream { flags, ..Stream::default() }))
    }

    fn cuStreamCreateWithPriority(stream: *mut *mut c_void, flags: c_uint, priority: c_int) {
        put(stream, state().streams.insert(Stream { flags, priority, recording: None }))
    }

    fn cuStreamDestroy_v2(stream: *mut c_void) { state().streams.remove(stream).map(|_| ()) }

    fn cuStreamSynchronize(stream: *mut c_void) { synchronise(Some(stream)) }

    fn cuStreamQuery(stream: *mut c_void) { synchronise(Some(stream)) }

    fn cuStreamGetFlags(stream: *mut c_void, flags: *mut c_uint) {
        put(flags, state().streams.get(stream).map_or(0, |s| s.flags))
    }

    fn cuStreamGetPriority(stream: *mut c_void, priority: *mut c_int) {
        put(priority, state().streams.get(stream).map_or(0, |s| s.priority))
    }

    fn cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _flags: c_uint) { wait_for(stream, event) }

    fn cuStreamBeginCapture_v2(stream: *mut c_void, _mode: c_uint) { begin_recording(stream) }

    fn cuStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) {
        let recorded = end_recording(stream)?;
        put(graph, state().graphs.insert(recorded))
    }

    fn cuStreamIsCapturing(stream: *mut c_void, capturing: *mut c_int) {
        put(capturing, c_int::from(state().recording(stream).is_some()))
    }

    fn cuLaunchHostFunc(stream: *mut c_void, function: Option<unsafe extern "C" fn(*mut c_void)>, data: *mut c_void) {
        queue(stream, Work::Host(function.ok_or(error::INVALID_VALUE)?, data.expose_provenance()))
    }

    fn cuEventCreate(event: *mut *mut c_void, _flags: c_uint) {
        put(event, state().events.insert(Event::default()))
    }

    fn cuEventDestroy_v2(event: *mut c_void) { state().events.remove(event).map(|_| ()) }

    fn cuEventRecord(event: *mut c_void, stream: *mut c_void) { record(event, stream) }

    fn cuEventRecordWithFlags(event: *mut c_void, stream: *mut c_void, _flags: c_uint) { record(event, stream) }

    fn cuEventSynchronize(event: *mut c_void) {
        state().events.get(event)?;
        synchronise(None)
    }

    fn cuEventQuery(event: *mut c_void) { state().events.get(event).map(|_| ()) }

    fn cuEventElapsedTime(ms: *mut f32, from: *mut c_void, to: *mut c_void) { put(ms, elapsed_ms(from, to)?) }

    fn cuEventElapsedTime_v2(ms: *mut f32, from: *mut c_void, to: *mut c_void) { put(ms, elapsed_ms(from, to)?) }

    fn cuThreadExchangeStreamCaptureMode(mode: *mut c_uint) {
        offer(mode, 0);
        Ok(())
    }
}
