//! `fanfare redis-functions`: what Redis needs to keep history.

use clap::Args;
use fanfare_broker::redis::FUNCTIONS;

use crate::{exit, exit::Failed, output};

const EXAMPLES: &str = "\
Examples:
  fanfare redis-functions | redis-cli -x FUNCTION LOAD REPLACE
  fanfare redis-functions > fanfare_v1.lua

On a cluster every master needs it:
  fanfare redis-functions > fanfare_v1.lua
  redis-cli --cluster call HOST:PORT --cluster-only-masters \\
      FUNCTION LOAD REPLACE \"$(cat fanfare_v1.lua)\"

Nodes load the library themselves where their user may use FUNCTION LOAD.";

/// Print the function library that Redis keeps history with.
#[derive(Args)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(crate) struct Arguments {}

/// Prints the library.
pub(crate) fn run() -> Result<(), Failed> {
    output::line(FUNCTIONS.trim_end().as_bytes())
}
