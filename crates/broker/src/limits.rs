//! Limits of the adapters, each with its unit.

/// Events that wait for the hub. Where the hub falls behind, adapters wait; what a broker's client then drops is told as
/// an interruption.
pub const EVENTS: usize = 8_192;
