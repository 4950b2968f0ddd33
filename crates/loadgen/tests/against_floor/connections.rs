//! Commands that open and close connections: each is checked by what the other one says.

use super::*;

#[test]
fn messages_that_are_joined_all_come() {
    let floor = Floor::start(&["--join"]);
    for channels in ["1", "3", "20"] {
        // Each round waits until each socket has as many events as were published on its channel, and fails at one more.
        let said = floor.load("fanout", &["--sockets", "20", "--channels", channels, "--rounds", "5", "--burst", "4"]);
        let latency = said["latency_p50_ms"].as_f64().expect("messages carry the time they were published at");
        assert!(latency > 0.0 && latency < 60_000.0, "{latency} ms");
    }
}

#[test]
fn large_messages_come_whole() {
    let floor = Floor::start(&[]);
    floor.load("fanout", &["--sockets", "3", "--rounds", "3", "--burst", "100", "--bytes", "100000"]);
}

#[test]
fn handshakes_and_closes_are_noticed() {
    let floor = Floor::start(&[]);
    let before = floor.descriptors();
    let said = floor.load("handshake", &["--sockets", "200", "--rounds", "2", "--concurrency", "16"]);
    for figure in ["cpu_us_per_handshake", "cpu_us_per_close", "handshakes_per_s", "latency_p50_ms", "latency_p99_ms"] {
        assert!(said[figure].as_f64().unwrap() > 0.0, "{figure} in {said}");
    }
    assert!(said["broker_us_per_handshake"].is_null());
    assert_eq!(floor.descriptors(), before, "the floor keeps nothing of those that have gone");
}

#[test]
fn a_storm_is_over_when_all_are_back_and_have_their_message() {
    let floor = Floor::start(&["--greet", "2000"]);
    let said = floor.load("storm", &["--sockets", "300", "--expect", "1", "--away", "0"]);
    assert_eq!((said["recovered"].as_u64(), said["lost"].as_u64()), (Some(300), Some(0)), "{said}");
    assert!(said["seconds"].as_f64().unwrap() > 0.0 && said["cut_cpu_s"].as_f64().unwrap() > 0.0, "{said}");
}

#[test]
fn idle_sockets_cost_the_floor_little() {
    let floor = Floor::start(&[]);
    let said = floor.load("idle", &["--sockets", "1000", "--settle", "0"]);
    let bytes = said["idle_bytes_per_socket"].as_f64().unwrap();
    assert!((0.0..4_096.0).contains(&bytes), "{bytes} bytes for a descriptor");
}
