//! CPU time and memory of other processes, from /proc.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::LoadError;

/// How often descriptors are counted while they are waited for.
const LOOKING: Duration = Duration::from_millis(5);
/// Descriptors that a server may have opened meanwhile for itself.
const OTHER_DESCRIPTORS: usize = 4;

/// What servers, broker and load have used, at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    at: Instant,
    server: Duration,
    broker: Option<Duration>,
    load: Duration,
}

/// What was used between two of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// By the clock.
    pub(crate) wall: Duration,
    /// CPU time of all servers.
    pub(crate) server: Duration,
    /// CPU time of the broker, where there is one.
    pub(crate) broker: Option<Duration>,
    /// CPU time of the load itself.
    pub(crate) load: Duration,
}

impl Usage {
    /// Of the servers together, the broker and this process, until now.
    pub(crate) fn read(servers: &[u32], broker: Option<u32>) -> Result<Self, LoadError> {
        Ok(Self {
            server: servers.iter().map(|pid| cpu(*pid)).sum::<Result<_, _>>()?,
            broker: broker.map(cpu).transpose()?,
            load: cpu(std::process::id())?,
            at: Instant::now(),
        })
    }

    /// What was used since `before`.
    pub(crate) fn since(&self, before: &Self) -> Spent {
        Spent {
            wall: self.at.saturating_duration_since(before.at),
            server: self.server.saturating_sub(before.server),
            broker: self.broker.zip(before.broker).map(|(now, then)| now.saturating_sub(then)),
            load: self.load.saturating_sub(before.load),
        }
    }
}

impl Spent {
    /// Of a CPU time, the share of a core.
    pub(crate) fn share(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() / self.wall.as_secs_f64()
    }
}

/// CPU time of all threads that live now; to the nanosecond where the kernel accounts for it.
pub(crate) fn cpu(pid: u32) -> Result<Duration, LoadError> {
    let directory = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&directory).map_err(LoadError::io(directory))?;
    let mut nanos = 0;
    for task in tasks.flatten() {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        nanos += text.split_whitespace().next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

/// Resident anonymous memory in bytes: what the processes allocated, without program text and without the kernel's sockets.
pub(crate) fn anonymous_bytes(pids: &[u32]) -> Result<u64, LoadError> {
    pids.iter().map(|pid| anonymous_bytes_of(*pid)).sum()
}

fn anonymous_bytes_of(pid: u32) -> Result<u64, LoadError> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(LoadError::io(&*path))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| LoadError::Failed(format!("{path} has no RssAnon")))
}

/// How many descriptors the processes have open.
pub(crate) fn descriptors(pids: &[u32]) -> Result<usize, LoadError> {
    pids.iter().map(|pid| descriptors_of(*pid)).sum()
}

fn descriptors_of(pid: u32) -> Result<usize, LoadError> {
    let directory = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&directory).map_err(LoadError::io(directory))?.count())
}

/// Waits until the processes have no more than `open` descriptors, or a few that are no sockets of clients: then they have
/// noticed that clients are gone.
pub(crate) fn wait_until_closed(pids: &[u32], open: usize, within: Duration) -> Result<(), LoadError> {
    let deadline = Instant::now() + within;
    loop {
        let left = descriptors(pids)?.saturating_sub(open);
        if left <= OTHER_DESCRIPTORS {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(LoadError::Failed(format!(
                "{left} sockets were not closed {within:?} after clients closed them"
            )));
        }
        std::thread::sleep(LOOKING);
    }
}
