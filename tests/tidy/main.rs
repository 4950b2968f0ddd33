//! Rules about the repository itself that a machine can check. Each failure says what to do.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the repository fails there and then")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What each crate may depend on among our own, outside of tests. ARCHITECTURE.md says why.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("protocol", &[]),
    ("session", &["protocol"]),
    ("broker", &["protocol"]),
    // Redis is reached in one way: by the broker's connections.
    ("presence", &["protocol", "broker"]),
    ("gateway", &["protocol", "session", "broker", "presence"]),
    ("publisher", &["protocol", "broker"]),
    ("loadgen", &["protocol"]),
    ("testkit", &[]),
];

/// Crates without IO, clock and randomness.
const PURE: [&str; 2] = ["protocol", "session"];

/// What of crates/presence decides: files, or folders with all that is in them. The others are stores, and what opens them.
const PURE_PRESENCE: [&str; 9] = [
    "announcer.rs",
    "compact_map.rs",
    "keeper",
    "keeper.rs",
    "lib.rs",
    "place_map.rs",
    "roster",
    "roster.rs",
    "row.rs",
];

/// What would make code impure.
const IMPURE: [&str; 9] = [
    "std::net",
    "std::fs",
    "std::thread",
    "std::process",
    "Instant::now",
    "SystemTime::now",
    "tokio",
    "rand::",
    "fastrand",
];

/// The rest of crates/presence: the trait, which is async, what opens a store, and the stores.
const STORES: [&str; 6] = ["memory", "memory.rs", "open.rs", "redis", "redis.rs", "store.rs"];

/// Names of modules that say nothing.
const EMPTY_NAMES: [&str; 4] = ["utils", "common", "core", "helpers"];

/// Lines of a file that can still be read in one go.
const FILE_LINES: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn crates() -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn sources(below: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(sources(&path, extension));
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    found
}

fn lines_of(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn dependencies_run_one_way() {
    let known: Vec<_> = ALLOWED.iter().map(|(name, _)| name.to_string()).collect();
    for name in crates() {
        assert!(known.contains(&name), "crates/{name} is new: say in ALLOWED what it may depend on");
    }
    for (name, allowed) in ALLOWED {
        let manifest: toml::Table = read(format!("crates/{name}/Cargo.toml")).parse().unwrap();
        let dependencies = manifest["dependencies"].as_table().unwrap();
        for own in dependencies.keys().filter_map(|dependency| dependency.strip_prefix("fanfare-")) {
            assert!(allowed.contains(&own), "{name} depends on {own}; allowed are {allowed:?}");
        }
    }
}

#[test]
fn pure_crates_stay_pure() {
    for name in PURE {
        sources(&root().join("crates").join(name).join("src"), "rs").iter().for_each(|path| is_pure(path));
    }
}

/// A file without IO, clock and randomness. Comments may speak of them.
fn is_pure(path: &Path) {
    for (number, line) in lines_of(path).iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let found = IMPURE.iter().find(|word| code.contains(**word));
        assert!(
            found.is_none(),
            "{}:{}: {found:?}; time and randomness are arguments here, and there is no IO",
            path.display(),
            number + 1
        );
    }
}

/// What decides about presence is tested on virtual time and against models; stores carry out.
#[test]
fn what_decides_about_presence_is_pure() {
    let source = root().join("crates/presence/src");
    for name in PURE_PRESENCE {
        let path = source.join(name);
        match path.is_dir() {
            true => sources(&path, "rs").iter().for_each(|path| is_pure(path)),
            false => is_pure(&path),
        }
    }
    let known = |name: &str| PURE_PRESENCE.contains(&name) || STORES.contains(&name);
    for entry in fs::read_dir(&source).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known(&name), "crates/presence/src/{name} is new: say in PURE_PRESENCE or STORES what it is");
    }
}

#[test]
fn only_the_presence_crate_names_a_concrete_store() {
    for name in crates().into_iter().filter(|name| name != "presence") {
        for path in sources(&root().join("crates").join(name).join("src"), "rs") {
            // Tests of a module may run on the store in memory, like those that stand in files of their own.
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            // A text for operators, and no store.
            let text = text.replace("fanfare_presence::redis::FUNCTIONS", "");
            let is_test = path.file_stem().is_some_and(|stem| stem.to_str().unwrap().ends_with("tests"))
                || path.components().any(|part| part.as_os_str() == "tests");
            for concrete in ["fanfare_presence::memory", "fanfare_presence::redis"] {
                assert!(is_test || !text.contains(concrete), "{} names {concrete}", path.display());
            }
        }
    }
    // Of all that runs in a node, main.rs alone opens one.
    for path in sources(&root().join("crates/gateway/src"), "rs") {
        let opens = fs::read_to_string(&path).unwrap().contains("fanfare_presence::open(");
        assert!(!opens || path.ends_with("main.rs"), "{} opens a presence store", path.display());
    }
}

#[test]
fn only_the_assembly_names_a_concrete_broker() {
    let source = root().join("crates/gateway/src");
    for path in sources(&source, "rs") {
        let text = fs::read_to_string(&path).unwrap();
        for concrete in ["fanfare_broker::nats", "fanfare_broker::redis", "async_nats", "fred::"] {
            assert!(!text.contains(concrete), "{} names {concrete}", path.display());
        }
    }
}

#[test]
fn modules_are_named_after_what_they_hold_and_can_be_read_in_one_go() {
    for path in sources(&root().join("crates"), "rs").into_iter().chain(sources(&root().join("tests"), "rs")) {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(!EMPTY_NAMES.contains(&stem), "{}: name it after what it holds", path.display());
        let lines = lines_of(&path).len();
        assert!(lines <= FILE_LINES, "{} has {lines} lines; allowed are {FILE_LINES}", path.display());
    }
}

/// Paths in backticks that ARCHITECTURE.md and README.md name have to be there.
#[test]
fn documents_name_what_exists() {
    for document in ["ARCHITECTURE.md", "README.md"] {
        let text = read(document);
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path = ["crates/", "tests/", "docs/", "fuzz/", ".ci/"].iter().any(|top| quoted.starts_with(top));
            if is_path && !quoted.contains(['*', '{', ' ', '<']) {
                assert!(root().join(quoted).exists(), "{document} names {quoted}, which is not there");
            }
        }
    }
    let architecture = read("ARCHITECTURE.md");
    for name in crates() {
        assert!(architecture.contains(&format!("`crates/{name}`")), "ARCHITECTURE.md does not name crates/{name}");
    }
    for entry in fs::read_dir(root().join("crates/gateway/src")).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let named = architecture.contains(&format!("`{stem}`"));
        assert!(named || ["lib", "main"].contains(&&*stem), "ARCHITECTURE.md does not name the gateway's {stem}");
    }
}

/// Links in Markdown that point into the repository have to lead somewhere.
#[test]
fn links_lead_somewhere() {
    let documents = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root().join(name));
    for document in documents.into_iter().chain(sources(&root().join("docs"), "md")) {
        let text = fs::read_to_string(&document).unwrap_or_else(|error| panic!("{}: {error}", document.display()));
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let full = document.parent().unwrap().join(path);
            assert!(full.exists(), "{} links to {target}, which is not there", document.display());
        }
    }
}
