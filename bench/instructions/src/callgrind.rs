//! Runs all cases under callgrind and reads what it counted.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use crate::baseline::Counts;

/// The command of this program that runs under callgrind.
pub const CASES: &str = "cases";

/// Why nothing was counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// Valgrind is not there, or cannot be run.
    #[error("valgrind cannot be run ({0}); tests/install-valgrind.sh installs it")]
    NoValgrind(io::Error),
    /// The cases failed.
    #[error("the cases ended with {status} under valgrind:\n{said}")]
    Failed {
        /// How.
        status: std::process::ExitStatus,
        /// What was on standard error.
        said: String,
    },
    /// What valgrind wrote is not what is expected.
    #[error("{what} in what valgrind wrote about case {case:?}")]
    Unreadable {
        /// What is missing.
        what: &'static str,
        /// The name of the case.
        case: String,
    },
}

/// Instructions of one call of each case. Profiles lie in `directory` afterwards, numbered in the order of the cases.
pub fn count(directory: &Path) -> Result<Counts, CountError> {
    let program = std::env::current_exe().map_err(CountError::NoValgrind)?;
    let profile = directory.join("callgrind.out");
    let output = Command::new("valgrind")
        .args([
            "--quiet",
            "--tool=callgrind",
            "--compress-strings=no",
            "--toggle-collect=*count_instructions*",
            "--dump-after=*end_case*",
        ])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .args([program.as_os_str(), CASES.as_ref()])
        // What is around does not matter: neither tunables of the C library, nor its limits, nor the stack's beginning.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .output()
        .map_err(CountError::NoValgrind)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(CountError::Failed { status: output.status, said });
    }
    let told = String::from_utf8_lossy(&output.stdout);
    let cases = told.lines().filter_map(|line| line.split_once(' '));
    cases.enumerate().map(|(index, (calls, name))| read(&profile, index, calls, name)).collect()
}

/// The count of the case with this number, from its own profile.
fn read(profile: &Path, index: usize, calls: &str, name: &str) -> Result<(String, f64), CountError> {
    let unreadable = |what| CountError::Unreadable { what, case: name.to_owned() };
    let path = profile.with_extension(format!("out.{}", index + 1));
    let text = fs::read_to_string(path).map_err(|_| unreadable("there is no profile"))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or_else(|| unreadable("no total"))?;
    let total: u64 = total.trim().parse().map_err(|_| unreadable("the total is no number"))?;
    let calls: u64 = calls.parse().map_err(|_| unreadable("the number of calls is none"))?;
    if total == 0 || calls == 0 {
        return Err(unreadable("nothing was counted"));
    }
    // Tenths: what is left of loops around many calls is no part of the call.
    Ok((name.to_owned(), (total as f64 / calls as f64 * 10.0).round() / 10.0))
}
