//! The library that services use to publish, and the `fanfare` command line.
