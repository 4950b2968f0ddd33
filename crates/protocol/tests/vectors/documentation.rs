//! docs/protocol.md and docs/subjects.md are held to the vectors, the codes and the limits.

use std::collections::{BTreeMap, BTreeSet};

use fanfare_protocol::{Body, CloseCode, ErrorCode, limits};
use serde_json::Value;

use crate::{Differences, deliveries::REASONS, read};

/// A block of code with the comment above it, `<!-- vector: FILE/NAME -->` or `<!-- vector: FILE/NAME msgpack -->`.
struct Example {
    vector: Option<String>,
    language: String,
    text: String,
}

fn document(name: &str) -> String {
    let path = format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn examples(document: &str) -> Vec<Example> {
    let mut examples = Vec::new();
    let mut before = "";
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text = lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n");
            let vector = before.strip_prefix("<!-- vector: ").and_then(|rest| rest.strip_suffix(" -->"));
            examples.push(Example { vector: vector.map(Into::into), language: language.into(), text });
        }
        before = line;
    }
    examples
}

/// The rows of the tables whose first column is code: the cells without their backquotes.
fn rows(document: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    document.lines().filter(|line| line.starts_with("| ")).map(cells).collect()
}

fn section(document: &str, title: &str) -> String {
    let (_, rest) = document.split_once(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no section {title}"));
    rest.split("\n## ").next().unwrap().to_owned()
}

/// Every vector with a name, as `file/name`, and its text in both dialects.
fn vectors() -> BTreeMap<String, Value> {
    let mut vectors = BTreeMap::new();
    for file in ["client-frames", "server-frames", "deliveries"] {
        for vector in read::<Vec<Value>>(&format!("{file}.json")) {
            let name = vector["name"].as_str().unwrap();
            vectors.insert(format!("{file}/{name}"), vector);
        }
    }
    vectors
}

#[test]
fn every_example_is_a_golden_frame() {
    let document = document("protocol.md");
    let vectors = vectors();
    let mut differences = Differences::default();
    let mut shown = BTreeSet::new();
    for Example { vector, language, text } in examples(&document) {
        let Some(vector) = vector else {
            assert_ne!(language, "json", "an example without its vector:\n{text}");
            continue;
        };
        let (name, dialect) = vector.strip_suffix(" msgpack").map_or((&*vector, "json"), |name| (name, "msgpack"));
        let golden = vectors.get(name).unwrap_or_else(|| panic!("{name} is no vector"));
        differences.expect(name, "the example", text.as_str(), golden[dialect].as_str().unwrap());
        shown.insert(name.to_owned());
    }
    differences.report();

    let frames_of_nodes = vectors.keys().filter(|name| name.starts_with("server-frames/"));
    let missing: Vec<_> =
        frames_of_nodes.filter(|name| !name.starts_with("server-frames/error-") && !shown.contains(*name)).collect();
    assert!(missing.is_empty(), "without an example: {missing:?}");
    let kinds = |names: &mut dyn Iterator<Item = &String>| -> BTreeSet<String> {
        names.flat_map(|name| vectors[name]["decoded"].as_array().into_iter().flatten()).filter_map(kind).collect()
    };
    assert_eq!(kinds(&mut shown.iter()), kinds(&mut vectors.keys()), "every command has an example");
}

/// The command type of a decoded element.
fn kind(decoded: &Value) -> Option<String> {
    decoded.as_str().or_else(|| decoded["command"]["type"].as_str()).map(Into::into)
}

#[test]
fn every_code_is_explained() {
    let document = document("protocol.md");
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let errors: Vec<_> = rows(&section(&document, "Error codes")).into_iter().skip(1).collect();
    let documented: Vec<_> =
        errors.iter().filter(|row| !row[0].starts_with('-')).map(|row| row[..2].to_vec()).collect();
    let expected = ErrorCode::ALL.map(|code| vec![code.as_str().to_owned(), yes_no(code.retryable())]);
    assert_eq!(documented, expected);

    let closes: Vec<_> = rows(&section(&document, "Close codes")).into_iter().skip(1).collect();
    let documented: Vec<_> =
        closes.iter().filter(|row| !row[0].starts_with('-')).map(|row| row[..3].to_vec()).collect();
    let expected =
        CloseCode::ALL.map(|code| vec![code.as_u16().to_string(), code.as_str().to_owned(), yes_no(code.reconnect())]);
    assert_eq!(documented, expected);
    for row in errors.iter().chain(&closes) {
        assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}

#[test]
fn every_limit_is_listed_with_its_value() {
    let document = document("protocol.md");
    let documented: BTreeMap<String, u64> = rows(&section(&document, "Limits"))
        .into_iter()
        .filter(|row| row[0].chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .map(|row| (row[0].clone(), row[1].split(' ').next().unwrap().parse().unwrap()))
        .collect();
    let limits = [
        ("CHANNEL_BYTES", limits::CHANNEL_BYTES as u64),
        ("CHANNEL_SEGMENTS", limits::CHANNEL_SEGMENTS as u64),
        ("SEGMENT_BYTES", limits::SEGMENT_BYTES as u64),
        ("EVENT_BYTES", limits::EVENT_BYTES as u64),
        ("FIELD_BYTES", limits::FIELD_BYTES as u64),
        ("EXCLUDED_SESSIONS", limits::EXCLUDED_SESSIONS as u64),
        ("COMMANDS_PER_FRAME", limits::COMMANDS_PER_FRAME as u64),
        ("COMMAND_ID", limits::COMMAND_ID),
        ("MESSAGE_BYTES", limits::MESSAGE_BYTES as u64),
        ("PUBLICATION_BYTES", limits::PUBLICATION_BYTES as u64),
        ("TOKEN_BYTES", limits::TOKEN_BYTES as u64),
        ("ERROR_MESSAGE_BYTES", limits::ERROR_MESSAGE_BYTES as u64),
        ("MSGPACK_DEPTH", limits::MSGPACK_DEPTH as u64),
        ("HANDSHAKE_CHANNELS", limits::HANDSHAKE_CHANNELS as u64),
        ("STATE_BYTES", limits::STATE_BYTES as u64),
        ("PRESENCE_MEMBERS", limits::PRESENCE_MEMBERS as u64),
        ("PRESENCE_PAGE", limits::PRESENCE_PAGE as u64),
        ("PRESENCE_INFO_BYTES", limits::PRESENCE_INFO_BYTES as u64),
        ("PRESENCE_UPDATES", limits::PRESENCE_UPDATES.into()),
        ("SIGNALS", limits::SIGNALS.into()),
        ("HISTORY_PUBLICATIONS", limits::HISTORY_PUBLICATIONS.into()),
        ("RECOVERY_PUBLICATIONS", limits::RECOVERY_PUBLICATIONS as u64),
    ];
    assert_eq!(documented, limits.map(|(name, value)| (name.to_owned(), value)).into());

    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/limits.rs")).unwrap();
    let constants: BTreeSet<_> =
        source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next()).collect();
    assert_eq!(constants, limits.map(|(name, _)| name).into(), "every constant is compared above");
}

#[test]
fn every_reason_of_a_refused_publication_is_listed() {
    let document = document("subjects.md");
    let documented: BTreeSet<_> =
        rows(&section(&document, "What is refused")).into_iter().map(|row| row[0].clone()).collect();
    for reason in REASONS {
        assert!(documented.contains(reason), "{reason} is not in docs/subjects.md");
    }
}

#[test]
fn the_envelope_that_is_shown_is_one() {
    let examples = examples(&section(&document("subjects.md"), "The envelope"));
    let mut bodies = examples.into_iter().filter(|example| example.language == "json").map(|example| example.text);
    let body = Body::new(bodies.next().unwrap().into_bytes());
    assert!(body.envelope(limits::PUBLICATION_BYTES).is_ok());
    assert_eq!(bodies.next(), None);
}

#[test]
fn every_mapping_of_the_vectors_is_shown_as_it_is() {
    // The table of subjects.md has rows `channel | NATS | Redis`; each of them has to be a vector.
    let document = document("subjects.md");
    let names: Value = read("names.json");
    let mut shown = 0;
    for row in rows(&section(&document, "Names")).iter().filter(|row| row.len() == 4) {
        let is_it =
            |entry: &&Value| entry["tenant"] == row[0] && (entry["channel"] == row[1] || entry["topic"] == row[1]);
        let all = names["subjects"].as_array().into_iter().chain(names["interests"].as_array()).flatten();
        let Some(vector) = all.filter(is_it).find(|entry| entry["redis"].is_string()) else { continue };
        assert_eq!((vector["nats"].as_str(), vector["redis"].as_str()), (Some(&*row[2]), Some(&*row[3])), "{row:?}");
        shown += 1;
    }
    assert!(shown >= 4, "only {shown} rows are vectors");
}
