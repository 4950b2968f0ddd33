//! Layers file, environment and flags, and reads the result as a whole.

use std::{env, fmt, path::PathBuf};

use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format as _, Toml},
    value::{Dict, Map, Value},
};

use super::{Config, build::build, reader::Reader};

/// What every variable of ours begins with.
const PREFIX: &str = "FANFARE_";

/// Variables with our prefix that are read by others: the command line's own (`--config`), and those of `fanfare`.
const VARIABLES_OF_OTHERS: [&str; 4] = ["FANFARE_CONFIG", "FANFARE_URL", "FANFARE_WS_URL", "FANFARE_TOKEN"];

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The TOML file, where there is one.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `FANFARE_` are passed over.
    pub environment: Vec<(String, String)>,
    /// What flags say.
    pub overrides: Overrides,
}

/// What flags say; each overrides file and environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`
    pub listen: Option<String>,
    /// `--internal-listen`
    pub internal_listen: Option<String>,
    /// `--broker`
    pub broker: Option<String>,
    /// `--presence`
    pub presence: Option<String>,
    /// `--shards`
    pub shards: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
    /// `--log-format`
    pub log_format: Option<String>,
}

/// One thing that is wrong: which key, its value (secrets masked), where that came from, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key: `limits.outbox_bytes`.
    pub key: String,
    /// Its value, where it may be shown.
    pub value: Option<String>,
    /// Where the value came from.
    pub source: Option<String>,
    /// What is allowed.
    pub text: String,
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        write!(f, ": {}", self.text)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl Inputs {
    /// Takes the environment of this process.
    pub fn from_process(file: Option<PathBuf>, overrides: Overrides) -> Self {
        let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
        let environment = env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Self { file, environment, overrides }
    }
}

impl Config {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// Every [`Problem`] that was found, not just the first.
    pub fn load(inputs: &Inputs) -> Result<Self, Problems> {
        let figment = match &inputs.file {
            Some(path) => read_file(path).map_err(|problem| Problems(vec![problem]))?,
            None => Figment::new(),
        };
        let figment = environment(&inputs.environment).into_iter().fold(figment, Figment::merge);
        let figment = flags(&inputs.overrides).into_iter().fold(figment, Figment::merge);
        let values = figment.data().ok().and_then(|mut data| data.remove(&Profile::Default)).unwrap_or_default();
        build(Reader::new(figment, values))
    }
}

/// The order in which sources override each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    File,
    Environment,
    Flag,
}

impl Layer {
    /// By the name that a source was given here.
    pub(super) fn of(name: &str) -> Self {
        match name.split(' ').next() {
            Some("environment") => Self::Environment,
            Some("flag") => Self::Flag,
            _ => Self::File,
        }
    }
}

/// Values that have one source.
struct Source {
    name: String,
    values: Dict,
}

impl Provider for Source {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

fn read_file(path: &std::path::Path) -> Result<Figment, Problem> {
    let name = format!("file {}", path.display());
    let problem = |text| Problem { key: "--config".into(), value: Some(format!("{path:?}")), source: None, text };
    let text = std::fs::read_to_string(path).map_err(|error| problem(format!("the file cannot be read: {error}")))?;
    let mut data = Toml::string(&text).data().map_err(|error| problem(format!("the file is not TOML: {error}")))?;
    let values = data.remove(&Profile::Default).unwrap_or_default();
    Ok(Figment::from(Source { name, values }))
}

fn environment(variables: &[(String, String)]) -> Vec<Source> {
    let mut ours: Vec<_> = variables.iter().filter(|(name, _)| is_ours(name)).collect();
    ours.sort();
    ours.into_iter()
        .map(|(name, value)| {
            let key = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
            source(format!("environment variable {name}"), &key, value)
        })
        .collect()
}

fn flags(overrides: &Overrides) -> Vec<Source> {
    let Overrides { listen, internal_listen, broker, presence, shards, log_level, log_format } = overrides;
    [
        ("--listen", "listen", listen),
        ("--internal-listen", "internal_listen", internal_listen),
        ("--broker", "broker", broker),
        ("--presence", "store", presence),
        ("--shards", "shards", shards),
        ("--log-level", "log.level", log_level),
        ("--log-format", "log.format", log_format),
    ]
    .into_iter()
    .filter_map(|(flag, key, value)| Some(source(format!("flag {flag}"), key, value.as_ref()?)))
    .collect()
}

/// Text as it is: what kind of value it has to be is the key's business, so that a secret of digits stays a text.
fn source(name: String, key: &str, value: &str) -> Source {
    let mut names = key.rsplit('.');
    let last = names.next().unwrap_or_default();
    let mut values = Dict::from([(last.to_owned(), Value::from(value))]);
    for table in names {
        values = Dict::from([(table.to_owned(), Value::from(values))]);
    }
    Source { name, values }
}

fn is_ours(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| !rest.is_empty() && !is_service_link(rest))
        && !VARIABLES_OF_OTHERS.contains(&name)
}

/// Kubernetes gives every container variables for each service of its namespace; those of a service named `fanfare` or
/// `fanfare-…` begin like ours: `FANFARE_PORT`, `FANFARE_SERVICE_HOST`, `FANFARE_PORT_8000_TCP_ADDR`.
fn is_service_link(rest: &str) -> bool {
    let rest = format!("_{rest}");
    let is_port = |text: &str| {
        let mut words = text.split('_');
        let number = words.next().is_some_and(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()));
        number && matches!(words.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    rest.ends_with("_SERVICE_HOST")
        || rest.contains("_SERVICE_PORT")
        || rest.ends_with("_PORT")
        || rest.split_once("_PORT_").is_some_and(|(_, port)| is_port(port))
}
