//! Exit codes that scripts can use.

use std::process::ExitCode;

/// The last part of every `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  another failure, such as a file that cannot be read
  2  wrong usage; nothing was sent
  3  refused for good: trying again unchanged would fail again
  4  no connection or no answer in time: nothing is known to have been accepted
  5  accepted in part: standard error says which part was not

Results go to standard output, everything else to standard error.";

/// Why the program ends with an exit code other than 0, and what it says about it.
#[derive(Debug)]
pub(crate) struct Failed {
    code: u8,
    message: Option<String>,
}

impl Failed {
    /// Anything that has no code of its own.
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self::new(1, message)
    }

    /// Arguments that cannot be used.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(2, message)
    }

    /// Refused for good.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(3, message)
    }

    /// No connection, or no answer in time.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(4, message)
    }

    /// A part was accepted.
    pub(crate) fn in_part(message: impl Into<String>) -> Self {
        Self::new(5, message)
    }

    /// Whoever reads standard output has gone: that is an ordinary end, without a word.
    pub(crate) fn nobody_reads() -> Self {
        Self { code: 0, message: None }
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    pub(crate) fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: Some(message.into()) }
    }
}
