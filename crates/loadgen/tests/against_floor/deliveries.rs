//! Commands that deliver: what they say must agree with what was asked for.

use super::*;

/// What a command says of 20 sockets on two channels.
fn load(command: &[&str]) -> Value {
    let options = [&command[1..], &["--sockets", "20", "--channels", "2"]].concat();
    Floor::start(&[]).load(command[0], &options)
}

fn number(figures: &Value, name: &str) -> f64 {
    figures[name].as_f64().unwrap_or_else(|| panic!("{name} in {figures}"))
}

#[test]
fn fanout() {
    let figures = load(&["fanout", "--rounds", "30", "--burst", "3"]);
    assert!(number(&figures, "cpu_us_per_delivery") > 0.0 && number(&figures, "client_us_per_delivery") > 0.0);
    assert!(number(&figures, "latency_p50_ms") > 0.0);
    assert!(number(&figures, "latency_p50_ms") <= number(&figures, "latency_p99_ms"));
    assert!(figures["broker_us_per_delivery"].is_null());
}

#[test]
fn fanout_counts_frames_where_no_marker_is_given() {
    let figures = load(&["fanout", "--rounds", "3", "--marker", "", "--deflate"]);
    assert!(number(&figures, "latency_p50_ms") > 0.0);
}

#[test]
fn rate() {
    let beside = ["--slow", "2", "--churn", "20", "--commands", "40", "--command", "hello"];
    let figures = load(&[&["rate", "--rate", "100", "--seconds", "0.5"][..], &beside[..2]].concat());
    assert_eq!((number(&figures, "lost"), number(&figures, "closed")), (0.0, 0.0));
    assert_eq!(number(&figures, "slow_closed"), 0.0, "50 messages fit into the kernel's buffers");
    // 18 sockets read what is published on their channel, of which there are two.
    let (wall, deliveries) = (0.5, 18.0 * 50.0 / 2.0);
    let rate = number(&figures, "deliveries_per_s");
    // A busy machine makes it less, nothing makes it more.
    assert!(rate > 0.0 && rate < deliveries / wall * 1.05, "{rate}");
    assert!(number(&figures, "latency_p99_ms") <= number(&figures, "latency_max_ms"));

    let figures = load(&[&["rate", "--rate", "100", "--seconds", "0.5"][..], &beside[2..]].concat());
    assert_eq!(number(&figures, "lost"), 0.0, "sockets that stay miss nothing");
    assert!(number(&figures, "churned") > 0.0);
    assert_eq!(number(&figures, "commands"), 20.0);
}

#[test]
fn saturate() {
    let figures = load(&["saturate", "--in-flight", "8", "--seconds", "0.3"]);
    assert_eq!((number(&figures, "lost"), number(&figures, "in_flight")), (0.0, 8.0));
    assert!(number(&figures, "deliveries_per_s") > 1_000.0, "{figures}");
    assert!(number(&figures, "deliveries_per_cpu_s") >= number(&figures, "deliveries_per_s") * 0.9, "{figures}");
    assert!(number(&figures, "server_load") > 0.0 && number(&figures, "client_load") > 0.0);
}

#[test]
fn a_server_that_is_not_there_is_said() {
    let pid = std::process::id().to_string();
    let output = Command::new(LOAD).args(["fanout", "--server", "127.0.0.1:1", "--pid", &pid]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("connecting"), "{said}");
}
