//! Both directions against an implementation by others, on random input.
