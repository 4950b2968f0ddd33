//! A keeper alone, its store played by hand.

use fanfare_protocol::{Channel, Tenant};

use super::*;
use crate::{RowChange, User, Version, Written};

mod doubts;

const CONFIG_CALLS: usize = 8;

fn place(name: &str) -> Place {
    Place { tenant: Tenant::default(), channel: Channel::parse(name).unwrap() }
}

fn row(connection: u128, user: &str) -> Row {
    let user = User::Named(user.into());
    Row { connection: ConnectionKey(connection), user, state: State::Online, info: None, since: 5 }
}

fn at(number: u64) -> Version {
    Version { epoch: "e".to_owned(), number }
}

fn away() -> StoreError {
    StoreError::Unavailable { store: "hand", reason: "away".to_owned() }
}

/// A keeper, the time, and what it wants.
struct Hand {
    keeper: Keeper,
    now: Duration,
    effects: Vec<Effect>,
    /// The incarnations that have renewed a lease: none of them ends unless a test says so.
    held: Vec<Incarnation>,
}

impl Hand {
    fn new() -> Self {
        let config = KeeperConfig {
            node: "a".to_owned(),
            lease: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            batch: Duration::from_millis(250),
            max_named: 500,
            calls: CONFIG_CALLS,
            snapshot_bytes: 65_536,
        };
        let (keeper, now) = (Keeper::new(config, 1, Duration::ZERO), Duration::ZERO);
        let mut hand = Self { keeper, now, effects: Vec::new(), held: Vec::new() };
        hand.renew(true);
        hand
    }

    /// Lets time pass, to the next thing that is due at the most.
    fn pass(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        while let Some(due) = self.keeper.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.keeper.handle_timeout(self.now);
            self.renew_if_due(true);
        }
        self.now = end;
        self.keeper.handle_timeout(end);
    }

    fn poll(&mut self) {
        while let Some(effect) = self.keeper.poll_effect() {
            self.effects.push(effect);
        }
    }

    fn renew(&mut self, held: bool) {
        assert!(self.renew_if_due(held), "no renewal is due");
    }

    fn renew_if_due(&mut self, held: bool) -> bool {
        self.poll();
        let is_renewal = |effect: &Effect| matches!(effect, Effect::Call(Call::Renew(_)));
        let Some(index) = self.effects.iter().position(is_renewal) else { return false };
        let Effect::Call(call) = self.effects.remove(index) else { unreachable!() };
        let Call::Renew(Renewal { incarnation, .. }) = &call else { unreachable!() };
        let others = self.held.iter().filter(|other| *other != incarnation);
        let others = others.map(|other| (other.clone(), Duration::from_secs(10))).collect();
        if !self.held.contains(incarnation) {
            self.held.push(incarnation.clone());
        }
        self.keeper.handle_done(self.now, call, Outcome::Renewed(Ok(Leases { held, others, ..Leases::default() })));
        true
    }

    /// The only call that is wanted.
    fn call(&mut self) -> Call {
        self.poll();
        match &self.effects[..] {
            [Effect::Call(_)] => {}
            other => panic!("not one call: {other:?}"),
        }
        let Some(Effect::Call(call)) = self.effects.pop() else { unreachable!() };
        call
    }

    fn nothing(&mut self) {
        self.poll();
        assert!(self.effects.is_empty(), "{:?}", self.effects);
    }

    fn done(&mut self, call: Call, outcome: Outcome) {
        self.keeper.handle_done(self.now, call, outcome);
    }

    fn join(&mut self, row: Row) {
        self.keeper.handle_join(self.now, &place("crew:1"), row);
    }

    fn note(&mut self) {
        let call = self.call();
        assert!(matches!(&call, Call::Note { places, .. } if *places == [place("crew:1")]), "{call:?}");
        self.done(call, Outcome::Done(Ok(())));
    }

    /// Takes a write; says who was put and who was removed.
    fn write(&mut self, version: Option<u64>) -> (Vec<u128>, Vec<u128>) {
        let call = self.call();
        let Call::Write(write) = &call else { panic!("no write: {call:?}") };
        let puts = write.puts.iter().map(|row| row.connection.0).collect();
        let removes = write.removes.iter().map(|connection| connection.0).collect();
        let written = |number| Written { version: at(number), occupied: false, vacated: false };
        self.done(call, Outcome::Written(version.map(written).ok_or_else(away)));
        (puts, removes)
    }

    fn listened_and_read(&mut self, version: u64, rows: Vec<Row>) {
        let call = self.call();
        assert!(matches!(call, Call::Listen(_)), "{call:?}");
        self.done(call, Outcome::Done(Ok(())));
        self.read(version, rows);
    }

    fn read(&mut self, version: u64, rows: Vec<Row>) {
        let call = self.call();
        assert!(matches!(call, Call::Read { .. }), "{call:?}");
        let other = Incarnation::new("b", 9);
        let rows = rows.into_iter().map(|row| (other.clone(), row)).collect();
        self.done(call, Outcome::Read(Ok(RowPage { version: at(version), rows, next: None })));
    }

    fn changed(&mut self, number: u64, change: RowChange) {
        let event = StoreEvent::Changed { place: place("crew:1"), version: at(number), changes: vec![change] };
        self.keeper.handle_event(self.now, event);
    }

    fn ask(&mut self, id: u64, limit: usize) {
        let query =
            Query { place: place("crew:1"), audience: None, snapshot: false, after: None, limit, bytes: 10_000 };
        self.keeper.handle_query(self.now, QueryId(id), query);
    }

    /// The only answer: how many, and whether it is stale.
    fn answer(&mut self, id: u64) -> (u64, bool) {
        self.poll();
        let is_answer = |effect: &Effect| matches!(effect, Effect::Answer { query, .. } if query.0 == id);
        let index = self.effects.iter().position(is_answer).unwrap_or_else(|| panic!("{:?}", self.effects));
        let Effect::Answer { answer, .. } = self.effects.remove(index) else { unreachable!() };
        (answer.users, answer.stale)
    }

    /// What those who watch were told.
    fn told(&mut self) -> Vec<(String, u32)> {
        self.poll();
        let mut told = Vec::new();
        self.effects.retain(|effect| match effect {
            Effect::Announce { told: events, .. } => {
                told.extend(events.iter().map(|event| match event {
                    Told::Change(change) => (change.status.to_string(), change.connections),
                    other => panic!("{other:?}"),
                }));
                false
            }
            _ => true,
        });
        told
    }
}

fn put(connection: u128, user: &str) -> RowChange {
    RowChange::Put(Incarnation::new("b", 9), row(connection, user))
}

fn removed(connection: u128, user: &str) -> RowChange {
    RowChange::Removed { connection: ConnectionKey(connection), user: User::Named(user.into()) }
}

#[test]
fn a_row_is_noted_written_and_goes_after_the_grace() {
    let mut hand = Hand::new();
    hand.join(row(1, "alice"));
    hand.note();
    assert_eq!(hand.write(Some(1)), (vec![1], vec![]));
    hand.nothing();
    hand.keeper.handle_leave(hand.now, &place("crew:1"), ConnectionKey(1));
    hand.pass(4.9);
    hand.nothing();
    hand.pass(0.2);
    assert_eq!(hand.write(Some(2)), (vec![], vec![1]));
    let call = hand.call();
    assert!(matches!(call, Call::Unnote { .. }), "{call:?}");
    // Whoever comes meanwhile is noted again, behind it.
    hand.join(row(2, "bob"));
    hand.nothing();
    hand.done(call, Outcome::Done(Ok(())));
    hand.note();
    assert_eq!(hand.write(Some(3)), (vec![2], vec![]));
    assert_eq!(hand.keeper.rows(), 1);
}

#[test]
fn who_comes_back_within_the_grace_has_never_been_away() {
    let mut hand = Hand::new();
    hand.join(row(1, "alice"));
    hand.note();
    hand.write(Some(1));
    hand.keeper.handle_leave(hand.now, &place("crew:1"), ConnectionKey(1));
    hand.pass(3.0);
    hand.join(Row { since: 99, ..row(1, "alice") });
    assert_eq!(hand.write(Some(2)), (vec![1], vec![]), "it is since then that it is there");
    hand.pass(10.0);
    hand.nothing();
    assert_eq!(hand.keeper.rows(), 1);
}

#[test]
fn what_was_not_acknowledged_is_written_again() {
    let mut hand = Hand::new();
    hand.join(row(1, "alice"));
    hand.note();
    assert_eq!(hand.write(None), (vec![1], vec![]));
    hand.nothing();
    hand.join(row(2, "bob"));
    hand.pass(0.5);
    assert_eq!(hand.write(Some(1)), (vec![1, 2], vec![]));
    hand.keeper.handle_update(hand.now, &place("crew:1"), ConnectionKey(2), State::Idle, None);
    assert_eq!(hand.write(Some(2)), (vec![2], vec![]));
    hand.keeper.handle_update(hand.now, &place("crew:1"), ConnectionKey(2), State::Idle, None);
    hand.nothing();
}

#[test]
fn a_lost_lease_is_a_new_incarnation_that_writes_everything() {
    let mut hand = Hand::new();
    hand.join(row(1, "alice"));
    hand.note();
    hand.write(Some(1));
    let before = hand.keeper.incarnation().clone();
    // The node stood still.
    hand.now += Duration::from_secs(60);
    hand.keeper.handle_timeout(hand.now);
    hand.join(row(2, "bob"));
    hand.renew(false);
    assert_ne!(*hand.keeper.incarnation(), before);
    hand.renew(true);
    let calls = [hand.keeper.poll_effect(), hand.keeper.poll_effect()];
    let mut noted = None;
    for call in calls.into_iter().flatten() {
        match call {
            Effect::Call(Call::Noted { incarnation, .. }) => assert_eq!(incarnation, before, "its own dead rows"),
            Effect::Call(call @ Call::Note { .. }) => noted = Some(call),
            other => panic!("{other:?}"),
        }
    }
    hand.done(noted.expect("it is noted anew"), Outcome::Done(Ok(())));
    let (mut puts, removes) = hand.write(Some(3));
    puts.sort_unstable();
    assert_eq!((puts, removes), (vec![1, 2], vec![]));
}

#[test]
fn nothing_is_written_when_the_lease_may_have_ended() {
    let mut hand = Hand::new();
    hand.now += Duration::from_secs(9);
    hand.keeper.handle_timeout(hand.now);
    hand.join(row(1, "alice"));
    hand.poll();
    assert!(matches!(hand.effects[..], [Effect::Call(Call::Renew(_))]), "{:?}", hand.effects);
}

#[test]
fn who_watches_is_told_once_and_a_reload_is_nothing() {
    let mut hand = Hand::new();
    hand.keeper.handle_watch(hand.now, &place("crew:1"), Audience::Auto);
    hand.listened_and_read(3, vec![row(1, "alice")]);
    hand.changed(3, removed(1, "alice"));
    hand.changed(4, put(2, "bob"));
    hand.changed(5, put(3, "alice"));
    hand.changed(6, removed(1, "alice"));
    assert_eq!(hand.told(), []);
    hand.pass(0.3);
    assert_eq!(hand.told(), [("online".to_owned(), 1)]);
    hand.changed(7, removed(2, "bob"));
    hand.pass(0.3);
    assert_eq!(hand.told(), [("offline".to_owned(), 0)]);
}

#[test]
fn a_missed_change_has_everything_read_anew_and_the_difference_told() {
    let mut hand = Hand::new();
    hand.keeper.handle_watch(hand.now, &place("crew:1"), Audience::Auto);
    hand.listened_and_read(3, vec![row(1, "alice")]);
    hand.changed(5, put(2, "bob"));
    hand.ask(1, 10);
    // What comes while it is read lies behind it.
    let call = hand.call();
    hand.changed(6, put(3, "carol"));
    let rows = vec![(Incarnation::new("b", 9), row(2, "bob"))];
    hand.done(call, Outcome::Read(Ok(RowPage { version: at(5), rows, next: None })));
    assert_eq!(hand.answer(1), (2, false));
    hand.pass(0.3);
    let mut told = hand.told();
    told.sort();
    assert_eq!(told, [("offline".to_owned(), 0), ("online".to_owned(), 1), ("online".to_owned(), 1)]);
}

#[test]
fn a_question_sees_what_was_joined_before_it() {
    let mut hand = Hand::new();
    hand.keeper.handle_watch(hand.now, &place("crew:1"), Audience::Auto);
    hand.listened_and_read(0, vec![]);
    hand.join(row(1, "alice"));
    hand.ask(7, 10);
    hand.note();
    hand.write(Some(1));
    hand.nothing();
    hand.changed(1, put(1, "alice"));
    assert_eq!(hand.answer(7), (1, false));
}

#[test]
fn without_the_store_the_answer_is_stale_and_comes_at_once() {
    let mut hand = Hand::new();
    hand.keeper.handle_watch(hand.now, &place("crew:1"), Audience::Auto);
    hand.listened_and_read(1, vec![row(1, "alice"), row(2, "bob")]);
    hand.keeper.handle_event(hand.now, StoreEvent::Interrupted);
    hand.ask(1, 10);
    assert_eq!(hand.answer(1), (2, true));
    hand.keeper.handle_event(hand.now, StoreEvent::Resumed);
    hand.ask(2, 10);
    hand.renew(true);
    // The same version may have come about in another way.
    hand.read(1, vec![row(1, "alice")]);
    assert_eq!(hand.answer(2), (1, false));
}

#[test]
fn who_was_only_not_told_reads_anew_and_writes_nothing() {
    let mut hand = Hand::new();
    hand.join(row(1, "alice"));
    hand.note();
    hand.write(Some(1));
    let incarnation = hand.keeper.incarnation().clone();
    hand.keeper.handle_watch(hand.now, &place("crew:1"), Audience::Auto);
    hand.listened_and_read(1, vec![row(1, "alice")]);
    hand.keeper.handle_event(hand.now, StoreEvent::Interrupted);
    hand.keeper.handle_event(hand.now, StoreEvent::Relistened);
    hand.read(2, vec![row(1, "alice"), row(2, "bob")]);
    hand.nothing();
    assert_eq!(*hand.keeper.incarnation(), incarnation);
}

#[test]
fn a_store_that_only_keeps_silent_makes_answers_stale_too() {
    let mut hand = Hand::new();
    hand.keeper.handle_watch(hand.now, &place("crew:1"), Audience::Auto);
    hand.listened_and_read(1, vec![row(1, "alice")]);
    hand.now += Duration::from_secs(4);
    hand.keeper.handle_timeout(hand.now);
    hand.ask(1, 10);
    assert_eq!(hand.answer(1), (1, false));
    hand.poll();
    assert!(matches!(hand.effects[..], [Effect::Call(Call::Renew(_))]), "{:?}", hand.effects);
    hand.now += Duration::from_secs(2);
    hand.ask(2, 10);
    assert_eq!(hand.answer(2), (1, true));
    hand.renew(true);
    hand.ask(3, 10);
    assert_eq!(hand.answer(3), (1, false));
}

#[test]
fn a_channel_that_nobody_watches_is_read_for_the_question_alone() {
    let mut hand = Hand::new();
    hand.ask(1, 0);
    let call = hand.call();
    let standing = Standing { version: at(1), users: 4, connections: 5 };
    hand.done(call, Outcome::Standings(Ok(vec![standing])));
    assert_eq!(hand.answer(1), (4, false));
    hand.ask(2, 10);
    hand.listened_and_read(1, vec![row(1, "alice")]);
    assert_eq!(hand.answer(2), (1, false));
    hand.ask(3, 10);
    assert_eq!(hand.answer(3), (1, false), "it is not read for each question");
    hand.pass(5.0);
    assert_eq!(hand.keeper.mirrored(), 0);
    let call = hand.call();
    assert!(matches!(call, Call::Unlisten(_)), "{call:?}");
    // Who watches meanwhile is listened for behind it.
    hand.keeper.handle_watch(hand.now, &place("crew:1"), Audience::Names);
    hand.nothing();
    hand.done(call, Outcome::Done(Ok(())));
    hand.listened_and_read(1, vec![]);
}

#[test]
fn the_dead_are_reaped_place_by_place() {
    let mut hand = Hand::new();
    hand.pass(12.0);
    hand.poll();
    let dead = Incarnation::new("b", 3);
    hand.pass(3.0);
    hand.effects.clear();
    hand.keeper.reaper.begin(dead.clone(), VecDeque::new());
    let call = hand.call();
    hand.done(call, Outcome::Noted(Ok((vec![place("crew:1"), place("crew:2")], None))));
    hand.poll();
    let calls: Vec<Effect> = std::mem::take(&mut hand.effects);
    assert_eq!(calls.len(), 2);
    for call in calls {
        let Effect::Call(call @ Call::Reap(_)) = call else { panic!("{call:?}") };
        let reaped = Reaped { removed: vec![row(1, "alice")], vacated: true, more: false };
        hand.done(call, Outcome::Reaped(Ok(reaped)));
    }
    hand.poll();
    let lost = hand.effects.iter().filter(|effect| matches!(effect, Effect::Lost { .. })).count();
    let vacated = hand.effects.iter().filter(|effect| matches!(effect, Effect::Vacated(_))).count();
    assert_eq!((lost, vacated), (2, 2));
    hand.effects.retain(|effect| matches!(effect, Effect::Call(_)));
    // What it has noted stays, for what it may have written too late.
    let call = hand.call();
    assert!(matches!(&call, Call::Reaped { dead: own, .. } if *own == dead), "{call:?}");
    hand.done(call, Outcome::Done(Ok(())));
    hand.nothing();
}

#[test]
fn a_reaping_that_failed_is_over_when_its_last_call_is_back() {
    let mut hand = Hand::new();
    let dead = Incarnation::new("b", 3);
    hand.keeper.reaper.begin(dead.clone(), VecDeque::new());
    let call = hand.call();
    hand.done(call, Outcome::Noted(Ok((vec![place("crew:1"), place("crew:2")], None))));
    hand.poll();
    let mut calls = std::mem::take(&mut hand.effects).into_iter();
    let (Some(Effect::Call(first)), Some(Effect::Call(second))) = (calls.next(), calls.next()) else { panic!() };
    hand.done(first, Outcome::Reaped(Err(away())));
    hand.keeper.reaper.begin(dead.clone(), VecDeque::new());
    hand.pass(1.0);
    hand.nothing();
    hand.done(second, Outcome::Reaped(Ok(Reaped { removed: vec![row(1, "alice")], vacated: false, more: true })));
    hand.poll();
    assert!(matches!(hand.effects[..], [Effect::Lost { .. }]), "what was removed is told: {:?}", hand.effects);
    hand.effects.clear();
    hand.keeper.reaper.begin(dead, VecDeque::new());
    assert!(matches!(hand.call(), Call::Noted { cursor: None, .. }));
}

#[test]
fn what_a_lost_incarnation_left_goes_after_everything_is_written_anew() {
    let mut hand = Hand::new();
    hand.join(row(1, "alice"));
    hand.note();
    hand.write(Some(1));
    let left = hand.keeper.incarnation().clone();
    hand.now += Duration::from_secs(60);
    hand.keeper.handle_timeout(hand.now);
    hand.renew(false);
    hand.renew(true);
    hand.note();
    hand.write(Some(2));
    hand.nothing();
    hand.now += Duration::from_secs(4);
    hand.keeper.handle_timeout(hand.now);
    hand.poll();
    let Some(Effect::Call(call @ Call::Renew(_))) = hand.effects.pop() else { panic!() };
    let leases = Leases { held: true, dead: vec![left.clone()], ..Leases::default() };
    hand.done(call, Outcome::Renewed(Ok(leases)));
    let call = hand.call();
    assert!(matches!(&call, Call::Noted { incarnation, .. } if *incarnation == left), "{call:?}");
    hand.done(call, Outcome::Noted(Ok((vec![place("crew:1")], None))));
    let call = hand.call();
    hand.done(call, Outcome::Reaped(Ok(Reaped { removed: vec![row(7, "gone")], vacated: false, more: false })));
    let call = hand.call();
    assert!(matches!(call, Call::Reaped { .. }), "nobody is told of a lost node: {call:?}");
}

#[test]
fn who_was_shown_what_the_node_knew_is_shown_everything_later() {
    let mut hand = Hand::new();
    hand.keeper.handle_event(hand.now, StoreEvent::Interrupted);
    hand.join(row(1, "alice"));
    hand.keeper.handle_watch(hand.now, &place("crew:1"), Audience::Auto);
    let query = Query {
        place: place("crew:1"),
        audience: Some(Audience::Auto),
        snapshot: true,
        after: None,
        limit: 10,
        bytes: 10_000,
    };
    hand.keeper.handle_query(hand.now, QueryId(1), query);
    assert_eq!(hand.answer(1), (1, true));
    for effect in std::mem::take(&mut hand.effects) {
        let Effect::Call(call) = effect else { panic!("{effect:?}") };
        hand.done(call, Outcome::Done(Err(away())));
    }
    hand.keeper.handle_event(hand.now, StoreEvent::Resumed);
    let mut snapshots = Vec::new();
    for _ in 0..20 {
        hand.renew_if_due(true);
        let Some(effect) = hand.effects.pop() else { break };
        match effect {
            Effect::Call(call) => {
                let outcome = match &call {
                    Call::Read { .. } => {
                        let rows = vec![(Incarnation::new("b", 9), row(2, "bob"))];
                        Outcome::Read(Ok(RowPage { version: at(4), rows, next: None }))
                    }
                    Call::Write(_) => Outcome::Written(Ok(Written { version: at(5), occupied: false, vacated: false })),
                    _ => Outcome::Done(Ok(())),
                };
                hand.done(call, outcome);
            }
            Effect::Announce { told, .. } => snapshots.extend(told),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(&snapshots[..], [Told::Snapshot(answer)] if answer.users == 1 && !answer.stale), "{snapshots:?}");
}

#[test]
fn who_is_missing_after_the_store_lost_its_data_is_believed_for_a_lease() {
    let mut hand = Hand::new();
    hand.keeper.handle_watch(hand.now, &place("crew:1"), Audience::Auto);
    hand.listened_and_read(7, vec![row(1, "alice"), row(2, "bob"), row(3, "carol")]);
    hand.keeper.handle_event(hand.now, StoreEvent::Interrupted);
    hand.keeper.handle_event(hand.now, StoreEvent::Resumed);
    hand.renew(true);
    let call = hand.call();
    let version = Version { epoch: "new".to_owned(), number: 1 };
    let rows = vec![(Incarnation::new("b", 9), row(1, "alice"))];
    hand.done(call, Outcome::Read(Ok(RowPage { version, rows, next: None })));
    hand.ask(1, 10);
    hand.pass(1.0);
    assert_eq!(hand.told(), []);
    hand.pass(1.5);
    assert_eq!(hand.answer(1), (3, true));
    let version = Version { epoch: "new".to_owned(), number: 2 };
    let event = StoreEvent::Changed { place: place("crew:1"), version, changes: vec![put(2, "bob")] };
    hand.keeper.handle_event(hand.now, event);
    hand.pass(7.0);
    assert_eq!(hand.told(), []);
    hand.pass(1.5);
    assert_eq!(hand.told(), [("offline".to_owned(), 0)]);
    hand.ask(2, 10);
    assert_eq!(hand.answer(2), (2, false));
}

#[test]
fn questions_are_answered_while_the_node_goes_away() {
    let mut hand = Hand::new();
    hand.keeper.handle_drain(hand.now);
    let call = hand.call();
    hand.done(call, Outcome::Done(Ok(())));
    hand.ask(1, 10);
    hand.listened_and_read(1, vec![row(1, "alice")]);
    assert_eq!(hand.answer(1), (1, false));
}

#[test]
fn a_node_that_goes_away_leaves_its_rows_for_the_grace() {
    let mut hand = Hand::new();
    hand.join(row(1, "alice"));
    hand.note();
    hand.write(Some(1));
    hand.keeper.handle_drain(hand.now);
    hand.keeper.handle_leave(hand.now, &place("crew:1"), ConnectionKey(1));
    let call = hand.call();
    assert!(
        matches!(&call, Call::Resign { after, at_once: false, .. } if *after == Duration::from_secs(5)),
        "{call:?}"
    );
    hand.done(call, Outcome::Done(Ok(())));
    assert!(hand.keeper.is_drained());
    hand.pass(60.0);
    hand.nothing();
}

#[test]
fn writing_everything_anew_is_paced() {
    let mut hand = Hand::new();
    for number in 0..200_u128 {
        hand.keeper.handle_join(hand.now, &place(&format!("crew:{number}")), row(number, "alice"));
    }
    let settle = |hand: &mut Hand| {
        let mut writes = 0;
        loop {
            hand.poll();
            let Some(Effect::Call(call)) = hand.effects.pop() else { return writes };
            let outcome = match &call {
                Call::Write(_) => {
                    writes += 1;
                    Outcome::Written(Ok(Written { version: at(1), occupied: false, vacated: false }))
                }
                Call::Standings(_) => Outcome::Standings(Ok(Vec::new())),
                _ => Outcome::Done(Ok(())),
            };
            hand.done(call, outcome);
        }
    };
    assert_eq!(settle(&mut hand), 200, "what is new is not paced");
    hand.keeper.handle_event(hand.now, StoreEvent::Interrupted);
    hand.keeper.handle_event(hand.now, StoreEvent::Resumed);
    hand.renew(true);
    let mut written = settle(&mut hand);
    assert!(written < 200, "{written}");
    for _ in 0..400 {
        let Some(due) = hand.keeper.poll_timeout().filter(|due| *due < hand.now + Duration::from_secs(1)) else {
            break;
        };
        assert!(due > hand.now || hand.keeper.unwritten() == 0, "no time passes");
        hand.now = due;
        hand.keeper.handle_timeout(due);
        written += settle(&mut hand);
    }
    assert_eq!(written, 200);
}
