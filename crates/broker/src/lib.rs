//! The Broker trait, the stream of its events, and the adapters: memory, NATS and Redis.
