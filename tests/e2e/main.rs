//! Tests of the whole: nodes as processes, real brokers, and WebSocket clients of others.
