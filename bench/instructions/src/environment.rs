//! What counts depend on beside the code.

use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::callgrind::CountError;

/// Where counts come from. The first three have to be the same for a comparison; the others make small differences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// `rustc --version`.
    rustc: String,
    /// Architecture and system.
    target: String,
    /// The vector instructions that valgrind gives to programs: all that it knows, where the machine has them.
    vectors: String,
    /// `valgrind --version`.
    valgrind: String,
    /// The C library, which copies and compares memory.
    libc: String,
}

impl Environment {
    /// This machine, and the compiler that built this program.
    pub fn here() -> Result<Self, CountError> {
        Ok(Self {
            rustc: env!("INSTRUCTIONS_RUSTC").to_owned(),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            vectors: vectors().to_owned(),
            valgrind: version_of("valgrind").map_err(CountError::NoValgrind)?,
            libc: version_of("ldd").unwrap_or_else(|_| "unknown".to_owned()),
        })
    }

    /// Whether counts of another environment can be held against these; else why not.
    pub fn check(&self, other: &Self) -> Result<(), String> {
        let fields = [
            ("rustc", &self.rustc, &other.rustc),
            ("target", &self.target, &other.target),
            ("vectors", &self.vectors, &other.vectors),
        ];
        match fields.into_iter().find(|(_, own, other)| own != other) {
            None => Ok(()),
            Some((name, own, other)) => Err(format!(
                "the baseline is of another environment: {name} is {other:?} here and {own:?} in the baseline. Counts of both \
                 cannot be compared. Use the baseline's, or, where the project moves on: make instructions-accept"
            )),
        }
    }

    /// Differences that may explain small changes.
    pub fn notes(&self, other: &Self) -> Vec<String> {
        let fields = [("valgrind", &self.valgrind, &other.valgrind), ("libc", &self.libc, &other.libc)];
        let differ = fields.into_iter().filter(|(_, own, other)| own != other);
        differ.map(|(name, own, other)| format!("note: {name} is {other:?} here and {own:?} in the baseline")).collect()
    }
}

#[cfg(target_arch = "x86_64")]
fn vectors() -> &'static str {
    // What valgrind 3.19 has beyond it, no machine's valgrind lacks.
    if std::arch::is_x86_feature_detected!("avx2") { "avx2" } else { "sse" }
}

#[cfg(not(target_arch = "x86_64"))]
fn vectors() -> &'static str {
    "the architecture's"
}

fn version_of(program: &str) -> std::io::Result<String> {
    let output = Command::new(program).arg("--version").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        let text = |text: &str| text.to_owned();
        Environment {
            rustc: text("rustc 1.95.0"),
            target: text("x86_64-linux"),
            vectors: text("avx2"),
            valgrind: text("valgrind-3.19.0"),
            libc: text("ldd 2.36"),
        }
    }

    #[test]
    fn another_compiler_is_refused_by_name() {
        let other = Environment { rustc: "rustc 1.96.0".to_owned(), ..environment() };
        let refusal = environment().check(&other).unwrap_err();
        assert!(refusal.contains("rustc is \"rustc 1.96.0\" here and \"rustc 1.95.0\" in the baseline"), "{refusal}");
        assert_eq!(environment().check(&environment()), Ok(()));
    }

    #[test]
    fn another_c_library_is_noted_and_taken() {
        let other = Environment { libc: "ldd 2.41".to_owned(), ..environment() };
        assert_eq!(environment().check(&other), Ok(()));
        assert_eq!(environment().notes(&other), ["note: libc is \"ldd 2.41\" here and \"ldd 2.36\" in the baseline"]);
    }
}
