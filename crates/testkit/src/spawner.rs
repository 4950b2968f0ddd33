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

#[cfg(test)]
mod tests {
    use std::env;
    use std::path::Path;
    use std::time::Duration;

    use crate::process::Process;
    use crate::wait::{wait_for, wait_until};

    const SOON: Duration = Duration::from_secs(5);

    /// Set for the copy of this test that is killed.
    const VICTIM: &str = "FANFARE_TESTKIT_VICTIM";

    #[tokio::test]
    async fn a_child_ends_when_the_test_process_is_killed() {
        if env::var_os(VICTIM).is_some() {
            return be_the_victim();
        }
        let this = "spawner::tests::a_child_ends_when_the_test_process_is_killed";
        let victim = Process::new(env::current_exe().unwrap());
        // The victim has no time to remove its directories, so they are in one that is removed here.
        let directory = victim.directory().to_owned();
        let victim = victim
            .arguments([this, "--exact", "--nocapture"])
            .environment(VICTIM, "1")
            .environment("TMPDIR", directory);
        victim.start();
        let child: u32 = wait_for("the victim's child", SOON, async || {
            victim.stdout().lines().find_map(|line| line.strip_prefix("child ")?.strip_suffix('.')?.parse().ok())
        })
        .await;
        let proc = format!("/proc/{child}");
        assert!(Path::new(&proc).exists());
        victim.kill();
        let gone = || match std::fs::read_to_string(format!("{proc}/stat")) {
            // Killed, and whoever adopted it has not waited for it yet.
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        wait_until("the end of the victim's child", SOON, gone).await;
    }

    /// Starts a child from a thread that ends, and outlives it only until the parent kills this process.
    fn be_the_victim() {
        let child = std::thread::spawn(|| {
            let child = Process::new("/bin/sleep").argument("600");
            child.start();
            child
        })
        .join()
        .unwrap();
        println!("child {}.", child.id());
        loop {
            std::thread::park();
        }
    }
}
