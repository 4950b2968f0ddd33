//! What is counted. Names say the part, the function and what it is given.

mod delivery;
mod encoding;
mod envelope;
mod frames;
mod hub;
mod nats;

use crate::counter::Counter;

/// Runs all cases, on a thread of its own: its stack begins where a page does, whatever the program's path and environment
/// are, so that what lies on it is always aligned alike.
pub fn run_all() {
    let run = || {
        let mut counter = Counter::default();
        nats::count(&mut counter);
        envelope::count(&mut counter);
        encoding::count(&mut counter);
        frames::count(&mut counter);
        hub::count(&mut counter);
        delivery::count(&mut counter);
    };
    let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(run).expect("one thread more");
    assert!(thread.join().is_ok(), "a case has failed; see above");
}
