//! The verdict as whoever runs the check gets it: by the exit code.

#![allow(clippy::unwrap_used, reason = "a test that cannot run the check fails there and then")]

use std::{fs, path::Path, process::Command};

const BASELINE: &str = r#"{
  "environment": { "rustc": "rustc 1", "target": "t", "vectors": "v", "valgrind": "valgrind-1", "libc": "l" },
  "counts": { "envelope": 1000.0, "flush": 50.0 }
}"#;

/// Runs the check of these counts against the baseline above: whether it passed, and what it said.
fn check(counted: &str) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (baseline, counts) = (file("baseline.json", BASELINE), file("counts.json", counted));
    let run = |baseline: &Path, counts: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_instructions"));
        command.arg("check").arg("--baseline").arg(baseline).arg("--counts").arg(counts).output().unwrap()
    };
    let output = run(&baseline, &counts);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn it_passes_within_the_bound() {
    let (passed, said) = check(&BASELINE.replace("1000.0", "1040.0"));
    assert!(passed, "{said}");
    assert!(said.contains("+4.0 %"), "{said}");
}

#[test]
fn it_fails_above_the_bound() {
    let (passed, said) = check(&BASELINE.replace("50.0", "53.0"));
    assert!(!passed, "{said}");
    assert!(said.contains("+6.0 %  MORE"), "{said}");
    assert!(said.contains("make instructions-accept"), "{said}");
}

#[test]
fn it_fails_with_another_compiler() {
    let (passed, said) = check(&BASELINE.replace("rustc 1", "rustc 2"));
    assert!(!passed, "{said}");
    assert!(said.contains("rustc is \"rustc 2\" here and \"rustc 1\" in the baseline"), "{said}");
}

#[test]
fn it_fails_without_a_case_that_the_baseline_has() {
    let (passed, said) = check(&BASELINE.replace("\"flush\": 50.0", "\"other\": 50.0"));
    assert!(!passed, "{said}");
    assert!(said.contains("GONE") && said.contains("NEW"), "{said}");
}
