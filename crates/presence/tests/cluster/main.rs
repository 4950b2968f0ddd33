//! Three nodes at one store, in virtual time: whatever happens, it converges to what the sockets say, and whoever watches was told
//! all of it.
//!
//! A run follows from its seed. `PROPTEST_CASES` says how many seeds are tried, `CLUSTER_SEED` begins at one, and `CLUSTER_TRACE=1`
//! prints what happens. Of a run that fails, what it does not need is left out as far as possible before it is shown.

#![allow(clippy::unwrap_used)] // a case that cannot go on has failed
#![allow(clippy::print_stdout)] // what happened in a run that failed

mod chance;
mod client;
mod faults;
mod node;
mod plan;
mod trace;
mod truth;
mod verdict;
mod world;

use std::{env, panic};

use plan::Plan;

const CASES: u64 = 60;

fn number(variable: &str) -> Option<u64> {
    env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}; it is a number")))
}

/// Runs a plan to its end; says what was wrong.
fn run(plan: &Plan, is_shown: bool) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let ran = panic::catch_unwind(panic::AssertUnwindSafe(|| runtime.block_on(world::run(plan, is_shown))));
    ran.map(drop).map_err(|reason| {
        let text = reason.downcast_ref::<String>().cloned();
        text.or_else(|| reason.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

#[test]
fn converges_to_the_truth() {
    let first = number("CLUSTER_SEED").unwrap_or(1);
    let cases = number("PROPTEST_CASES").unwrap_or(if env::var_os("CLUSTER_SEED").is_some() { 1 } else { CASES });
    let is_shown = env::var_os("CLUSTER_TRACE").is_some();
    for seed in first..first + cases {
        let plan = Plan::draw(seed);
        if let Err(reason) = run(&plan, is_shown) {
            panic::set_hook(Box::new(|_| {}));
            let (plan, reason) = plan.shrink(reason, |plan| run(plan, false).err());
            let _ = run(&plan, true);
            let _ = panic::take_hook();
            let steps: Vec<_> = plan.steps.iter().map(|(after, step)| format!("{after:?} {step:?}")).collect();
            panic!("seed {seed}, calm {}: {reason}\n{}", plan.is_calm, steps.join("\n"));
        }
    }
}

/// What a run comes to follows from its seed alone: else a seed would be no way to find a fault again.
#[test]
fn a_run_follows_from_its_seed() {
    let trace = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(world::run(&Plan::draw(seed), false))
    };
    for seed in 0..5 {
        let (one, other) = (trace(seed), trace(seed));
        let differing = one.iter().zip(&other).position(|(one, other)| one != other);
        let around = |lines: &[String], at: usize| lines[at.saturating_sub(5)..(at + 3).min(lines.len())].join("\n");
        let differing = differing.map(|at| format!("{}\n\n{}", around(&one, at), around(&other, at)));
        assert!(differing.is_none(), "seed {seed}\n{}", differing.unwrap_or_default());
        assert_eq!(one.len(), other.len(), "seed {seed}");
    }
}
