//! docs/protocol.md is held to the vectors.
