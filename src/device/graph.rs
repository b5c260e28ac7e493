//! CUDA graph capture: whole training steps captured once and replayed, one call instead of a launch for every op.

use super::{Device, Kind, driver::CapturedGraph};
use crate::error::{Error, Result};

/// A captured step.
///
/// A replay reads and writes the very memory the capture did: tensors that existed before hold what the next replay
/// reads, and must outlive it; tensors that the captured function returned hold the latest replay's results.
pub struct Graph(Box<dyn CapturedGraph>);

impl Graph {
    /// Queues the step once more.
    pub fn replay(&self) -> Result<()> {
        self.0.replay()
    }

    /// Its nodes: launches, fills and copies of one replay.
    pub fn nodes(&self) -> usize {
        self.0.nodes()
    }
}

/// Work whose launches are the same every time: run the first time, captured the second, replayed from then on. On the CPU it
/// is run every time.
pub struct GraphedStep<R> {
    ran: bool,
    captured: Option<(Graph, R)>,
}

impl<R> Default for GraphedStep<R> {
    fn default() -> GraphedStep<R> {
        GraphedStep { ran: false, captured: None }
    }
}

impl<R: Clone> GraphedStep<R> {
    /// `launches` reads whatever changes between two calls from tensors that stay, as [`Device::capture`] asks; what it
    /// returns holds the latest results.
    pub fn run(&mut self, device: &Device, launches: impl FnOnce() -> Result<R>) -> Result<R> {
        if let Some((graph, results)) = &self.captured {
            graph.replay()?;
            return Ok(results.clone());
        }
        if !device.supports_graphs() || !std::mem::replace(&mut self.ran, true) {
            return launches();
        }
        let (graph, results) = device.capture(launches)?;
        graph.replay()?;
        self.captured = Some((graph, results.clone()));
        Ok(results)
    }
}

impl Device {
    /// Whether [`Device::capture`] is for this device: the CPU runs ops at once.
    pub fn supports_graphs(&self) -> bool {
        matches!(self.kind(), Kind::Gpu(_))
    }

    /// Captures what `step` launches instead of running it; the first replay runs it for the first time. Run `step` once
    /// before, so that its kernels are loaded and its memory is pooled.
    ///
    /// A captured step may not copy between host and device, nor look at results: whatever changes from one replay to the
    /// next is a tensor that is overwritten in between.
    pub fn capture<R>(&self, step: impl FnOnce() -> Result<R>) -> Result<(Graph, R)> {
        let Kind::Gpu(driver) = self.kind() else {
            return Err(Error::Device(format!("{self}: runs ops at once; there is nothing to capture")));
        };
        driver.begin_capture()?;
        let result = step();
        // Ended in any case: a failed step must not leave the device capturing.
        let graph = driver.end_capture();
        let result = result?;
        Ok((Graph(graph?), result))
    }
}
