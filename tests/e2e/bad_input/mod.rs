//! What goes wrong on purpose: every bad input has its exact answer and its counter, and nobody else notices.

mod api;
mod bodies;
mod commands;
mod cuts;
mod floods;
mod frames;
mod handshakes;
mod permissions;
mod scene;
mod tokens;
