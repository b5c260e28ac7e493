//! Graphs of work: recorded from streams or built node by node.

use std::{
    collections::{HashSet, VecDeque},
    ffi::c_void,
};

use crate::{
    abi::{Answer, error},
    work::Work,
};

#[derive(Clone)]
pub(crate) struct Node {
    /// What the program knows it by.
    pub handle: usize,
    pub work: Work,
    /// Handles of the nodes that come before it.
    pub after: Vec<usize>,
}

#[derive(Clone, Default)]
pub(crate) struct Graph {
    pub nodes: Vec<Node>,
}

/// A number that no other node has.
fn fresh() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(1 << 32);
    NEXT.fetch_add(16, Ordering::Relaxed)
}

impl Graph {
    /// Work after everything that is there.
    pub fn append(&mut self, work: Work) {
        let after = self.nodes.last().map(|node| node.handle).into_iter().collect();
        self.nodes.push(Node { handle: fresh(), work, after });
    }

    /// Work after the nodes that the program names.
    pub fn add(&mut self, work: Work, after: &[*mut c_void]) -> Answer<*mut c_void> {
        let after: Vec<usize> = after.iter().map(|node| node.addr()).collect();
        if after.iter().any(|handle| self.nodes.iter().all(|node| node.handle != *handle)) {
            return Err(error::INVALID_VALUE);
        }
        let handle = fresh();
        self.nodes.push(Node { handle, work, after });
        Ok(std::ptr::without_provenance_mut(handle))
    }

    /// One node comes before another.
    pub fn depend(&mut self, before: usize, after: usize) -> Answer {
        let node = self.nodes.iter_mut().find(|node| node.handle == after).ok_or(error::INVALID_VALUE)?;
        node.after.push(before);
        Ok(())
    }

    /// The nodes in the order in which they were made, as far as their dependences allow it; an error where they go in circles.
    pub fn ordered(&self) -> Answer<Vec<Node>> {
        let mut left: VecDeque<&Node> = self.nodes.iter().collect();
        let mut waiting: HashSet<usize> = left.iter().map(|node| node.handle).collect();
        let mut done = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let ready = |node: &&Node| node.after.iter().all(|before| !waiting.contains(before));
            let next = left.iter().position(ready).ok_or(error::INVALID_VALUE)?;
            let node = left.remove(next).ok_or(error::INVALID_VALUE)?;
            waiting.remove(&node.handle);
            done.push(node.clone());
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_run_after_what_they_depend_on() {
        let mut graph = Graph::default();
        let first = graph.add(Work::Nothing, &[]).expect("a node");
        let second = graph.add(Work::Nothing, &[]).expect("a node");
        let third = graph.add(Work::Nothing, &[second]).expect("a node");
        graph.depend(third.addr(), first.addr()).expect("both are there");
        let order: Vec<usize> = graph.ordered().expect("no circle").iter().map(|node| node.handle).collect();
        assert_eq!(order, [second.addr(), third.addr(), first.addr()]);
        graph.depend(first.addr(), second.addr()).expect("both are there");
        assert!(graph.ordered().is_err(), "a circle");
        assert!(graph.add(Work::Nothing, &[std::ptr::without_provenance_mut(8)]).is_err());
    }
}
