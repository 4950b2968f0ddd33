//! Dev only: real brokers on free ports, wait-for helpers.
