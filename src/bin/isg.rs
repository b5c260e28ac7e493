//! The `isg` command. Everything it does lives in the library's `cli` module.

fn main() -> std::process::ExitCode {
    isg::cli::main()
}

/// Notes which of standard output and standard error were closed when the process was started. It must run before Rust's
/// own start, which opens `/dev/null` in their place: what is printed then would vanish, and the exit status say that all
/// went well.
#[cfg(target_os = "linux")]
mod closed_at_start {
    use std::sync::atomic::Ordering;

    use isg::cli::output::CLOSED;

    // SAFETY: the loader calls every function named in this section once, before `main`, on the only thread there is. The
    // function has the C calling convention, takes no arguments and unwinds from nowhere: it asks the kernel about two
    // file descriptors and stores two flags.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static NOTE: extern "C" fn() = note;

    extern "C" fn note() {
        for (descriptor, closed) in [libc::STDOUT_FILENO, libc::STDERR_FILENO].into_iter().zip(&CLOSED) {
            // SAFETY: F_GETFD takes any number for a descriptor and changes nothing.
            let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
            closed.store(flags == -1, Ordering::Relaxed);
        }
    }
}
