//! Every metric of a node: name, kind, labels and help. The unit stands in the name. docs/operations.md lists them.

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The names of its labels. Their values are words from closed sets, never what a client sent.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

/// The kinds of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts by size.
    Histogram,
}

macro_rules! metrics {
    ($($constant:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// Every metric.
        pub const ALL: &[Metric] = &[
            $(Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help },)*
        ];
    };
}

metrics! {
    CONNECTIONS Gauge "fanfare_connections" [] "Connections that are open now.";
    CONNECTIONS_TOTAL Counter "fanfare_connections_total" [] "Connections whose handshake was completed.";
    DISCONNECTIONS_TOTAL Counter "fanfare_disconnections_total" ["code"] "Connections that ended, by close code; gone is an end without one.";
    HANDSHAKES_REFUSED_TOTAL Counter "fanfare_handshakes_refused_total" ["reason"] "Handshakes that were refused or given up.";
    SLOW_CONSUMERS_TOTAL Counter "fanfare_slow_consumers_total" [] "Connections closed because they did not read and their outbox reached its limit.";
    SESSIONS Gauge "fanfare_sessions" [] "Sessions that are authenticated, or anonymous, now.";
    SUBSCRIPTIONS Gauge "fanfare_subscriptions" [] "Subscriptions of all sessions now.";
    CHANNELS Gauge "fanfare_channels" [] "Channels and patterns that this node is interested in now.";
    COMMANDS_TOTAL Counter "fanfare_commands_total" ["type"] "Commands of clients.";
    ERRORS_TOTAL Counter "fanfare_errors_total" ["code"] "Errors that clients were told.";
    MALFORMED_FRAMES_TOTAL Counter "fanfare_malformed_frames_total" [] "Messages of clients that are no command.";
    WEBSOCKET_VIOLATIONS_TOTAL Counter "fanfare_websocket_violations_total" ["reason"] "Connections closed because they broke RFC 6455.";
    AUTH_TOTAL Counter "fanfare_auth_total" ["result"] "Tokens that were verified.";
    JWKS_FETCHES_TOTAL Counter "fanfare_jwks_fetches_total" ["result"] "Fetches of the key set.";
    PUBLICATIONS_RECEIVED_TOTAL Counter "fanfare_publications_received_total" [] "Publications that came from the broker.";
    PUBLICATIONS_REFUSED_TOTAL Counter "fanfare_publications_refused_total" ["reason"] "Publications from the broker that are no envelope or on no channel, and were not delivered.";
    DELIVERIES_TOTAL Counter "fanfare_deliveries_total" [] "Publications queued for sessions, one for each session.";
    DELIVERED_BYTES_TOTAL Counter "fanfare_delivered_bytes_total" [] "Bytes written to clients' sockets.";
    CONFLATED_TOTAL Counter "fanfare_conflated_total" [] "Publications that a slow client did not get because a newer one with the same key came.";
    GAPS_TOTAL Counter "fanfare_gaps_total" ["reason"] "Gaps that sessions were told of.";
    SHARD_INTERRUPTIONS_TOTAL Counter "fanfare_shard_interruptions_total" [] "Shards that could not keep up and missed publications.";
    BROKER_CONNECTED Gauge "fanfare_broker_connected" [] "Whether the broker is there: 1 or 0.";
    BROKER_INTERRUPTIONS_TOTAL Counter "fanfare_broker_interruptions_total" ["reason"] "Interruptions that the broker's adapter told.";
    HISTORY_READS_TOTAL Counter "fanfare_history_reads_total" ["purpose"] "Reads of history at the broker: repair, recovery, newest, command.";
    RECOVERIES_TOTAL Counter "fanfare_recoveries_total" ["result"] "Subscriptions that began with a position or with the newest publications.";
    POSITION_CHECKS_TOTAL Counter "fanfare_position_checks_total" [] "Channels of which the broker was asked where they stand.";
    HISTORY_RING_BYTES Gauge "fanfare_history_ring_bytes" [] "Bytes of recent publications that this node keeps.";
    PRESENCE_ROWS Gauge "fanfare_presence_rows" [] "Members of this node: connections on channels with presence, those that wait for their grace included.";
    PRESENCE_CHANNELS_MIRRORED Gauge "fanfare_presence_channels_mirrored" [] "Channels whose members this node follows, because somebody here watches them.";
    PRESENCE_CHANNELS_UNWRITTEN Gauge "fanfare_presence_channels_unwritten" [] "Channels with members of this node that the presence store does not have yet.";
    PRESENCE_STORE_CONNECTED Gauge "fanfare_presence_store_connected" [] "Whether the presence store is there: 1 or 0. Without it answers are stale.";
    PRESENCE_LEASE_HELD Gauge "fanfare_presence_lease_held" [] "Whether this node holds its lease at the presence store: 1 or 0.";
    PRESENCE_QUESTIONS Gauge "fanfare_presence_questions" [] "Questions who is present that wait for their answer.";
    PRESENCE_STORE_CALLS_TOTAL Counter "fanfare_presence_store_calls_total" ["call", "result"] "Calls at the presence store.";
    PRESENCE_STORE_CALL_SECONDS Histogram "fanfare_presence_store_call_duration_seconds" ["call"] "Time that a call at the presence store took.";
    PRESENCE_REAPED_ROWS_TOTAL Counter "fanfare_presence_reaped_rows_total" [] "Rows of dead nodes that this node removed.";
    PRESENCE_ANNOUNCEMENTS_TOTAL Counter "fanfare_presence_announcements_total" ["event"] "Announcements to those who watch a channel: change, count, snapshot.";
    PRESENCE_ANNOUNCEMENTS_DROPPED_TOTAL Counter "fanfare_presence_announcements_dropped_total" [] "Announcements that a shard did not take in time, and that a newer one replaced.";
    SIGNALS_DROPPED_TOTAL Counter "fanfare_signals_dropped_total" [] "Signals of clients for which there was no room on their way to the broker.";
    LIFECYCLE_EVENTS_TOTAL Counter "fanfare_lifecycle_events_total" ["result"] "Lifecycle events: told to services, refused by the broker, or dropped because too many waited or the node ended.";
    LIFECYCLE_EVENTS_WAITING Gauge "fanfare_lifecycle_events_waiting" [] "Lifecycle events that the broker has not taken yet.";
    API_REQUESTS_TOTAL Counter "fanfare_api_requests_total" ["endpoint", "status"] "Requests of the internal API.";
    API_PUBLICATIONS_TOTAL Counter "fanfare_api_publications_total" ["result"] "Publications through the internal API, one for each channel.";
    API_REQUEST_SECONDS Histogram "fanfare_api_request_duration_seconds" ["endpoint"] "Time from a request of the internal API to its answer.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for metric in ALL {
            let name = metric.name;
            assert!(name.starts_with("fanfare_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert!(metric.help.ends_with('.') && metric.help.len() > 10, "{name}");
        }
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
