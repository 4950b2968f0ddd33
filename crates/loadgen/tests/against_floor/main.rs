//! `fanfare-load` against the floor, both as programs.

#![allow(clippy::unwrap_used, reason = "a test that cannot run its programs has failed")]

mod connections;
mod deliveries;

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

const LOAD: &str = env!("CARGO_BIN_EXE_fanfare-load");

/// A floor that runs until it is dropped.
struct Floor {
    process: Child,
    address: String,
}

impl Floor {
    fn start(options: &[&str]) -> Self {
        let mut command = Command::new(LOAD);
        command.arg("floor").args(options).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        Self { address: ready["public"].as_str().unwrap().to_owned(), process }
    }

    /// What a command says of the floor.
    fn load(&self, command: &str, options: &[&str]) -> Value {
        let pid = self.process.id().to_string();
        let always = ["--server", &self.address, "--pid", &pid, "--path", "/?channel={n}", "--subscribed", ""];
        let run = Command::new(LOAD).arg(command).args(always).args(options).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        serde_json::from_slice(&run.stdout).unwrap()
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
