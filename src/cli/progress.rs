//! Where a job is, with rate and time left: bars on a terminal, for jobs longer than two seconds; elsewhere a line a minute, for the
//! log of a batch job; with `--log-json` the same as JSON, and a line where each stage begins and ends.

use std::{
    fmt::Write,
    io::IsTerminal,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{output, signals};
use crate::{
    error::Error,
    escape,
    progress::{Pace, Progress},
};

/// Writes on standard error. Stages may nest; the innermost is the one that advances.
pub struct Bars {
    stages: Mutex<Vec<Stage>>,
    quiet: bool,
    terminal: bool,
}

struct Stage {
    name: String,
    unit: &'static str,
    bar: ProgressBar,
    pace: Pace,
    /// What was remarked last: losses, the slide that is worked on.
    remark: String,
    shown: bool,
    /// When its last line was written, or it began.
    told: Instant,
}

/// Jobs shorter than this draw nothing.
const PATIENCE: Duration = Duration::from_secs(2);
/// From one line to the next where there is no terminal.
const EVERY: Duration = Duration::from_secs(60);

impl Bars {
    pub fn new(quiet: bool) -> Bars {
        let terminal = std::io::stderr().is_terminal() && !output::is_json();
        Bars { stages: Mutex::default(), quiet, terminal }
    }

    fn stages(&self) -> MutexGuard<'_, Vec<Stage>> {
        // A panic while drawing leaves the list as it was; going on with it is safe.
        self.stages.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn say(&self, line: &str) {
        if let Some(stage) = self.stages().last().filter(|stage| stage.shown) {
            stage.bar.suspend(|| output::say(line));
        } else {
            output::say(line);
        }
    }
}

impl Stage {
    /// A line about where it is, if the last is a minute old.
    fn tell(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.told) < EVERY {
            return;
        }
        self.told = now;
        let Stage { name, unit, pace, remark, .. } = self;
        if output::is_json() {
            let rate = (pace.per_second(now), pace.seconds_left(now));
            let (done, total, elapsed) = (pace.done(), pace.total(), pace.elapsed(now).as_secs_f64());
            return output::event(
                "progress",
                json!({
                    "stage": name, "unit": unit, "done": done, "total": total, "seconds": elapsed,
                    "per_second": rate.0, "seconds_left": rate.1, "remark": remark,
                }),
            );
        }
        let time = output::timestamp(SystemTime::now());
        let rate = rate(pace.per_second(now), pace.seconds_left(now));
        let remark = if remark.is_empty() { String::new() } else { format!("; {remark}") };
        output::say(format_args!("{time} {name}: {} of {} {unit}{rate}{remark}", pace.done(), pace.total()));
    }
}

/// `, 3.1/s, 12 min left`, as far as it is known.
pub(super) fn rate(per_second: Option<f64>, seconds_left: Option<f64>) -> String {
    let mut text = String::new();
    let _ = match per_second {
        Some(rate) if rate < 0.1 => write!(text, ", {:.1}/min", 60.0 * rate),
        Some(rate) if rate < 10.0 => write!(text, ", {rate:.1}/s"),
        Some(rate) => write!(text, ", {rate:.0}/s"),
        None => Ok(()),
    };
    if let Some(left) = seconds_left {
        let _ = write!(text, ", {} left", span(left));
    }
    text
}

/// A time in the unit that fits it: `45 s`, `12 min`, `3.5 h`, `2.1 days`.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 90.0 * 60.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

impl Progress for Bars {
    fn begin(&self, stage: &str, total: u64, unit: &'static str) {
        let template = format!("{{prefix}} {{wide_bar}} {{pos}}/{{len}} {unit}  {{per_sec}}  {{eta}} left  {{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()).with_style(style);
        bar.set_prefix(escape::line(stage).into_owned());
        if output::is_json() && !self.quiet {
            output::event("begin", json!({ "stage": stage, "unit": unit, "total": total }));
        }
        let (name, told) = (stage.to_string(), Instant::now());
        let pace = Pace::new(total, told);
        self.stages().push(Stage { name, unit, bar, pace, remark: String::new(), shown: false, told });
    }

    fn advance(&self, by: u64) {
        if let Some(stage) = self.stages().last_mut() {
            let now = Instant::now();
            stage.bar.inc(by);
            stage.pace.advance(by, now);
            if self.quiet {
                return;
            }
            if !self.terminal {
                stage.tell();
            } else if !stage.shown && stage.pace.elapsed(now) > PATIENCE {
                stage.bar.set_draw_target(ProgressDrawTarget::stderr());
                stage.shown = true;
            }
        }
    }

    fn remark(&self, text: &str) {
        if let Some(stage) = self.stages().last_mut() {
            stage.bar.set_message(escape::line(text).into_owned());
            stage.remark = text.trim().to_string();
        }
    }

    fn note(&self, line: &str) {
        if !self.quiet {
            self.say(line);
        }
    }

    fn end(&self) {
        let Some(stage) = self.stages().pop() else { return };
        stage.bar.finish_and_clear();
        let took = stage.pace.elapsed(Instant::now());
        if self.quiet {
            return;
        }
        let (name, done, seconds) = (&stage.name, stage.pace.done(), took.as_secs_f64());
        if output::is_json() {
            let total = stage.pace.total();
            output::event("end", json!({ "stage": name, "done": done, "total": total, "seconds": seconds }));
        } else if took > PATIENCE {
            output::say(format_args!("{name}: {done} in {seconds:.1} s"));
        }
    }

    fn interrupted(&self) -> bool {
        signals::asked_to_stop()
    }

    fn check(&self) -> crate::Result<()> {
        if self.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_are_read_at_a_glance() {
        let spans: Vec<String> = [3.2, 89.0, 600.0, 7200.0, 2.5e5].map(span).into();
        assert_eq!(spans, ["3 s", "89 s", "10 min", "2.0 h", "2.9 days"]);
        assert_eq!(rate(Some(0.02), Some(600.0)), ", 1.2/min, 10 min left");
        assert_eq!(rate(Some(31.4), None), ", 31/s");
        assert_eq!(rate(None, None), "");
    }
}
