//! A child process with an owner: private directory, logs, signals, and a certain end.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::spawner;

/// How many lines of each stream [`Process::log`] gives.
const LOG_TAIL_LINES: usize = 40;

/// How often a process that was asked to stop is looked at.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A program with a private temporary directory, which is its working directory and takes its logs.
///
/// It can be started again after it ended, with the same arguments in the same directory. Dropping it kills the
/// process, waits for it and removes the directory; when the thread is panicking, the tail of the log is printed first. If
/// the test process itself is killed, the kernel kills the child.
///
/// The child leads a process group, and signals go to the whole group.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    child: Mutex<Option<Child>>,
    directory: TempDir,
}

impl Process {
    /// Describes a process; nothing runs until [`Process::start`]. The private directory exists already, so that
    /// configuration can be written into it.
    ///
    /// # Panics
    ///
    /// When no temporary directory can be made.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        let directory = tempfile::Builder::new()
            .prefix("fanfare-")
            .tempdir()
            .unwrap_or_else(|error| panic!("cannot make a temporary directory for {name}: {error}"));
        Self { name, program, arguments: Vec::new(), environment: Vec::new(), child: Mutex::new(None), directory }
    }

    /// Adds one argument.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable; the rest is inherited.
    #[must_use]
    pub fn environment(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts the process, or starts it again after it ended. Its output is appended to what is there.
    ///
    /// # Panics
    ///
    /// When it runs already, or the program cannot be executed.
    pub fn start(&self) {
        let mut child = self.child();
        if child.as_mut().is_some_and(is_alive) {
            panic!("{} runs already", self.name);
        }
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.directory())
            .stdin(Stdio::null())
            .stdout(self.open_log("stdout"))
            .stderr(self.open_log("stderr"));
        *child = Some(
            spawner::spawn(command).unwrap_or_else(|error| panic!("cannot start {}: {error}", self.program.display())),
        );
    }

    /// The private directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process id.
    ///
    /// # Panics
    ///
    /// When it was never started.
    pub fn id(&self) -> u32 {
        self.child().as_ref().unwrap_or_else(|| panic!("{} was never started", self.name)).id()
    }

    /// Whether it runs (a paused process does).
    pub fn is_running(&self) -> bool {
        self.child().as_mut().is_some_and(is_alive)
    }

    /// How it ended; `None` while it runs and before it was started.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child().as_mut().and_then(exit_status)
    }

    /// Asks the process to end (SIGTERM, and SIGCONT in case it is paused), waits for that, and kills it when it has
    /// not ended within `deadline`. A process that is not running is left alone. `None` when it was never started.
    pub async fn stop(&self, deadline: Duration) -> Option<ExitStatus> {
        if self.is_running() {
            self.signal_if_running(libc::SIGTERM);
            self.signal_if_running(libc::SIGCONT);
            let gone = async {
                while self.is_running() {
                    tokio::time::sleep(STOP_POLL_INTERVAL).await;
                }
            };
            if tokio::time::timeout(deadline, gone).await.is_err() {
                self.kill();
            }
        }
        self.exit_status()
    }

    /// Sends SIGTERM and returns at once, for tests of how a process ends; see [`Process::exit_status`].
    ///
    /// # Panics
    ///
    /// When it is not running.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Kills the process (SIGKILL) and waits for its end. A process that is not running is left alone.
    pub fn kill(&self) {
        self.signal_if_running(libc::SIGKILL);
        if let Some(child) = self.child().as_mut() {
            // It fails only for a child that somebody else waited for, and then it is gone as well.
            let _ = child.wait();
        }
    }

    /// Freezes the process (SIGSTOP): its sockets stay open and nobody answers.
    ///
    /// # Panics
    ///
    /// When it is not running.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Panics
    ///
    /// When it is not running.
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Everything it wrote to standard output, over all its starts.
    pub fn stdout(&self) -> String {
        self.read_log("stdout")
    }

    /// Everything it wrote to standard error, over all its starts.
    pub fn stderr(&self) -> String {
        self.read_log("stderr")
    }

    /// The last lines of both outputs and how the process ended, for the message of a failed test.
    pub fn log(&self) -> String {
        let state = match self.exit_status() {
            Some(status) => format!("ended with {status}"),
            None if self.is_running() => "running".to_owned(),
            None => "not started".to_owned(),
        };
        let mut log = format!("--- {} ({state})\n", self.name);
        for stream in ["stdout", "stderr"] {
            let text = self.read_log(stream);
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            if !tail.is_empty() {
                log.push_str(&format!("--- last lines of {stream}\n{}\n", tail.join("\n")));
            }
        }
        log
    }

    /// The memory that the process holds now, in bytes (`VmRSS`).
    ///
    /// # Panics
    ///
    /// When it is not running.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
        let kib: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|value| value.trim().strip_suffix(" kB"))
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("{path} names no VmRSS: {} is not running\n{}", self.name, self.log()));
        kib * 1024
    }

    fn signal(&self, signal: libc::c_int) {
        assert!(
            self.signal_if_running(signal),
            "{} is not running, so it takes no signal {signal}\n{}",
            self.name,
            self.log()
        );
    }

    #[allow(unsafe_code)] // std sends SIGKILL only, and to the leader only
    fn signal_if_running(&self, signal: libc::c_int) -> bool {
        let mut child = self.child();
        let Some(child) = child.as_mut() else {
            return false;
        };
        if !is_alive(child) {
            return false;
        }
        let group = -child.id().cast_signed();
        // SAFETY: kill takes plain integers. The group is ours: its leader has not been waited for, which happens only
        // under the lock that is held here, so the kernel cannot have given its number to anyone else.
        unsafe { libc::kill(group, signal) == 0 }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_path(&self, stream: &str) -> PathBuf {
        self.directory().join(format!("{stream}.log"))
    }

    fn open_log(&self, stream: &str) -> File {
        let path = self.log_path(stream);
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
    }

    fn read_log(&self, stream: &str) -> String {
        // Not there before the first start.
        fs::read(self.log_path(stream))
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() && self.child().is_some() {
            eprintln!("{}", self.log());
        }
        self.kill();
    }
}

fn is_alive(child: &mut Child) -> bool {
    exit_status(child).is_none()
}

fn exit_status(child: &mut Child) -> Option<ExitStatus> {
    child.try_wait().expect("nobody else waits for our child")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::wait::wait_until;

    const SOON: Duration = Duration::from_secs(5);

    fn shell(script: &str) -> Process {
        Process::new("/bin/sh").arguments(["-c", script])
    }

    #[tokio::test]
    async fn output_and_exit_status_are_kept_over_starts() {
        let process = shell("echo out $WORD; echo err >&2; exit 3").environment("WORD", "here");
        assert!(process.log().contains("not started"));
        for _ in 0..2 {
            process.start();
            wait_until("the shell's end", SOON, || !process.is_running()).await;
        }
        assert_eq!(process.stdout(), "out here\nout here\n");
        assert_eq!(process.stderr(), "err\nerr\n");
        assert_eq!(process.exit_status().unwrap().code(), Some(3));
        assert!(process.log().contains("ended with exit status: 3"), "{}", process.log());
    }

    #[tokio::test]
    async fn stop_is_polite_and_then_is_not() {
        let polite = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done");
        polite.start();
        wait_until("the trap", SOON, || polite.stdout() == "ready\n").await;
        assert_eq!(polite.stop(SOON).await.unwrap().code(), Some(7));

        let stubborn = shell("trap '' TERM; echo ready; while :; do sleep 0.01; done");
        stubborn.start();
        wait_until("the trap", SOON, || stubborn.stdout() == "ready\n").await;
        let status = stubborn.stop(Duration::from_millis(50)).await.unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }

    #[tokio::test]
    async fn a_paused_process_can_be_stopped() {
        let process = shell("exec sleep 600");
        process.start();
        process.pause();
        wait_until("the stopped state", SOON, || state_of(process.id()) == 'T').await;
        assert!(process.is_running());
        assert_eq!(process.stop(SOON).await.unwrap().signal(), Some(libc::SIGTERM));
    }

    #[tokio::test]
    async fn drop_kills_the_whole_group_and_removes_the_directory() {
        let process = shell("sleep 600 & echo $!; wait");
        process.start();
        wait_until("the grandchild", SOON, || !process.stdout().is_empty()).await;
        let grandchild: u32 = process.stdout().trim().parse().unwrap();
        let (leader, directory) = (process.id(), process.directory().to_owned());
        assert!(process.resident_bytes() > 0);
        drop(process);
        assert!(!Path::new(&format!("/proc/{leader}")).exists(), "the leader was not waited for");
        assert!(!directory.exists());
        // The grandchild's parent is gone, so whoever adopted it waits for it: dead counts as gone.
        let gone = || !Path::new(&format!("/proc/{grandchild}")).exists() || state_of(grandchild) == 'Z';
        wait_until("the grandchild's end", SOON, gone).await;
    }

    #[tokio::test]
    async fn a_process_outlives_the_thread_that_started_it() {
        let process = std::thread::spawn(|| {
            let process = shell("exec sleep 600");
            process.start();
            process
        })
        .join()
        .unwrap();
        // A signal at the thread's end would have been sent before join returned; give it a round trip to be seen.
        process.pause();
        wait_until("the stopped state", SOON, || state_of(process.id()) == 'T').await;
        assert!(process.is_running());
    }

    fn state_of(id: u32) -> char {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('-')
    }
}
