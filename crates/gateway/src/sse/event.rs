//! Events as they are written: the name, and the JSON object of the native protocol as the data.

use std::borrow::Cow;

use memchr::memchr2;

/// The media type of the stream.
pub(crate) const CONTENT_TYPE: &str = "text/event-stream";

/// A comment: no event comes of it, but something is seen to come.
pub(crate) const HEARTBEAT: &[u8] = b":\n\n";

/// How every delivery and every push begins.
const NAME_FIELD: &[u8] = br#"{"event":"#;

/// What follows the name in a delivery.
const CHANNEL_FIELD: &[u8] = br#","channel":"#;

/// The name where an object has none; browsers take it for events without a name.
const UNNAMED: &str = "message";

/// Appends an event: its name from the object, which is its data as it stands.
pub(crate) fn write_event(json: &[u8], out: &mut Vec<u8>) {
    let name = event_name(json);
    out.reserve(b"event: \ndata: \n\n".len() + name.len() + json.len());
    out.extend_from_slice(b"event: ");
    match memchr2(b'\n', b'\r', name.as_bytes()) {
        None => out.extend_from_slice(name.as_bytes()),
        // An end of line would end the field; the data says the name as it is.
        Some(_) => out.extend(name.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte })),
    }
    out.push(b'\n');
    // Data is passed on byte for byte, so that ends of line may stand between its tokens; each begins a field, and the
    // browser joins them again.
    let mut rest = json;
    while let Some(end) = memchr2(b'\n', b'\r', rest) {
        write_data(&rest[..end], out);
        let pair = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(pair)..];
    }
    write_data(rest, out);
    out.push(b'\n');
}

/// Appends how long the client is to wait before it reconnects. No event comes of it.
pub(crate) fn write_retry(millis: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("retry: {millis}\n\n").as_bytes());
}

/// The channel of a publication, from what `Delivery::write_json` wrote: its name follows the event's.
pub(crate) fn channel_of_publication(json: &[u8]) -> Option<&str> {
    let event = json.strip_prefix(NAME_FIELD)?;
    let rest = event[string_literal(event)?.len()..].strip_prefix(CHANNEL_FIELD)?;
    // No character of a channel has to be escaped.
    std::str::from_utf8(string_literal(rest)?).ok()?.get(1..).and_then(|name| name.strip_suffix('"'))
}

fn write_data(line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(line);
    out.push(b'\n');
}

/// The value of `event`, with which every object of the node begins.
fn event_name(json: &[u8]) -> Cow<'_, str> {
    let literal = json.strip_prefix(NAME_FIELD).and_then(string_literal);
    let name = match literal {
        Some(literal) if !literal.contains(&b'\\') => {
            std::str::from_utf8(&literal[1..literal.len() - 1]).ok().map(Cow::Borrowed)
        }
        Some(literal) => serde_json::from_slice::<String>(literal).ok().map(Cow::Owned),
        None => None,
    };
    name.unwrap_or(Cow::Borrowed(UNNAMED))
}

/// The string with its quotes that the text begins with.
fn string_literal(text: &[u8]) -> Option<&[u8]> {
    let mut at = 1;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(&text[..=at]);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{Body, Delivery};
    use proptest::prelude::*;

    use super::*;

    fn written(json: &str) -> String {
        let mut out = Vec::new();
        write_event(json.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Reads a stream as WHATWG HTML section 9.2.6 says: the name and data of each event.
    fn read(text: &str) -> Vec<(String, String)> {
        let (mut events, mut name, mut data) = (Vec::new(), String::new(), String::new());
        for line in text.replace("\r\n", "\n").replace('\r', "\n").split('\n') {
            match line.split_once(':') {
                None if line.is_empty() => {
                    if !data.is_empty() {
                        events.push((std::mem::take(&mut name), data[..data.len() - 1].to_owned()));
                    }
                    (name, data) = (String::new(), String::new());
                }
                Some(("event", value)) => value.strip_prefix(' ').unwrap_or(value).clone_into(&mut name),
                Some(("data", value)) => data += &format!("{}\n", value.strip_prefix(' ').unwrap_or(value)),
                other => assert!(matches!(other, Some(("", _) | ("id", _) | ("retry", _))), "{line:?}"),
            }
        }
        events
    }

    #[test]
    fn an_event_has_its_name_and_the_whole_object() {
        let json = r#"{"event":"project:funded","channel":"project:a","data":{"n":1},"timestamp":1}"#;
        assert_eq!(written(json), format!("event: project:funded\ndata: {json}\n\n"));
    }

    #[test]
    fn data_of_several_lines_comes_out_in_one_piece() {
        let json = "{\"event\":\"x\",\"data\":{\n \"a\":\r\n1,\r\"b\":\n\n2}}";
        assert_eq!(
            written(json),
            "event: x\ndata: {\"event\":\"x\",\"data\":{\ndata:  \"a\":\ndata: 1,\ndata: \"b\":\ndata: \ndata: 2}}\n\n"
        );
        let [(name, data)] = &read(&written(json))[..] else { panic!() };
        assert_eq!(name, "x");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(data).unwrap(),
            serde_json::from_str::<serde_json::Value>(json).unwrap()
        );
    }

    #[test]
    fn a_name_is_unescaped_and_stays_on_its_line() {
        assert!(written(r#"{"event":"a\"\\b\u00e4","x":1}"#).starts_with("event: a\"\\b\u{e4}\n"));
        assert!(written(r#"{"event":"a\nid: 7\r"}"#).starts_with("event: a id: 7 \ndata: "));
        assert!(written(r#"{"event":" a"}"#).starts_with("event:  a\n"));
        assert!(written(r#"{"data":1}"#).starts_with("event: message\n"));
    }

    #[test]
    fn comments_and_retry_are_no_events() {
        let mut out = HEARTBEAT.to_vec();
        write_retry(1_500, &mut out);
        assert_eq!(out, b":\n\nretry: 1500\n\n");
        assert_eq!(read(std::str::from_utf8(&out).unwrap()), []);
    }

    fn delivered(envelope: String) -> String {
        let body = Body::new(envelope);
        let envelope = body.envelope(1 << 20).unwrap();
        let mut out = Vec::new();
        Delivery { envelope: &envelope, channel: "a:b", timestamp: 1, position: None }.write_json(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_channel_of_a_publication_is_the_one_that_it_was_published_on() {
        let json = delivered(r#"{"event":"x\\\",\"channel\":\"z","data":{"channel":"z"}}"#.into());
        assert_eq!(channel_of_publication(json.as_bytes()), Some("a:b"), "{json}");
        assert_eq!(channel_of_publication(br#"{"event":"system:error","data":{}}"#), None);
    }

    proptest! {
        #[test]
        fn every_event_is_read_as_it_was_published(
            name in "[ -~\\n\\r\u{e4}]{1,20}",
            space in "[ \\n\\r\\t]{0,6}",
            text in ".{0,20}",
        ) {
            let name_json = serde_json::to_string(&name).unwrap();
            let text_json = serde_json::to_string(&text).unwrap();
            let envelope = format!("{{\"event\":{name_json},\"data\":[{space}{text_json}{space}]}}");
            prop_assume!(!name.starts_with("system:"));
            let json = delivered(envelope);
            let stream = written(&json);
            let events = read(&stream);
            prop_assert_eq!(events.len(), 1, "{}", stream);
            prop_assert_eq!(&events[0].0, &name.replace(['\n', '\r'], " "));
            let data: serde_json::Value = serde_json::from_str(&events[0].1).unwrap();
            prop_assert_eq!(&data["event"], &name);
            prop_assert_eq!(&data["data"][0], &text);
        }
    }
}
