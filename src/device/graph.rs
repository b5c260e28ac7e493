//! Whole training steps recorded once and replayed: one call instead of a launch for every op.

use super::{Device, Kind, driver::Recording};
use crate::error::{Error, Result};

/// A recorded step.
///
/// A replay reads and writes the very memory the recording did: tensors that existed before hold what the next replay
/// reads, and must outlive it; tensors that the recorded function returned hold the latest replay's results.
pub struct Graph(Box<dyn Recording>);

impl Graph {
    /// Queues the step once more.
    pub fn replay(&self) -> Result<()> {
        self.0.replay()
    }

    /// Launches, fills and copies of one replay.
    pub fn steps(&self) -> usize {
        self.0.steps()
    }
}

/// Work whose launches are the same every time: run the first time, recorded the second, replayed from then on. On the CPU it
/// is run every time.
pub struct Repeated<R> {
    ran: bool,
    recorded: Option<(Graph, R)>,
}

impl<R> Default for Repeated<R> {
    fn default() -> Repeated<R> {
        Repeated { ran: false, recorded: None }
    }
}

impl<R: Clone> Repeated<R> {
    /// `launches` reads whatever changes between two calls from tensors that stay, as [`Device::capture`] asks; what it
    /// returns holds the latest results.
    pub fn run(&mut self, device: &Device, launches: impl FnOnce() -> Result<R>) -> Result<R> {
        if let Some((graph, results)) = &self.recorded {
            graph.replay()?;
            return Ok(results.clone());
        }
        if !device.records() || !std::mem::replace(&mut self.ran, true) {
            return launches();
        }
        let (graph, results) = device.capture(launches)?;
        graph.replay()?;
        self.recorded = Some((graph, results.clone()));
        Ok(results)
    }
}

impl Device {
    /// Whether [`Device::capture`] is for this device: the CPU runs ops at once.
    pub fn records(&self) -> bool {
        matches!(self.kind(), Kind::Gpu(_))
    }

    /// Records what `step` launches instead of running it; the first replay runs it for the first time. Run `step` once
    /// before, so that its kernels are loaded and its memory is pooled.
    ///
    /// A recorded step may not copy between host and device, nor look at results: whatever changes from one replay to the
    /// next is a tensor that is overwritten in between.
    pub fn capture<R>(&self, step: impl FnOnce() -> Result<R>) -> Result<(Graph, R)> {
        let Kind::Gpu(driver) = self.kind() else {
            return Err(Error::Device(format!("{self}: runs ops at once; there is nothing to record")));
        };
        driver.begin_capture()?;
        let result = step();
        // Ended in any case: a failed step must not leave the device recording.
        let recording = driver.end_capture();
        let result = result?;
        Ok((Graph(recording?), result))
    }
}
