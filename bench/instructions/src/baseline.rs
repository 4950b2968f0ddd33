//! Counts in a file.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::environment::Environment;

/// Where the project's own baseline lies, from the repository's root.
pub const PATH: &str = "bench/instructions/baseline.json";

/// Instructions of one call, by case.
pub type Counts = BTreeMap<String, f64>;

/// Counts, and where they come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Where they come from.
    pub environment: Environment,
    /// The counts.
    pub counts: Counts,
}

impl Baseline {
    /// Reads a file.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
    }

    /// Writes a file, one line for each case, so that a change reads well.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }
}
