//! How values are written: sizes, durations, addresses, paths.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

/// Reads bytes: `65536`, `64KiB`, `1 MiB`; decimal units (`kB`, `MB`) too.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let text = text.trim();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| text.strip_suffix(name).map(|number| (number.trim_end(), *unit)))
        .unwrap_or((text, 1));
    parse_count(number)?.checked_mul(unit)
}

/// Reads a whole number; `_` may group digits.
pub(super) fn parse_count(text: &str) -> Option<u64> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// Reads a duration: `10s`, `500ms`, `1m 30s`. A bare number has no unit, and is refused.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text.trim()).ok()
}

/// Writes a size the way that it is read.
pub(super) fn show_size(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

/// Writes a duration the way that it is read.
pub(super) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Reads an address with its port; `localhost` stands for 127.0.0.1.
pub(super) fn parse_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into()),
        None => text.parse().ok(),
    }
}

/// Whether a text can be the path of a URL as it stands in a request.
pub(super) fn is_url_path(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte);
    text.starts_with('/') && text.len() <= 255 && text.bytes().all(allowed) && !text.contains("//")
}

/// Whether a text can be the name of a node.
pub(super) fn is_node_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("65536", 65_536), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("2kB", 2_000), ("9B", 9)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "KiB", "-1", "1.5MiB", "1 banana", "99999999999GiB", "+1"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        for bytes in [0, 1, 1_023, 1_024, 65_536, 1 << 20, 1_500_000, 5 << 30] {
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse_duration("1m 30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("10"), None);
        for millis in [0, 500, 10_000, 90_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(parse_address("localhost:80").unwrap().to_string(), "127.0.0.1:80");
        assert_eq!(parse_address("[::1]:0").unwrap().to_string(), "[::1]:0");
        assert_eq!(parse_address("8000"), None);
        assert_eq!(parse_address("example.com:80"), None);
    }

    #[test]
    fn paths() {
        assert!(is_url_path("/ws") && is_url_path("/a/b"));
        for text in ["", "ws", "/a b", "/a?b", "/a//b", "/{x}"] {
            assert!(!is_url_path(text), "{text}");
        }
    }
}
