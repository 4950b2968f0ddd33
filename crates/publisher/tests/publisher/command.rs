//! Runs the `fanfare` program.

use std::process::{Output, Stdio};

use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
    time::timeout,
};

use crate::SOON;

/// The program without the variables of whoever runs the tests. It is killed when its handle is dropped.
pub(crate) fn fanfare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FANFARE_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What became of a run.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    fn new(output: Output) -> Self {
        Self {
            code: output.status.code().expect("no signal ends the program"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs it to its end.
pub(crate) async fn run(arguments: &[&str]) -> Ended {
    end(fanfare(arguments).spawn().unwrap()).await
}

/// Runs it to its end with something on standard input.
pub(crate) async fn run_with_input(arguments: &[&str], input: &str) -> Ended {
    let mut child = fanfare(arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    end(child).await
}

/// Waits for its end.
pub(crate) async fn end(child: Child) -> Ended {
    Ended::new(timeout(SOON, child.wait_with_output()).await.expect("the program ends in time").unwrap())
}
