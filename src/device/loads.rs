//! Which kernels this process has loaded, from where, and how long each took: what stands between its start and its first step.

use std::{
    fmt::Write,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Where a kernel's code came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// The driver compiled its PTX.
    Compiled,
    /// An earlier run did ([`images`](super::images)).
    Cached,
    /// The emulator runs PTX as it is.
    Interpreted,
}

/// One kernel, loaded once on each device.
#[derive(Clone, Debug)]
pub struct Load {
    pub entry: String,
    pub origin: Origin,
    pub took: Duration,
    /// What the compiler said.
    pub log: String,
}

static LOADS: Mutex<Vec<Load>> = Mutex::new(Vec::new());

pub(super) fn record(load: Load) {
    LOADS.lock().unwrap_or_else(PoisonError::into_inner).push(load);
}

/// Every load so far, in order.
pub fn all() -> Vec<Load> {
    LOADS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// How many there were of each origin and how long they took together, then a line for each, the slowest first.
pub fn report(mut loads: Vec<Load>) -> String {
    let mut text = format!("{} kernels loaded", loads.len());
    for (origin, what) in
        [(Origin::Compiled, "compiled"), (Origin::Cached, "from the cache"), (Origin::Interpreted, "interpreted")]
    {
        let took: Vec<Duration> = loads.iter().filter(|load| load.origin == origin).map(|load| load.took).collect();
        if !took.is_empty() {
            let seconds = took.iter().sum::<Duration>().as_secs_f64();
            write!(text, ", {} {what} in {seconds:.2} s", took.len()).expect("a string");
        }
    }
    loads.sort_by_key(|load| std::cmp::Reverse(load.took));
    for Load { entry, origin, took, .. } in &loads {
        write!(text, "\n{:9.1} ms {origin:?} {entry}", took.as_secs_f64() * 1e3).expect("a string");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_by_origin() {
        let load = |entry: &str, origin, ms| Load {
            entry: entry.to_string(),
            origin,
            took: Duration::from_millis(ms),
            log: String::new(),
        };
        let loads =
            vec![load("a", Origin::Compiled, 400), load("b", Origin::Cached, 10), load("c", Origin::Compiled, 1100)];
        let text = report(loads);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "3 kernels loaded, 2 compiled in 1.50 s, 1 from the cache in 0.01 s");
        assert!(lines[1].ends_with("Compiled c") && lines[3].ends_with("Cached b"), "{text}");
    }
}
