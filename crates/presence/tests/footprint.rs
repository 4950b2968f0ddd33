//! What a mirrored row costs in memory, and what a channel with one member does, as the allocator sees it.

#![allow(unsafe_code, reason = "an allocator that counts cannot be written otherwise")]
#![allow(clippy::print_stdout)] // what was measured

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Duration,
};

use fanfare_presence::{
    Audience, Call, ConnectionKey, Effect, Incarnation, Keeper, KeeperConfig, Leases, Outcome, Place, Roster, Row,
    RowChange, RowPage, State, StoreEvent, User, Version, Written,
};
use fanfare_protocol::{Channel, Tenant};

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
    for (users, allowed) in [(ROWS, 330), (ROWS / 2, 300), (1, 260)] {
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

/// A store that takes everything and answers as it is read: with texts of its own.
fn serve(keeper: &mut Keeper, now: Duration) {
    while let Some(effect) = keeper.poll_effect() {
        let Effect::Call(call) = effect else { continue };
        let version = |number| Version { epoch: "0123456789abcdef".to_owned(), number };
        let mut told = None;
        let outcome = match &call {
            Call::Renew(_) => Outcome::Renewed(Ok(Leases { held: true, ..Leases::default() })),
            Call::Read { .. } => Outcome::Read(Ok(RowPage { version: version(0), rows: Vec::new(), next: None })),
            Call::Write(write) => {
                let changes = write.puts.iter().map(|row| {
                    let User::Named(name) = &row.user else { unreachable!() };
                    let row = Row { user: User::Named((**name).into()), ..row.clone() };
                    RowChange::Put(
                        Incarnation::parse(write.incarnation.as_str()).expect("it is one that this reads"),
                        row,
                    )
                });
                let changes = changes.collect();
                told = Some(StoreEvent::Changed { place: write.place.clone(), version: version(1), changes });
                Outcome::Written(Ok(Written { version: version(1), occupied: true, vacated: false }))
            }
            _ => Outcome::Done(Ok(())),
        };
        keeper.handle_done(now, call, outcome);
        if let Some(event) = told {
            keeper.handle_event(now, event);
        }
    }
}

/// As many channels as members, each of whom watches: the dearest way to be present.
#[test]
fn a_channel_with_one_member_is_small() {
    const CHANNELS: u64 = 10_000;
    let config = KeeperConfig {
        node: "node".to_owned(),
        lease: Duration::from_secs(10),
        grace: Duration::from_secs(5),
        batch: Duration::from_millis(250),
        max_named: 500,
        calls: 64,
        snapshot_bytes: 65_536,
    };
    let mut keeper = Keeper::new(config, 1, Duration::ZERO);
    serve(&mut keeper, Duration::ZERO);
    // Names are the shard's.
    let place = |n| Place { tenant: Tenant::default(), channel: Channel::parse(&format!("team:{n}")).unwrap() };
    let places: Vec<Place> = (0..CHANNELS).map(place).collect();
    let before = HELD.get();
    let mut now = Duration::ZERO;
    for (n, place) in places.iter().enumerate() {
        now += Duration::from_micros(100);
        let connection = ConnectionKey(n as u128 + 1);
        let user = User::Named(format!("user-{n:011}").into());
        let row = Row { connection, user, state: State::Online, info: None, since: 1 };
        keeper.handle_watch(now, place, Audience::Auto);
        keeper.handle_join(now, place, row);
        serve(&mut keeper, now);
    }
    for _ in 0..10 {
        now += Duration::from_millis(100);
        keeper.handle_timeout(now);
        serve(&mut keeper, now);
    }
    assert_eq!((keeper.rows(), keeper.mirrored(), keeper.unwritten()), (10_000, 10_000, 0));
    let each = (HELD.get() - before) / CHANNELS as isize;
    println!("a channel with one member who watches takes {each} bytes");
    assert!(each <= 1_100, "{each} bytes");
}
