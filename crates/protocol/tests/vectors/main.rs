//! The golden frames of tests/vectors/, read as the clients' tests read them, and docs/protocol.md held to them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client_frames;
mod deliveries;
mod documentation;
mod names;
mod server_frames;

use fanfare_protocol::msgpack::{json_to_msgpack, msgpack_to_json};
use serde::de::DeserializeOwned;

/// Reads one file of tests/vectors/.
fn read<T: DeserializeOwned>(file: &str) -> T {
    let path = format!("{}/../../tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What differs, all at once: who changes the wire on purpose sees the whole of it.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn expect<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, what: &str, actual: T, expected: T) {
        if actual != expected {
            self.0.push(format!("{name}: {what} is\n  {actual:?}\nbut the vector says\n  {expected:?}"));
        }
    }

    fn report(self) {
        assert!(self.0.is_empty(), "{} differences\n{}", self.0.len(), self.0.join("\n"));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn pack(json: &str) -> String {
    let mut out = Vec::new();
    json_to_msgpack(json.as_bytes(), &mut out).unwrap_or_else(|error| panic!("{json}: {error}"));
    hex(&out)
}

fn unpack(msgpack: &str) -> String {
    let mut out = Vec::new();
    msgpack_to_json(&unhex(msgpack), &mut out).unwrap_or_else(|error| panic!("{msgpack}: {error}"));
    String::from_utf8(out).unwrap()
}
