//! Progress bars with rate and time left, for jobs longer than two seconds, on terminals only.

use std::{
    io::IsTerminal,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{output, signals};
use crate::{error::Error, escape, progress::Progress};

/// Draws on standard error. Stages may nest; the innermost is the one that advances.
pub struct Bars {
    stages: Mutex<Vec<Stage>>,
    quiet: bool,
    terminal: bool,
}

struct Stage {
    name: String,
    bar: ProgressBar,
    begun: Instant,
    shown: bool,
}

/// Jobs shorter than this draw nothing.
const PATIENCE: Duration = Duration::from_secs(2);

impl Bars {
    pub fn new(quiet: bool) -> Bars {
        Bars { stages: Mutex::default(), quiet, terminal: std::io::stderr().is_terminal() }
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

impl Progress for Bars {
    fn begin(&self, stage: &str, total: u64, unit: &'static str) {
        let template = format!("{{prefix}} {{wide_bar}} {{pos}}/{{len}} {unit}  {{per_sec}}  {{eta}} left  {{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()).with_style(style);
        bar.set_prefix(escape::line(stage).into_owned());
        self.stages().push(Stage { name: stage.to_string(), bar, begun: Instant::now(), shown: false });
    }

    fn advance(&self, by: u64) {
        if let Some(stage) = self.stages().last_mut() {
            stage.bar.inc(by);
            if !stage.shown && self.terminal && !self.quiet && stage.begun.elapsed() > PATIENCE {
                stage.bar.set_draw_target(ProgressDrawTarget::stderr());
                stage.shown = true;
            }
        }
    }

    fn remark(&self, text: &str) {
        if let Some(stage) = self.stages().last() {
            stage.bar.set_message(escape::line(text).into_owned());
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
        let took = stage.begun.elapsed();
        if !self.quiet && took > PATIENCE {
            output::say(format_args!("{}: {} in {:.1} s", stage.name, stage.bar.position(), took.as_secs_f64()));
        }
    }

    fn interrupted(&self) -> bool {
        signals::asked_to_stop()
    }

    fn check(&self) -> crate::Result<()> {
        if self.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }
}
