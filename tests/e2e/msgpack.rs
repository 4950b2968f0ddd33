//! MessagePack as a client of others reads and writes it: every message as the JSON that it stands for.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rmp::{
    Marker,
    decode::{self, RmpRead as _},
    encode,
};
use serde_json::{Map, Value, json};

/// Reads one message, which must be all of `bytes`. A `bin` becomes `{"$bin":"…"}`.
pub(crate) fn decode(mut bytes: &[u8]) -> Value {
    let value = read(&mut bytes);
    assert!(bytes.is_empty(), "{} bytes are left behind {value}", bytes.len());
    value
}

/// Writes one message. Numbers are integers.
pub(crate) fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, value);
    bytes
}

fn write(out: &mut Vec<u8>, value: &Value) {
    const INTO_MEMORY: &str = "memory takes it";
    match value {
        Value::Null => encode::write_nil(out).expect(INTO_MEMORY),
        Value::Bool(value) => encode::write_bool(out, *value).expect(INTO_MEMORY),
        Value::Number(number) => {
            encode::write_uint(out, number.as_u64().expect("an unsigned integer")).expect(INTO_MEMORY);
        }
        Value::String(text) => encode::write_str(out, text).expect(INTO_MEMORY),
        Value::Array(values) => {
            encode::write_array_len(out, values.len() as u32).expect(INTO_MEMORY);
            values.iter().for_each(|value| write(out, value));
        }
        Value::Object(fields) => {
            encode::write_map_len(out, fields.len() as u32).expect(INTO_MEMORY);
            for (name, value) in fields {
                encode::write_str(out, name).expect(INTO_MEMORY);
                write(out, value);
            }
        }
    }
}

fn read(bytes: &mut &[u8]) -> Value {
    let marker = Marker::from_u8(*bytes.first().expect("a marker"));
    match marker {
        Marker::Null => {
            decode::read_nil(bytes).expect("nil");
            Value::Null
        }
        Marker::True | Marker::False => decode::read_bool(bytes).expect("a boolean").into(),
        Marker::F64 => decode::read_f64(bytes).expect("a float 64").into(),
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
            let length = decode::read_str_len(bytes).expect("a length");
            String::from_utf8(take(bytes, length)).expect("UTF-8").into()
        }
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
            let length = decode::read_bin_len(bytes).expect("a length");
            json!({ "$bin": STANDARD.encode(take(bytes, length)) })
        }
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
            let length = decode::read_array_len(bytes).expect("a length");
            (0..length).map(|_| read(bytes)).collect()
        }
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
            let length = decode::read_map_len(bytes).expect("a length");
            let pair = |_| match (read(bytes), read(bytes)) {
                (Value::String(key), value) => (key, value),
                (key, _) => panic!("a key that is no string: {key}"),
            };
            Value::Object((0..length).map(pair).collect::<Map<_, _>>())
        }
        Marker::U64 => decode::read_u64(bytes).expect("an integer").into(),
        _ => decode::read_int::<i64, _>(bytes).unwrap_or_else(|error| panic!("{marker:?}: {error}")).into(),
    }
}

fn take(bytes: &mut &[u8], length: u32) -> Vec<u8> {
    let mut taken = vec![0; length as usize];
    bytes.read_exact_buf(&mut taken).expect("as many bytes as announced");
    taken
}
