//! What is retained: `namespaces.NAME.history`, and `[history]`.

use std::{collections::HashMap, time::Duration};

use fanfare_broker::{HistoryOptions, Retention, Storage, mask_url};

use super::{check, reader::Reader};

/// Publications per channel, where a namespace keeps history and does not say how many.
const SIZE: usize = 1_000;
/// How long a publication is retained, where a namespace keeps history and does not say how long.
const TTL: Duration = Duration::from_secs(10 * 60);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MIB: u64 = 1024 * 1024;
/// Copies of a stream that NATS' consensus makes sense with.
const REPLICAS: [u8; 3] = [1, 3, 5];
/// The fewest copies of a stream in memory: one server's restart must not be the end of it.
const REPLICAS_IN_MEMORY: u8 = 3;
const STORAGE: [(&str, Storage); 2] = [("file", Storage::File), ("memory", Storage::Memory)];
/// Keys that say how NATS keeps streams.
const STREAM_KEYS: [&str; 4] = ["history.manage_streams", "history.storage", "history.replicas", "history.max_bytes"];

/// Reads `[history]`.
pub(super) fn read(reader: &mut Reader, namespaces: HashMap<Box<str>, Retention>, broker: &str) -> HistoryOptions {
    let default = HistoryOptions::default();
    let given: Vec<_> = STREAM_KEYS.into_iter().filter(|key| reader.has(key)).collect();
    let history = HistoryOptions {
        namespaces,
        manage_streams: reader.flag("history.manage_streams", default.manage_streams),
        storage: reader.choice("history.storage", default.storage, &STORAGE),
        replicas: reader.one_of("history.replicas", default.replicas, &REPLICAS),
        max_bytes: reader.optional_size("history.max_bytes", MIB..=1 << 50),
        dedupe_window: reader.duration("history.dedupe_window", default.dedupe_window, SECOND..=DAY),
        publish_only: false,
    };
    check_streams(&history, &given, broker, reader);
    history
}

/// What is retained of a namespace's channels: `history = { size = 1000, ttl = "10m" }`; either alone is enough.
pub(super) fn read_retention(reader: &mut Reader, namespace: &str) -> Option<Retention> {
    let table = format!("{namespace}.history");
    let (size, ttl) = (format!("{table}.size"), format!("{table}.ttl"));
    if !reader.has(&table) {
        // Not shown as if they were in effect: what is printed can be used as a configuration.
        reader.name_keys([size, ttl]);
        return None;
    }
    let publications = reader.count(&size, SIZE, 1..=1_000_000);
    Some(Retention {
        size: u32::try_from(publications).unwrap_or(u32::MAX),
        ttl: reader.duration(&ttl, TTL, SECOND..=30 * DAY),
    })
}

/// `namespace_defaults` cannot keep history.
pub(super) fn refuse_for_all(reader: &mut Reader) {
    let text = "history is kept by namespaces that are declared, since each is kept apart (on NATS in a stream of its \
                own); give it to them: [namespaces.NAME] history = { size = 1000, ttl = \"10m\" }";
    reader.refuse("namespace_defaults.history", text);
}

/// Streams are NATS' own.
fn check_streams(history: &HistoryOptions, given: &[&str], broker: &str, reader: &mut Reader) {
    if !check::is_nats(broker) {
        let broker = mask_url(broker);
        let warn = |key| format!("{key}: is only for NATS, and does nothing; broker is {broker}");
        reader.warnings.extend(given.iter().map(warn));
    } else if history.storage == Storage::Memory && history.replicas < REPLICAS_IN_MEMORY {
        let text = format!(
            "streams in memory need history.replicas = {REPLICAS_IN_MEMORY} or more, not {}: else the restart of one \
             server is the end of all history",
            history.replicas
        );
        reader.contradiction("history.storage", "\"memory\"", text);
    }
}
