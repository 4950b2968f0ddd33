//! A shard's counters. What counts deliveries is kept here and published once per tick.

use fanfare_protocol::{ClientMessage, CloseCode, CommandKind, ErrorBody, Push, Reply, ServerMessage};
use metrics::{Counter, Gauge, counter, gauge};

use crate::{telemetry::metrics as names, websocket::ProtocolError};

/// See the module.
pub(super) struct ShardMetrics {
    connections: Gauge,
    connections_total: Counter,
    sessions: Gauge,
    pub(super) slow_consumers: Counter,
    deliveries_total: Counter,
    delivered_bytes_total: Counter,
    malformed: Counter,
    conflated: Counter,
    signals_dropped: Counter,
    subscriptions: Gauge,
    /// As last published.
    subscriptions_told: usize,
    deliveries: u64,
    /// Bytes written to sockets since they were last published.
    pub(super) delivered_bytes: u64,
}

impl ShardMetrics {
    pub(super) fn new() -> Self {
        Self {
            connections: gauge!(names::CONNECTIONS),
            connections_total: counter!(names::CONNECTIONS_TOTAL),
            sessions: gauge!(names::SESSIONS),
            slow_consumers: counter!(names::SLOW_CONSUMERS_TOTAL),
            deliveries_total: counter!(names::DELIVERIES_TOTAL),
            delivered_bytes_total: counter!(names::DELIVERED_BYTES_TOTAL),
            malformed: counter!(names::MALFORMED_FRAMES_TOTAL),
            conflated: counter!(names::CONFLATED_TOTAL),
            signals_dropped: counter!(names::SIGNALS_DROPPED_TOTAL),
            subscriptions: gauge!(names::SUBSCRIPTIONS),
            subscriptions_told: 0,
            deliveries: 0,
            delivered_bytes: 0,
        }
    }

    pub(super) fn connected(&mut self) {
        self.connections.increment(1);
        self.connections_total.increment(1);
    }

    pub(super) fn disconnected(&mut self) {
        self.connections.decrement(1);
    }

    pub(super) fn session_began(&mut self) {
        self.sessions.increment(1);
    }

    pub(super) fn session_ended(&mut self) {
        self.sessions.decrement(1);
    }

    pub(super) fn closed(&mut self, code: CloseCode) {
        counter!(names::DISCONNECTIONS_TOTAL, "code" => code.as_str()).increment(1);
    }

    /// The socket ended; without a closing handshake where the connection was open.
    pub(super) fn gone(&mut self, open: bool) {
        if open {
            counter!(names::DISCONNECTIONS_TOTAL, "code" => "gone").increment(1);
        }
    }

    pub(super) fn delivered(&mut self, count: usize) {
        self.deliveries += count as u64;
    }

    /// Publishes what is counted here. The gauge is every shard's, so it moves by the difference.
    pub(super) fn publish(&mut self, subscriptions: usize) {
        if subscriptions != self.subscriptions_told {
            self.subscriptions.increment(subscriptions as f64 - self.subscriptions_told as f64);
            self.subscriptions_told = subscriptions;
        }
        self.deliveries_total.increment(std::mem::take(&mut self.deliveries));
        self.delivered_bytes_total.increment(std::mem::take(&mut self.delivered_bytes));
    }

    pub(super) fn command(&mut self, message: &ClientMessage) {
        let kind = match message {
            ClientMessage::Pong => "pong",
            ClientMessage::Command(command) => match command.kind {
                CommandKind::Connect { .. } => "connect",
                CommandKind::Subscribe(_) | CommandKind::SubscribeMany { .. } => "subscribe",
                CommandKind::History(_) => "history",
                CommandKind::Unsubscribe { .. } | CommandKind::UnsubscribeMany { .. } => "unsubscribe",
                CommandKind::Publish(_) => "publish",
                CommandKind::Refresh { .. } => "refresh",
                CommandKind::Presence(_) => "presence",
                CommandKind::SetPresence(_) => "set_presence",
                CommandKind::Signal(_) => "signal",
                CommandKind::Ping { .. } => "ping",
            },
        };
        counter!(names::COMMANDS_TOTAL, "type" => kind).increment(1);
    }

    pub(super) fn malformed(&mut self) {
        self.malformed.increment(1);
    }

    /// Counts the errors that a message tells: of a command, of each entry of a list, or unasked.
    pub(super) fn told(&mut self, message: &ServerMessage) {
        match message {
            ServerMessage::Reply { outcome: Err(error), .. }
            | ServerMessage::Push(Push::Error { error, .. } | Push::Unsubscribed { error, .. }) => count(error),
            ServerMessage::Reply { outcome: Ok(Reply::SubscribedMany { subscriptions }), .. } => {
                subscriptions.iter().filter_map(|outcome| outcome.error.as_ref()).for_each(count);
            }
            ServerMessage::Reply { .. } | ServerMessage::Push(_) => {}
        }
    }

    pub(super) fn violation(&mut self, error: ProtocolError) {
        let reason = match error.close_code() {
            1007 => "invalid_utf8",
            1009 => "message_too_big",
            _ => "protocol_error",
        };
        counter!(names::WEBSOCKET_VIOLATIONS_TOTAL, "reason" => reason).increment(1);
    }

    /// A publication was left out for a client that gets only the newest per key.
    pub(super) fn conflated(&self) {
        self.conflated.increment(1);
    }

    /// A signal found no room on its way to the broker.
    pub(super) fn signal_dropped(&self) {
        self.signals_dropped.increment(1);
    }

    pub(super) fn gap(&mut self, reason: &'static str, sessions: usize) {
        counter!(names::GAPS_TOTAL, "reason" => reason).increment(sessions as u64);
    }
}

fn count(error: &ErrorBody) {
    counter!(names::ERRORS_TOTAL, "code" => error.code.as_str()).increment(1);
}
