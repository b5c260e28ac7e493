//! Graphs that streams recorded.

use std::{
    ffi::{c_uint, c_ulonglong, c_void},
    sync::Arc,
};

use crate::{
    abi::{exported, put, status},
    state::state,
    work::{Work, queue},
};

exported! { status;
    fn cuGraphGetNodes(graph: *mut c_void, nodes: *mut *mut c_void, count: *mut usize) {
        crate::runtime::graph::list_nodes(graph, nodes, count)
    }

    fn cuGraphInstantiateWithFlags(executable: *mut *mut c_void, graph: *mut c_void, _flags: c_ulonglong) {
        let mut state = state();
        let nodes = state.graphs.get(graph)?.ordered()?;
        put(executable, state.executables.insert(Arc::new(nodes)))
    }

    fn cuGraphUpload(executable: *mut c_void, _stream: *mut c_void) { state().executables.get(executable).map(|_| ()) }

    fn cuGraphLaunch(executable: *mut c_void, stream: *mut c_void) {
        let nodes = state().executables.get(executable)?.clone();
        queue(stream, Work::Graph(nodes))
    }

    fn cuGraphExecDestroy(executable: *mut c_void) { state().executables.remove(executable).map(|_| ()) }

    fn cuGraphDestroy(graph: *mut c_void) { state().graphs.remove(graph).map(|_| ()) }

    fn cuGraphCreate(graph: *mut *mut c_void, _flags: c_uint) {
        put(graph, state().graphs.insert(crate::graph::Graph::default()))
    }
}
