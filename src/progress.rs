//! Where long jobs say how far they are. The command line draws bars; tests and library users pass [`Silent`].

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

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

/// How fast a stage goes: what was done in its last ten minutes, not before. What is done at once when it begins was done before.
#[derive(Debug)]
pub struct Pace {
    begun: Instant,
    total: u64,
    done: u64,
    /// When so much was done, oldest first.
    seen: VecDeque<(Instant, u64)>,
}

impl Pace {
    const WINDOW: Duration = Duration::from_secs(600);
    const BETWEEN: Duration = Duration::from_secs(15);
    /// Work that is found done is counted in less time than this.
    const AT_ONCE: Duration = Duration::from_secs(1);

    pub fn new(total: u64, now: Instant) -> Pace {
        Pace { begun: now, total, done: 0, seen: VecDeque::from([(now, 0)]) }
    }

    pub fn advance(&mut self, by: u64, now: Instant) {
        self.done += by;
        if now.duration_since(self.begun) < Pace::AT_ONCE {
            self.seen[0].1 = self.done;
            return;
        }
        if self.seen.back().is_some_and(|(last, _)| now.duration_since(*last) >= Pace::BETWEEN) {
            self.seen.push_back((now, self.done));
        }
        while self.seen.len() > 1 && self.seen.get(1).is_some_and(|(at, _)| now.duration_since(*at) > Pace::WINDOW) {
            self.seen.pop_front();
        }
    }

    pub fn done(&self) -> u64 {
        self.done
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn elapsed(&self, now: Instant) -> Duration {
        now.duration_since(self.begun)
    }

    /// Units a second; `None` before anything was done.
    pub fn per_second(&self, now: Instant) -> Option<f64> {
        let (at, done) = self.seen.front()?;
        let (units, seconds) = (self.done - done, now.duration_since(*at).as_secs_f64());
        (units > 0 && seconds > 0.0).then(|| units as f64 / seconds)
    }

    /// Seconds until everything is done, at this pace.
    pub fn seconds_left(&self, now: Instant) -> Option<f64> {
        Some(self.total.saturating_sub(self.done) as f64 / self.per_second(now)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_of_what_was_done_here_and_lately() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut pace = Pace::new(1000, begun);
        pace.advance(400, begun);
        assert_eq!((pace.done(), pace.per_second(at(5))), (400, None), "found done, not done");
        (1..=50).for_each(|i| pace.advance(1, at(2 * i)));
        assert_eq!(pace.per_second(at(100)), Some(0.5));
        assert_eq!(pace.seconds_left(at(100)), Some(1100.0));
        // Ten times as fast from now on: after ten minutes nothing else counts.
        (1..=900).for_each(|i| pace.advance(if i % 2 == 0 { 10 } else { 0 }, at(100 + i)));
        let recent = pace.per_second(at(1000)).expect("it goes on");
        assert!((recent - 5.0).abs() < 0.2, "{recent}");
    }
}
