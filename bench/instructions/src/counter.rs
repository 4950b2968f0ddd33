//! The two places that callgrind knows by name: what is between them is counted.

use std::hint::black_box;

/// Calls before those that are counted: caches of the allocator fill, and what is made once is made.
const WARM_UP: usize = 16;

/// Tells callgrind what belongs to a case.
#[derive(Debug, Default)]
pub struct Counter {
    names: Vec<String>,
}

impl Counter {
    /// Counts `work` on inputs that are made, and dropped, outside of the count.
    pub fn case<T, R>(
        &mut self,
        name: impl Into<String>,
        calls: usize,
        mut make: impl FnMut(usize) -> T,
        mut work: impl FnMut(&mut T) -> R,
    ) {
        let mut warm: Vec<T> = (0..WARM_UP).map(&mut make).collect();
        warm.iter_mut().for_each(|input| drop(black_box(work(black_box(input)))));
        drop(warm);
        let mut inputs: Vec<T> = (0..calls).map(make).collect();
        count_instructions(&mut || inputs.iter_mut().for_each(|input| drop(black_box(work(black_box(input))))));
        self.finish(name, calls);
    }

    /// Counts `work` in rounds, with `rest` between them that is not counted. Each round is `units` of what is told.
    pub fn rounds(
        &mut self,
        name: impl Into<String>,
        (rounds, units): (usize, usize),
        mut work: impl FnMut(),
        mut rest: impl FnMut(),
    ) {
        work();
        rest();
        for _ in 0..rounds {
            count_instructions(&mut work);
            rest();
        }
        self.finish(name, rounds * units);
    }

    fn finish(&mut self, name: impl Into<String>, calls: usize) {
        let name = name.into();
        assert!(!self.names.contains(&name), "{name} is there twice");
        end_case(&name, calls);
        self.names.push(name);
    }
}

/// Callgrind collects from its beginning to its end.
#[inline(never)]
fn count_instructions(work: &mut dyn FnMut()) {
    work();
    // A call in the last place becomes a jump, and its end is missed.
    black_box(&0u8);
}

/// Callgrind writes at its end what it has collected, and begins anew.
#[inline(never)]
#[expect(clippy::print_stdout, reason = "this is what the process that counts reads")]
fn end_case(name: &str, calls: usize) {
    println!("{calls} {name}");
    black_box(&0u8);
}
