//! How a child process is tied to its parent.

use std::process::Command;

/// A parent that is killed cannot tell its children: the kernel does, so that none of them holds a
/// lock when the next run begins.
#[cfg(target_os = "linux")]
pub fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec only two system calls are made, which are async-signal-safe.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            // The parent may have died before the call.
            if nix::unistd::getppid() == parent { Ok(()) } else { Err(std::io::Error::other("the parent is gone")) }
        });
    }
}

#[cfg(not(target_os = "linux"))]
pub fn die_with_parent(_: &mut Command) {}
