//! Work that can be recorded: done at once on a stream that is not recording, kept in order on one that is.

use std::{
    ffi::{c_uint, c_ulonglong, c_void},
    sync::Arc,
};

use ptx_emulator::Module;

use crate::{INVALID_VALUE, LAUNCH_FAILED, SUCCESS, State, Status, put, state};

#[derive(Clone)]
pub(crate) enum Node {
    Launch { module: Module, entry: Arc<str>, grid: [u32; 3], block: [u32; 3], shared_bytes: u32, params: Vec<u8> },
    Fill { to: u64, bytes: Vec<u8>, count: usize },
    Copy { to: u64, from: u64, bytes: u64 },
}

fn run(state: &mut State, node: &Node) -> Status {
    match node {
        Node::Launch { module, entry, grid, block, shared_bytes, params } => {
            match state.gpu.launch(module, entry, *grid, *block, *shared_bytes, params) {
                Ok(_) => SUCCESS,
                Err(fault) => {
                    eprintln!("emulated driver: {fault}");
                    LAUNCH_FAILED
                }
            }
        }
        Node::Fill { to, bytes, count } => {
            state.gpu.write(*to, &bytes.repeat(*count)).map_or(INVALID_VALUE, |()| SUCCESS)
        }
        Node::Copy { to, from, bytes } => state.gpu.copy(*to, *from, *bytes).map_or(INVALID_VALUE, |()| SUCCESS),
    }
}

pub(crate) fn do_or_record(stream: *mut c_void, node: Node) -> Status {
    let mut state = state();
    match state.captures.get_mut(&stream.addr()) {
        Some(nodes) => {
            nodes.push(node);
            SUCCESS
        }
        None => run(&mut state, &node),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: *mut c_void, _: c_uint) -> Status {
    state().captures.insert(stream.addr(), Vec::new()).map_or(SUCCESS, |_| INVALID_VALUE)
}

/// # Safety
/// As every function of the driver API: pointers are valid for what they name. This holds for all of them here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) -> Status {
    let Some(nodes) = state().captures.remove(&stream.addr()) else { return INVALID_VALUE };
    // SAFETY: by the caller.
    unsafe { put(graph, Box::into_raw(Box::new(nodes)).cast()) }
}

/// # Safety
/// `graph` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetNodes(graph: *mut c_void, _: *mut c_void, count: *mut usize) -> Status {
    // SAFETY: graphs are boxes of nodes.
    let nodes = unsafe { &*graph.cast::<Vec<Node>>() };
    // SAFETY: by the caller.
    unsafe { put(count, nodes.len()) }
}

/// # Safety
/// `graph` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    exec: *mut *mut c_void,
    graph: *mut c_void,
    _: c_ulonglong,
) -> Status {
    // SAFETY: graphs are boxes of nodes.
    let nodes = unsafe { (*graph.cast::<Vec<Node>>()).clone() };
    // SAFETY: by the caller.
    unsafe { put(exec, Box::into_raw(Box::new(nodes)).cast()) }
}

/// # Safety
/// `exec` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(exec: *mut c_void, _: *mut c_void) -> Status {
    // SAFETY: executable graphs are boxes of nodes, too.
    let nodes = unsafe { &*exec.cast::<Vec<Node>>() };
    let mut state = state();
    nodes.iter().map(|node| run(&mut state, node)).find(|status| *status != SUCCESS).unwrap_or(SUCCESS)
}

/// # Safety
/// `exec` is live, and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(exec: *mut c_void) -> Status {
    // SAFETY: from `cuGraphInstantiateWithFlags`, dropped once.
    drop(unsafe { Box::from_raw(exec.cast::<Vec<Node>>()) });
    SUCCESS
}

/// # Safety
/// `graph` is live, and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: *mut c_void) -> Status {
    // SAFETY: from `cuStreamEndCapture`, dropped once.
    drop(unsafe { Box::from_raw(graph.cast::<Vec<Node>>()) });
    SUCCESS
}
