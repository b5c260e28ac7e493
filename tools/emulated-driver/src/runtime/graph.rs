//! Graphs: recorded, or built node by node.

use std::{
    ffi::{c_int, c_uint, c_ulonglong, c_void},
    sync::Arc,
};

use super::{memory::Copy3D, register::shape, told};
use crate::{
    abi::{Answer, Dim3, error, exported, offer, put},
    graph::Graph,
    state::state,
    work::{Copy, Fill, Launch, Place, Work, queue},
};

/// `cudaKernelNodeParams`
#[repr(C)]
pub struct KernelNode {
    function: *const c_void,
    grid: Dim3,
    block: Dim3,
    shared_bytes: c_uint,
    pointers: *mut *mut c_void,
    extra: *mut *mut c_void,
}

impl KernelNode {
    /// # Safety
    /// There is a pointer to each parameter of the kernel.
    unsafe fn work(&self) -> Answer<Work> {
        let function = state().function(self.function)?;
        // SAFETY: by the caller.
        let params = unsafe { function.gather(self.pointers.cast()) }?;
        let shape = shape(self.grid, self.block, self.shared_bytes as usize)?;
        Ok(Work::Launch(Launch { function, shape, params }))
    }
}

/// `cudaMemsetParams`
#[repr(C)]
pub struct FillNode {
    to: usize,
    pitch: usize,
    value: c_uint,
    element_bytes: c_uint,
    width: usize,
    height: usize,
}

impl FillNode {
    fn work(&self) -> Answer<Work> {
        let bytes = self.value.to_le_bytes();
        let value = bytes.get(..self.element_bytes as usize).ok_or(error::INVALID_VALUE)?.to_vec();
        let to = Place { address: self.to, row_bytes: self.pitch, slice_rows: 0 };
        Ok(Work::Fill(Fill { to, value, extent: [self.width, self.height, 1] }))
    }
}

/// `cudaHostNodeParams`
#[repr(C)]
pub struct HostNode {
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
}

/// # Safety
/// There are `count` nodes at `after`.
unsafe fn add(
    node: *mut *mut c_void,
    graph: *mut c_void,
    after: *const *mut c_void,
    count: usize,
    work: Work,
) -> Answer {
    // SAFETY: by the caller.
    let after = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(after, count) } };
    let added = state().graphs.get_mut(graph)?.add(work, after)?;
    // SAFETY: for the result.
    unsafe { put(node, added) }
}

/// # Safety
/// `nodes` is null or has room for as many as `count` says.
pub(crate) unsafe fn list_nodes(graph: *mut c_void, nodes: *mut *mut c_void, count: *mut usize) -> Answer {
    let state = state();
    let graph = state.graphs.get(graph)?;
    if !nodes.is_null() {
        // SAFETY: by the caller.
        let room = unsafe { *count };
        for (n, node) in graph.nodes.iter().take(room).enumerate() {
            // SAFETY: fewer than there is room for.
            unsafe { nodes.add(n).write(std::ptr::without_provenance_mut(node.handle)) };
        }
    }
    // SAFETY: for the result.
    unsafe { put(count, graph.nodes.len()) }
}

/// A node of an executable graph does something else from now on.
fn change(executable: *mut c_void, node: *mut c_void, work: Work) -> Answer {
    let mut state = state();
    let nodes = Arc::make_mut(state.executables.get_mut(executable)?);
    let found = nodes.iter_mut().find(|known| known.handle == node.addr()).ok_or(error::INVALID_VALUE)?;
    found.work = work;
    Ok(())
}

/// # Safety
/// `executable` is for the result.
unsafe fn instantiate(executable: *mut *mut c_void, graph: *mut c_void) -> Answer {
    let mut state = state();
    let nodes = state.graphs.get(graph)?.ordered()?;
    // SAFETY: by the caller.
    unsafe { put(executable, state.executables.insert(Arc::new(nodes))) }
}

exported! { told;
    fn cudaGraphCreate(graph: *mut *mut c_void, _flags: c_uint) { put(graph, state().graphs.insert(Graph::default())) }

    fn cudaGraphDestroy(graph: *mut c_void) { state().graphs.remove(graph).map(|_| ()) }

    fn cudaGraphClone(copy: *mut *mut c_void, graph: *mut c_void) {
        let mut state = state();
        let graph = state.graphs.get(graph)?.clone();
        put(copy, state.graphs.insert(graph))
    }

    fn cudaGraphGetNodes(graph: *mut c_void, nodes: *mut *mut c_void, count: *mut usize) {
        list_nodes(graph, nodes, count)
    }

    fn cudaGraphAddKernelNode(
        node: *mut *mut c_void,
        graph: *mut c_void,
        after: *const *mut c_void,
        count: usize,
        kernel: *const KernelNode,
    ) {
        add(node, graph, after, count, (*kernel).work()?)
    }

    fn cudaGraphAddMemcpyNode(
        node: *mut *mut c_void,
        graph: *mut c_void,
        after: *const *mut c_void,
        count: usize,
        copy: *const Copy3D,
    ) {
        add(node, graph, after, count, (*copy).work()?)
    }

    fn cudaGraphAddMemcpyNode1D(
        node: *mut *mut c_void,
        graph: *mut c_void,
        after: *const *mut c_void,
        count: usize,
        to: *mut c_void,
        from: *const c_void,
        bytes: usize,
        _kind: c_int,
    ) {
        let (to, from) = (Place::flat(to.addr()), Place::flat(from.addr()));
        add(node, graph, after, count, Work::Copy(Copy { to, from, extent: [bytes, 1, 1] }))
    }

    fn cudaGraphAddMemsetNode(
        node: *mut *mut c_void,
        graph: *mut c_void,
        after: *const *mut c_void,
        count: usize,
        fill: *const FillNode,
    ) {
        add(node, graph, after, count, (*fill).work()?)
    }

    fn cudaGraphAddHostNode(
        node: *mut *mut c_void,
        graph: *mut c_void,
        after: *const *mut c_void,
        count: usize,
        host: *const HostNode,
    ) {
        let HostNode { function, data } = &*host;
        let function = function.ok_or(error::INVALID_VALUE)?;
        add(node, graph, after, count, Work::Host(function, data.expose_provenance()))
    }

    fn cudaGraphAddChildGraphNode(
        node: *mut *mut c_void,
        graph: *mut c_void,
        after: *const *mut c_void,
        count: usize,
        child: *mut c_void,
    ) {
        let nodes = Arc::new(state().graphs.get(child)?.ordered()?);
        add(node, graph, after, count, Work::Graph(nodes))
    }

    fn cudaGraphAddEmptyNode(
        node: *mut *mut c_void,
        graph: *mut c_void,
        after: *const *mut c_void,
        count: usize,
    ) {
        add(node, graph, after, count, Work::Nothing)
    }

    fn cudaGraphAddDependencies(
        graph: *mut c_void,
        from: *const *mut c_void,
        to: *const *mut c_void,
        _edges: *const c_void,
        count: usize,
    ) {
        let mut state = state();
        let graph = state.graphs.get_mut(graph)?;
        (0..count).try_for_each(|n| graph.depend((*from.add(n)).addr(), (*to.add(n)).addr()))
    }

    fn cudaGraphInstantiate(executable: *mut *mut c_void, graph: *mut c_void, _flags: c_ulonglong) {
        instantiate(executable, graph)
    }

    fn cudaGraphInstantiateWithFlags(executable: *mut *mut c_void, graph: *mut c_void, _flags: c_ulonglong) {
        instantiate(executable, graph)
    }

    fn cudaGraphExecKernelNodeSetParams(executable: *mut c_void, node: *mut c_void, kernel: *const KernelNode) {
        change(executable, node, (*kernel).work()?)
    }

    fn cudaGraphExecMemsetNodeSetParams(executable: *mut c_void, node: *mut c_void, fill: *const FillNode) {
        change(executable, node, (*fill).work()?)
    }

    fn cudaGraphExecUpdate(executable: *mut c_void, graph: *mut c_void, result: *mut [usize; 3]) {
        let mut state = state();
        let nodes = state.graphs.get(graph)?.ordered()?;
        offer(result, [0; 3]);
        *state.executables.get_mut(executable)? = Arc::new(nodes);
        Ok(())
    }

    fn cudaGraphUpload(executable: *mut c_void, _stream: *mut c_void) { state().executables.get(executable).map(|_| ()) }

    fn cudaGraphLaunch(executable: *mut c_void, stream: *mut c_void) {
        let nodes = state().executables.get(executable)?.clone();
        queue(stream, Work::Graph(nodes))
    }

    fn cudaGraphExecDestroy(executable: *mut c_void) { state().executables.remove(executable).map(|_| ()) }
}
