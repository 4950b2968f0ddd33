//! The one thread that starts child processes, so that they end with the test process and not before.
//!
//! `PR_SET_PDEATHSIG` kills a child when the *thread* that started it ends. Tests and runtime workers are threads that
//! end early; this one lives as long as the process.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{OnceLock, mpsc};
use std::thread;

type Request = (Command, mpsc::SyncSender<io::Result<Child>>);

/// Starts `command` in a process group of its own; the child is killed when this process ends, however it ends.
pub(crate) fn spawn(mut command: Command) -> io::Result<Child> {
    command.process_group(0);
    end_with_parent(&mut command);
    let (answer, answered) = mpsc::sync_channel(1);
    spawner().send((command, answer)).expect("the spawner thread never ends");
    answered.recv().expect("the spawner thread answers every request")
}

fn spawner() -> &'static mpsc::Sender<Request> {
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::Builder::new()
            .name("testkit-spawner".into())
            .spawn(move || {
                for (mut command, answer) in requests {
                    // The asker waits for the answer; if it is gone, the test process is ending.
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("the test process may start one more thread");
        sender
    })
}

#[allow(unsafe_code)] // there is no safe way to ask the kernel for a signal at the parent's death
fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe functions are allowed: prctl and
    // getppid are plain system calls, and making an `io::Error` from a code or a kind does not allocate.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have ended before the line above took effect.
            if libc::getppid().cast_unsigned() != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
}
