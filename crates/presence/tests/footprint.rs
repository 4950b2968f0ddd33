//! What a mirrored row costs in memory, as the allocator sees it.

#![allow(unsafe_code, reason = "an allocator that counts cannot be written otherwise")]
#![allow(clippy::print_stdout)] // what was measured

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use fanfare_presence::{ConnectionKey, Incarnation, Roster, Row, RowChange, State, User};

struct Counting;

thread_local! {
    /// Bytes that this thread holds.
    static HELD: Cell<isize> = const { Cell::new(0) };
}

fn hold(bytes: isize) {
    // A thread that ends gives memory back when its own variables are gone.
    let _ = HELD.try_with(|held| held.set(held.get() + bytes));
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        hold(layout.size() as isize);
        // SAFETY: the caller keeps the contract for us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        hold(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract for us.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// As a store's answer is read: every row with texts of its own.
fn fill(roster: &mut Roster, rows: u64, users: u64) {
    for n in 0..rows {
        let connection = ConnectionKey(u128::from(n) << 64 | u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        // A name of 16 bytes.
        let user = User::Named(format!("user-{:011}", n % users).into());
        let row = Row { connection, user, state: State::Online, info: None, since: n };
        roster.apply(RowChange::Put(Incarnation::new("node", n % 3), row));
    }
}

#[test]
fn a_row_is_small() {
    const ROWS: u64 = 10_000;
    for (users, allowed) in [(ROWS, 360), (ROWS / 2, 360), (1, 360)] {
        let before = HELD.get();
        let mut roster = Roster::default();
        fill(&mut roster, ROWS, users);
        let each = (HELD.get() - before) / ROWS as isize;
        println!("{ROWS} rows of {users} users take {each} bytes each");
        assert!(each <= allowed, "{users} users: {each} bytes a row");
        for n in 0..ROWS {
            let connection = ConnectionKey(u128::from(n) << 64 | u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            roster.apply(RowChange::Removed { connection, user: User::Anonymous(connection) });
        }
        let left = HELD.get() - before;
        assert!(left < 4_096, "an empty roster holds {left} bytes");
    }
}
