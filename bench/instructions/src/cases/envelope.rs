//! Envelopes as services publish them, and how they are parsed.

use fanfare_protocol::{Body, limits};

use crate::counter::Counter;

/// What services put into `data`: an object of so many bytes, like those of the benchmarks.
pub fn data(bytes: usize) -> String {
    let frame = r#"{"projectId":"clx123","currentAmount":75000,"note":""}"#;
    let note = "a note that somebody wrote, of some length; ".chars().cycle().take(bytes - frame.len());
    format!(r#"{{"projectId":"clx123","currentAmount":75000,"note":"{}"}}"#, note.collect::<String>())
}

/// An envelope with so many bytes of data, and only what is required.
pub fn short(bytes: usize) -> String {
    format!(r#"{{"event":"project:funded","data":{}}}"#, data(bytes))
}

/// One with each optional field.
pub fn full(bytes: usize) -> String {
    format!(
        concat!(
            r#"{{"event":"project:funded","data":{},"timestamp":1696867200000,"id":"01HCB1Q2R3S4T5","key":"clx123","version":7,"#,
            r#""exclude":["0123456789abcdef0123456789abcdef"],"#,
            r#""traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}"#
        ),
        data(bytes)
    )
}

pub fn count(counter: &mut Counter) {
    for (size, bytes) in [("128 B", 128), ("1 KiB", 1024)] {
        for (fields, text) in [("required fields", short(bytes)), ("all fields", full(bytes))] {
            let body = Body::new(text);
            let parse =
                |body: &mut Body| body.envelope(limits::PUBLICATION_BYTES).expect("it is an envelope").timestamp;
            counter.case(format!("envelope: parse, {size}, {fields}"), 256, |_| body.clone(), parse);
        }
    }
}
