//! Where long jobs say how far they are. The command line draws bars; tests and library users pass [`Silent`].

use crate::error::{Error, Result};

/// One sink for a job's progress. Methods take `&self` so that worker threads share it.
pub trait Progress: Sync {
    /// A stage begins: `total` units of work, e.g. `begin("features", 812, "patches")`.
    fn begin(&self, stage: &str, total: u64, unit: &'static str);
    fn advance(&self, by: u64);
    /// A short live remark beside the bar, e.g. the current loss.
    fn remark(&self, text: &str);
    /// A line worth keeping in the log, e.g. why a slide was skipped.
    fn note(&self, line: &str);
    fn end(&self);
    /// True once the user asked to stop. Long loops call [`Progress::check`] between units of work.
    fn interrupted(&self) -> bool {
        false
    }
    fn check(&self) -> Result<()> {
        if self.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Says nothing and is never interrupted.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64, _: &'static str) {}
    fn advance(&self, _: u64) {}
    fn remark(&self, _: &str) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
}
