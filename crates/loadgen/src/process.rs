//! CPU time and memory of another process, from /proc.

use std::{fs, time::Duration};

use crate::LoadError;

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

/// Resident anonymous memory in bytes: what the process allocated, without its program text and without the kernel's sockets.
pub(crate) fn anonymous_bytes(pid: u32) -> Result<u64, LoadError> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(LoadError::io(&*path))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| LoadError::Failed(format!("{path} has no RssAnon")))
}
