//! Waiting for a condition, with a deadline, instead of sleeping for luck.

use std::panic::Location;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Calls `probe` every 10 ms until it gives `Some`, and returns what it gave.
///
/// The probe itself is cut off at the deadline too, so it may wait on something that never comes. `what` completes the
/// sentence "waited 5 s for …". Within `tokio::spawn` the compiler may not see that an `async` closure is `Send`; use
/// [`wait_until`] there.
///
/// # Panics
///
/// When `deadline` has passed; the message says what was waited for, for how long, and where.
#[track_caller]
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let place = Location::caller();
    async move {
        let looking = async {
            loop {
                if let Some(found) = probe().await {
                    return found;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        match tokio::time::timeout(deadline, looking).await {
            Ok(found) => found,
            Err(_) => panic!("{}", overdue(what, deadline, place)),
        }
    }
}

/// Like [`wait_for`], for a condition that is looked at without waiting.
///
/// # Panics
///
/// When `deadline` has passed, as [`wait_for`] does.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let place = Location::caller();
    async move {
        let looking = async {
            while !condition() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        if tokio::time::timeout(deadline, looking).await.is_err() {
            panic!("{}", overdue(what, deadline, place));
        }
    }
}

/// Like [`wait_for`], for tests that have no runtime; blocks the thread. The probe is not cut off.
///
/// # Panics
///
/// When `deadline` has passed, as [`wait_for`] does.
#[track_caller]
pub fn wait_for_blocking<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let place = Location::caller();
    let began = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        if began.elapsed() >= deadline {
            panic!("{}", overdue(what, deadline, place));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn overdue(what: &str, deadline: Duration, place: &Location<'_>) -> String {
    format!("waited {deadline:?} in vain for {what} (at {place})")
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[tokio::test]
    async fn gives_what_the_probe_found() {
        let mut calls = 0;
        let found = wait_for("the third call", Duration::from_secs(5), async || {
            calls += 1;
            (calls == 3).then_some(calls)
        })
        .await;
        assert_eq!(found, 3);
    }

    #[tokio::test]
    async fn a_probe_that_never_ends_is_cut_off() {
        let waiting = tokio::spawn(async {
            wait_for("nothing", Duration::from_millis(30), async || std::future::pending::<Option<()>>().await).await;
        });
        let message = panic_text(waiting.await.unwrap_err().into_panic());
        assert!(message.starts_with("waited 30ms in vain for nothing (at "), "{message}");
        assert!(message.contains("wait.rs"), "{message}");
    }

    #[tokio::test]
    async fn a_condition_is_waited_for_in_a_task_too() {
        let waiting = tokio::spawn(async {
            let mut looks = 0;
            wait_until("the second look", Duration::from_secs(5), || {
                looks += 1;
                looks == 2
            })
            .await;
            wait_until("the impossible", Duration::from_millis(30), || false).await;
        });
        let message = panic_text(waiting.await.unwrap_err().into_panic());
        assert!(message.starts_with("waited 30ms in vain for the impossible"), "{message}");
    }

    #[test]
    fn the_blocking_form_panics_with_what_was_waited_for() {
        let outcome =
            catch_unwind(AssertUnwindSafe(|| wait_for_blocking("a miracle", Duration::from_millis(30), || None::<()>)));
        let message = panic_text(outcome.unwrap_err());
        assert!(message.starts_with("waited 30ms in vain for a miracle"), "{message}");
    }

    fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
        *panic.downcast::<String>().expect("our panics carry a formatted String")
    }
}
