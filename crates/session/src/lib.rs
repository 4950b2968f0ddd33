//! The protocol state machine of one connected client, without IO: commands in, actions out.
