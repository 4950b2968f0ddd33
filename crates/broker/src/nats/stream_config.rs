//! What a stream has to be like, and how one differs from it: those of namespaces with history, and that of lifecycle events.

use std::time::Duration;

use fanfare_protocol::NatsSubjects;
use serde_json::{Map, Value, json};

use super::api::nanoseconds;
use crate::{HistoryOptions, Retention, Storage, limits};

/// Shortest window for duplicates that JetStream takes.
const LEAST_WINDOW: Duration = Duration::from_millis(100);

/// Stands at the end of a stream's description, with the last sequence when its size was raised: what was published up to
/// there may have been trimmed to a smaller size.
const SIZE_RAISED: &str = "; size raised at ";

/// The size is being raised. The sequence is known only when it has been.
const RAISING: u64 = u64::MAX;

/// What a stream has to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamConfig {
    pub(super) name: String,
    /// Only for those who look at it.
    description: String,
    subjects: Vec<String>,
    /// All other fields that matter, in the order in which they are told.
    fields: Vec<(&'static str, Value)>,
}

/// A field that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    field: &'static str,
    is: String,
    wanted: String,
}

impl StreamConfig {
    pub(super) fn new(
        subjects: &NatsSubjects,
        namespace: &str,
        retention: Retention,
        options: &HistoryOptions,
    ) -> Self {
        // A stream must not remember ids for longer than publications.
        let window = options.dedupe_window.min(retention.ttl).max(LEAST_WINDOW);
        let [source, destination] = subjects.republish();
        let mut fields = vec![
            ("retention", json!("limits")),
            ("storage", json!(storage(options))),
            ("discard", json!("old")),
            ("max_msgs_per_subject", json!(retention.size)),
            ("max_age", json!(nanoseconds(retention.ttl))),
            ("duplicate_window", json!(nanoseconds(window))),
            ("num_replicas", json!(options.replicas)),
            ("republish", json!({ "src": source, "dest": destination })),
        ];
        if let Some(bytes) = options.max_bytes {
            fields.push(("max_bytes", json!(bytes)));
        }
        if options.publish_only {
            fields.clear();
        }
        Self {
            name: subjects.stream(namespace),
            description: format!("history of the channels {namespace}:…, for Fanfare"),
            subjects: subjects.stream_subjects(namespace).into(),
            fields,
        }
    }

    /// The stream of lifecycle events.
    pub(super) fn events(subjects: &NatsSubjects, options: &HistoryOptions) -> Self {
        let window = options.dedupe_window.clamp(LEAST_WINDOW, limits::LIFECYCLE_AGE);
        let fields = vec![
            ("retention", json!("limits")),
            ("storage", json!(storage(options))),
            ("discard", json!("old")),
            ("max_msgs", json!(limits::LIFECYCLE_EVENTS)),
            ("max_age", json!(nanoseconds(limits::LIFECYCLE_AGE))),
            ("duplicate_window", json!(nanoseconds(window))),
            ("num_replicas", json!(options.replicas)),
        ];
        Self {
            name: subjects.events_stream(),
            description: "what happens to connections and channels, for services".to_owned(),
            subjects: vec![subjects.events()],
            // What somebody else has made is theirs to choose.
            fields: if options.manage_streams { fields } else { Vec::new() },
        }
    }

    /// Whether it says all that a stream has to be created with; for a publisher it does not.
    pub(super) fn is_complete(&self) -> bool {
        !self.fields.is_empty()
    }

    /// To create it with.
    pub(super) fn to_json(&self) -> Value {
        let mut config = Map::new();
        config.insert("name".to_owned(), json!(self.name));
        config.insert("description".to_owned(), json!(self.description));
        config.insert("subjects".to_owned(), json!(self.subjects));
        config.extend(self.fields.iter().map(|(field, value)| ((*field).to_owned(), value.clone())));
        Value::Object(config)
    }

    /// How the stream that is there differs, in what matters. Other fields are for those who set them.
    pub(super) fn differences(&self, config: &Value) -> Vec<Difference> {
        let subjects = subjects_of(config);
        let mut differences = Vec::new();
        if !self.subjects.iter().all(|subject| subjects.contains(&subject.as_str())) {
            differences.push(Difference {
                field: "subjects",
                is: json!(subjects).to_string(),
                wanted: json!(self.subjects).to_string(),
            });
        }
        for (field, wanted) in &self.fields {
            let is = &config[*field];
            if !is_as(field, is, wanted) {
                differences.push(Difference { field, is: shown(field, is), wanted: shown(field, wanted) });
            }
        }
        differences
    }

    /// Whether a stream of this name is for something else: none of its subjects is ours.
    pub(super) fn is_foreign(&self, config: &Value) -> bool {
        !subjects_of(config).iter().any(|subject| self.subjects.iter().any(|own| own == subject))
    }

    /// The stream's own configuration, changed only where it has to be.
    pub(super) fn updated(&self, config: &Value) -> Value {
        let mut updated = config.clone();
        for subject in &self.subjects {
            if !subjects_of(&updated).contains(&subject.as_str())
                && let Some(subjects) = updated["subjects"].as_array_mut()
            {
                subjects.push(json!(subject));
            }
        }
        for (field, wanted) in &self.fields {
            if !is_as(field, &updated[*field], wanted) {
                updated[*field] = wanted.clone();
            }
        }
        let size = |config: &Value| config["max_msgs_per_subject"].as_u64();
        if size(config) < size(&updated) && size(config).is_some() {
            set_size_raised(&mut updated, RAISING);
        }
        updated
    }

    /// Where the size has just been raised, at this sequence or before: the configuration that says so.
    pub(super) fn raised(config: &Value, last_sequence: u64) -> Option<Value> {
        (size_raised(config) == RAISING).then(|| {
            let mut raised = config.clone();
            set_size_raised(&mut raised, last_sequence);
            raised
        })
    }
}

/// From which sequence on the stream's size is what it is now; 0 where it always was.
pub(super) fn size_raised(config: &Value) -> u64 {
    let description = config["description"].as_str().unwrap_or_default();
    description.rsplit_once(SIZE_RAISED).and_then(|(_, sequence)| sequence.parse().ok()).unwrap_or_default()
}

fn set_size_raised(config: &mut Value, sequence: u64) {
    let description = config["description"].as_str().unwrap_or_default();
    let description = description.rsplit_once(SIZE_RAISED).map_or(description, |(before, _)| before);
    config["description"] = json!(format!("{description}{SIZE_RAISED}{sequence}"));
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {}, not {}", self.field, self.is, self.wanted)
    }
}

fn storage(options: &HistoryOptions) -> &'static str {
    match options.storage {
        Storage::File => "file",
        Storage::Memory => "memory",
    }
}

fn subjects_of(config: &Value) -> Vec<&str> {
    config["subjects"].as_array().map_or_else(Vec::new, |all| all.iter().filter_map(Value::as_str).collect())
}

fn is_as(field: &str, is: &Value, wanted: &Value) -> bool {
    match field {
        // Bodies have to come too; a server may say so or leave it out.
        "republish" => {
            is["src"] == wanted["src"]
                && is["dest"] == wanted["dest"]
                && !is["headers_only"].as_bool().unwrap_or_default()
        }
        _ => is == wanted,
    }
}

fn shown(field: &str, value: &Value) -> String {
    match (field, value.as_u64()) {
        ("max_age" | "duplicate_window", Some(nanoseconds)) => format!("{:?}", Duration::from_nanos(nanoseconds)),
        _ if value.is_null() => "not set".to_owned(),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(options: &HistoryOptions) -> StreamConfig {
        let retention = Retention { size: 100, ttl: Duration::from_secs(60) };
        StreamConfig::new(&NatsSubjects::new("rt").unwrap(), "project", retention, options)
    }

    #[test]
    fn a_stream_is_as_the_options_say() {
        let options = HistoryOptions { max_bytes: Some(1_000_000), replicas: 3, ..HistoryOptions::default() };
        let expected = json!({
            "name": "RT_project",
            "description": "history of the channels project:…, for Fanfare",
            "subjects": ["rt.pub.*.project", "rt.pub.*.project.>"],
            "retention": "limits", "storage": "file", "discard": "old",
            "max_msgs_per_subject": 100, "max_age": 60_000_000_000_u64, "duplicate_window": 60_000_000_000_u64,
            "num_replicas": 3, "republish": { "src": "rt.pub.>", "dest": "rt.live.>" }, "max_bytes": 1_000_000,
        });
        assert_eq!(wanted(&options).to_json(), expected);
        assert_eq!(wanted(&options).differences(&expected), []);
        assert_eq!(wanted(&HistoryOptions::default()).to_json()["max_bytes"], Value::Null);
    }

    #[test]
    fn a_publisher_wants_its_subjects_only() {
        let options = HistoryOptions { publish_only: true, ..HistoryOptions::default() };
        let wanted = wanted(&options);
        assert!(!wanted.is_complete());
        let mut theirs = self::wanted(&HistoryOptions { replicas: 5, ..HistoryOptions::default() }).to_json();
        assert_eq!(wanted.differences(&theirs), []);
        theirs["subjects"] = json!(["rt.pub.*.project.>"]);
        assert_eq!(wanted.differences(&theirs).len(), 1);
    }

    #[test]
    fn lifecycle_events_have_a_stream_of_their_own() {
        let subjects = NatsSubjects::new("rt").unwrap();
        let managed = HistoryOptions { replicas: 3, ..HistoryOptions::default() };
        let expected = json!({
            "name": "RT_EVENTS",
            "description": "what happens to connections and channels, for services",
            "subjects": ["rt.event.>"],
            "retention": "limits", "storage": "file", "discard": "old",
            "max_msgs": 1_000_000, "max_age": 86_400_000_000_000_u64, "duplicate_window": 120_000_000_000_u64,
            "num_replicas": 3,
        });
        assert_eq!(StreamConfig::events(&subjects, &managed).to_json(), expected);
        let theirs = json!({ "subjects": ["rt.event.>", "orders.>"], "max_age": 5 });
        let unmanaged = HistoryOptions { manage_streams: false, ..HistoryOptions::default() };
        assert_eq!(StreamConfig::events(&subjects, &unmanaged).differences(&theirs), []);
    }

    #[test]
    fn only_what_differs_is_changed() {
        let wanted = wanted(&HistoryOptions::default());
        let mut theirs = wanted.to_json();
        theirs["max_age"] = json!(1_500_000_000);
        theirs["subjects"] = json!(["rt.pub.*.project.>", "other.>"]);
        theirs["republish"] = json!({ "src": "rt.pub.>", "dest": "rt.live.>", "headers_only": true });
        theirs["max_bytes"] = json!(5);
        theirs["placement"] = json!({ "tags": ["ssd"] });
        let told: Vec<String> = wanted.differences(&theirs).iter().map(ToString::to_string).collect();
        let republish = r#"{"dest":"rt.live.>","src":"rt.pub.>"}"#;
        let headers_only = r#"{"dest":"rt.live.>","headers_only":true,"src":"rt.pub.>"}"#;
        assert_eq!(
            told,
            [
                r#"subjects is ["rt.pub.*.project.>","other.>"], not ["rt.pub.*.project","rt.pub.*.project.>"]"#,
                "max_age is 1.5s, not 60s",
                &format!("republish is {headers_only}, not {republish}"),
            ]
        );
        let updated = wanted.updated(&theirs);
        assert_eq!(wanted.differences(&updated), []);
        assert_eq!(updated["subjects"], json!(["rt.pub.*.project.>", "other.>", "rt.pub.*.project"]));
        assert_eq!((&updated["max_bytes"], &updated["placement"]["tags"][0]), (&json!(5), &json!("ssd")));
        assert_eq!(updated["description"], theirs["description"]);
        assert!(!wanted.is_foreign(&theirs));
        assert!(wanted.is_foreign(&json!({ "subjects": ["orders.>"] })));
    }

    #[test]
    fn where_the_size_was_raised_is_remembered() {
        let wanted = wanted(&HistoryOptions::default());
        let mut theirs = wanted.to_json();
        assert_eq!((size_raised(&theirs), StreamConfig::raised(&theirs, 5)), (0, None));
        for (size, last) in [(10, 7), (99, 1_000)] {
            theirs["max_msgs_per_subject"] = json!(size);
            theirs["description"] = json!(format!("theirs; size raised at {}", last / 2));
            let raising = wanted.updated(&theirs);
            // Until the sequence is known, nothing is proven by the size.
            assert_eq!(size_raised(&raising), u64::MAX);
            let raised = StreamConfig::raised(&raising, last).unwrap();
            assert_eq!(raised["description"], json!(format!("theirs; size raised at {last}")));
            assert_eq!((size_raised(&raised), StreamConfig::raised(&raised, 9)), (last, None));
        }
        theirs["max_msgs_per_subject"] = json!(101);
        assert_eq!(wanted.updated(&theirs)["description"], theirs["description"]);
    }
}
