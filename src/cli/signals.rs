//! Signals that ask a job to stop: Ctrl-C (SIGINT), SIGTERM, as schedulers send it, and SIGHUP of a closed terminal. The
//! first asks for a stop at the next safe point, where everything done so far is on disk; the second stops at once. The exit
//! status is 128 and the signal's number: 130, 143 or 129.
//!
//! A signal that was ignored when the program began stays ignored: `nohup isg run` outlives its terminal.

use std::sync::atomic::{AtomicU8, Ordering};

use super::output;

/// Number of the signal that asked for a stop; 0 before any.
static ASKED: AtomicU8 = AtomicU8::new(0);

const SIGINT: u8 = 2;

pub fn asked_to_stop() -> bool {
    ASKED.load(Ordering::Relaxed) != 0
}

/// Exit status of a job that stopped because it was asked to.
pub fn exit_status() -> u8 {
    128 + match ASKED.load(Ordering::Relaxed) {
        0 => SIGINT,
        signal => signal,
    }
}

fn received(signal: u8) {
    if ASKED.swap(signal, Ordering::Relaxed) != 0 {
        std::process::exit(exit_status().into());
    }
    output::say("\nstopping at the next safe point; Ctrl-C, or another signal, stops at once");
}

/// From now on signals are listened to. Called before any other thread begins.
#[cfg(unix)]
pub fn listen() {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    /// Sets a signal to be ignored, and says whether it was.
    fn ignore(signal: Signal) -> Option<SigAction> {
        let ignored = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: no handler is installed, so nothing that a handler must not do can happen; the old action, which is put
        // back by the only caller that needs it, is the one that this process was started with.
        unsafe { sigaction(signal, &ignored) }.ok()
    }

    // A limit on file sizes is then an error of the write, with its sentence, instead of a sudden end.
    let _ = ignore(Signal::SIGXFSZ);
    let mut listened = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let Some(earlier) = ignore(signal) else { continue };
        if !matches!(earlier.handler(), SigHandler::SigIgn) {
            // SAFETY: as above.
            let _ = unsafe { sigaction(signal, &earlier) };
            listened.add(signal);
        }
    }
    // Blocked here, before there are other threads, a signal waits for the one thread that asks for it: nothing ever runs
    // inside a signal handler.
    if listened.thread_block().is_err() {
        return;
    }
    let wait = move || {
        while let Ok(signal) = listened.wait() {
            received(signal as u8);
        }
    };
    if std::thread::Builder::new().name("signals".into()).spawn(wait).is_err() {
        let _ = listened.thread_unblock();
    }
}

#[cfg(not(unix))]
pub fn listen() {
    // Without a handler Ctrl-C still ends the process, and every file on disk is still whole: nothing to report.
    let _ = ctrlc::set_handler(|| received(SIGINT));
}
