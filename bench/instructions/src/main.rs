//! `instructions`: counts what hot functions cost under callgrind, and holds it against bench/instructions/baseline.json.

mod baseline;
mod callgrind;
mod cases;
mod comparison;
mod counter;
mod environment;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use baseline::{Baseline, Counts};
use callgrind::CountError;
use comparison::Comparison;
use environment::Environment;

const USAGE: &str = "\
instructions check   counts, and fails where something costs more than the baseline allows
instructions accept  counts, and makes that the baseline
  --baseline FILE    another baseline than bench/instructions/baseline.json
  --counts FILE      counts from a file in the form of a baseline, instead of counting
  --profiles DIR     keeps callgrind's profiles, one for each case, to be read by callgrind_annotate";

/// How often all is counted; a run takes three seconds.
const RUNS: usize = 3;

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}\n\n{USAGE}")]
    Usage(String),
    #[error(transparent)]
    Count(#[from] CountError),
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Environment(String),
    #[error(transparent)]
    Output(#[from] io::Error),
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<ExitCode, Failure> {
    let command = arguments.next().unwrap_or_default();
    if command == callgrind::CASES {
        cases::run_all();
        return Ok(ExitCode::SUCCESS);
    }
    let (mut baseline, mut counts, mut profiles) = (PathBuf::from(baseline::PATH), None, None);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| Failure::Usage(format!("{option} needs a value")))?;
        match option.as_str() {
            "--baseline" => baseline = value.into(),
            "--counts" => counts = Some(PathBuf::from(value)),
            "--profiles" => profiles = Some(PathBuf::from(value)),
            _ => return Err(Failure::Usage(format!("{option} is not known"))),
        }
    }
    let counted = || match counts {
        Some(path) => read(&path),
        None => Ok(Baseline { environment: Environment::here()?, counts: count(profiles.as_deref())? }),
    };
    match command.as_str() {
        "check" => check(&read(&baseline)?, counted),
        "accept" => accept(&baseline, counted()?),
        _ => Err(Failure::Usage(format!("a command is missing, or {command:?} is none"))),
    }
}

fn check(baseline: &Baseline, counted: impl FnOnce() -> Result<Baseline, Failure>) -> Result<ExitCode, Failure> {
    let counted = counted()?;
    baseline.environment.check(&counted.environment).map_err(Failure::Environment)?;
    let comparison = Comparison::new(&baseline.counts, &counted.counts);
    writeln!(io::stdout(), "{comparison}")?;
    for note in baseline.environment.notes(&counted.environment) {
        writeln!(io::stdout(), "{note}")?;
    }
    Ok(if comparison.is_within_bounds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn accept(path: &Path, counted: Baseline) -> Result<ExitCode, Failure> {
    let old = read(path).map_or_else(|_| Counts::new(), |old| old.counts);
    writeln!(io::stdout(), "{}", Comparison::new(&old, &counted.counts).table())?;
    counted.write(path).map_err(|error| Failure::File { path: path.to_owned(), error })?;
    writeln!(
        io::stdout(),
        "{} has these counts now; commit it, and say in the message why they changed",
        path.display()
    )?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<Baseline, Failure> {
    Baseline::read(path).map_err(|error| Failure::File { path: path.to_owned(), error })
}

/// The least of several runs: where a stack or a block of memory happens to lie makes a copy longer now and then.
fn count(profiles: Option<&Path>) -> Result<Counts, Failure> {
    if let Some(directory) = profiles {
        std::fs::create_dir_all(directory)?;
        return Ok(callgrind::count(directory)?);
    }
    let mut least = callgrind::count(tempfile::tempdir()?.path())?;
    for _ in 1..RUNS {
        for (name, count) in callgrind::count(tempfile::tempdir()?.path())? {
            least.entry(name).and_modify(|known| *known = known.min(count)).or_insert(count);
        }
    }
    Ok(least)
}
