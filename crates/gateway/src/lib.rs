//! The node: configuration, listeners, connections, hub, authentication, internal API and metrics.

pub mod websocket;
