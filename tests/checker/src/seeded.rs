//! The checker itself is held against runs with one known error each: it has to find that one, and nothing in a run
//! without.

use std::time::Duration;

use crate::{ClientLog, Delivered, Gap, Kind, Position, PublisherLog, Report, Rules, Run, Subscribed, Summary};

const CHANNEL: &str = "project:a";
const EPOCH: &str = "e1";

/// Publication `n` has offset `3 * n` (as where other channels share the numbering), was sent at second `n`, and a client
/// receives it at second `n + 1`.
const PUBLICATIONS: u64 = 12;

/// What comes to the client.
#[derive(Clone, Debug)]
enum Step {
    /// `since`, `recovered`, the publications of the reply, where it stands.
    Subscribe(Option<u64>, Option<bool>, Vec<u64>, u64),
    Push(u64),
    Gap(u64, u64),
    Cut,
    Leave,
}
use Step::{Cut, Leave, Push, Subscribe};

fn position(n: u64) -> Position {
    Position::new(3 * n, EPOCH)
}

fn delivered(n: u64) -> Delivered {
    Delivered::new(&format!("id-{n}"), &n.to_string(), Some(position(n)))
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Two sessions, the second one with three recovered in its reply, and one that came while it was away twice.
fn faithful() -> Vec<Step> {
    let mut steps = vec![Subscribe(None, None, vec![], 0), Push(1), Push(2), Push(3), Cut];
    steps.extend([Subscribe(Some(3), Some(true), vec![4, 5, 6], 6), Push(7), Push(8), Cut]);
    steps.extend([Subscribe(Some(8), Some(true), vec![], 8), Push(9), Push(10), Push(11), Push(12)]);
    steps
}

fn publisher() -> PublisherLog {
    let mut log = PublisherLog::new();
    for n in 1..=PUBLICATIONS {
        let id = format!("id-{n}");
        log.attempted(seconds(n), CHANNEL, &id, &n.to_string());
        match n {
            // No answer, but everyone saw it.
            5 => {}
            // As JetStream answers.
            n if n % 2 == 0 => log.accepted(CHANNEL, &id, 3 * n, None),
            _ => log.accepted(CHANNEL, &id, 3 * n, Some(EPOCH)),
        }
    }
    // No answer, and nobody saw it.
    log.attempted(seconds(3), CHANNEL, "nobody's", "0");
    log
}

fn client(name: &str, steps: &[Step]) -> ClientLog {
    let mut log = ClientLog::new(name);
    let mut at = seconds(0);
    for step in steps {
        match step {
            Subscribe(since, recovered, publications, stands) => {
                at = at.max(seconds(stands + 1));
                let subscribed = Subscribed {
                    since: since.map(position),
                    recovered: *recovered,
                    publications: publications.iter().copied().map(delivered).collect(),
                    position: Some(position(*stands)),
                };
                log.subscribed(at, CHANNEL, subscribed);
            }
            Push(n) => {
                at = at.max(seconds(n + 1));
                log.delivered(at, CHANNEL, delivered(*n));
            }
            Step::Gap(from, to) => {
                at = at.max(seconds(to + 1));
                let gap = Gap { reason: "test".to_owned(), from: Some(position(*from)), to: Some(position(*to)) };
                log.gap(at, CHANNEL, gap);
            }
            Cut => log.disconnected(at),
            Leave => log.unsubscribed(at, CHANNEL),
        }
    }
    log
}

fn run(rules: Rules, publishers: Vec<PublisherLog>, clients: Vec<ClientLog>) -> Result<Summary, Report> {
    let mut run = Run::new().rules("project", rules);
    publishers.into_iter().for_each(|log| run.publisher(log));
    clients.into_iter().for_each(|log| run.client(log));
    run.check()
}

/// One client beside one that is faithful.
fn check_with(rules: Rules, steps: &[Step]) -> Result<Summary, Report> {
    run(rules, vec![publisher()], vec![client("good", &faithful()), client("ann", steps)])
}

/// The kinds found, each so often.
#[track_caller]
fn assert_finds(result: Result<Summary, Report>, expected: &[(Kind, usize)]) -> Report {
    let report = result.expect_err("something is wrong");
    let found: Vec<_> = report.kinds().into_iter().collect();
    assert_eq!(found, expected, "{report}");
    report
}

/// A faithful run in which the step that pushes or recovers `n` is changed.
fn with_push(n: u64, change: impl FnOnce(&mut Vec<Step>, usize)) -> Vec<Step> {
    let mut steps = faithful();
    let index = steps.iter().position(|step| matches!(step, Push(own) if *own == n)).expect("it is pushed");
    change(&mut steps, index);
    steps
}

fn with_reply(publications: &[u64], stands: u64) -> Vec<Step> {
    let mut steps = faithful();
    steps[5] = Subscribe(Some(3), Some(true), publications.to_vec(), stands);
    steps
}

#[test]
fn nothing_is_wrong_with_a_faithful_run() {
    let summary = check_with(Rules::default(), &faithful()).unwrap();
    let expected = Summary {
        accepted: 11,
        unknown: 2,
        unknown_published: 1,
        clients: 2,
        disconnects: 4,
        pushed: 18,
        in_replies: 6,
        recovered: 4,
        ..Summary::default()
    };
    assert_eq!(summary, expected);
}

#[test]
fn a_client_begins_where_it_subscribes_and_ends_where_it_leaves() {
    check_with(Rules::default(), &[Subscribe(None, None, vec![], 11), Push(12)]).unwrap();
    check_with(Rules::default(), &[Subscribe(None, None, vec![10, 11], 11), Push(12)]).unwrap();
    check_with(Rules::default(), &[Subscribe(None, None, vec![], 3), Push(4), Leave]).unwrap();
    let again = [Subscribe(None, None, vec![], 3), Push(4), Leave, Cut, Subscribe(None, None, vec![12], 12)];
    check_with(Rules::default(), &again).unwrap();
    // With a position from elsewhere.
    check_with(Rules::default(), &[Subscribe(Some(10), Some(true), vec![11], 11), Push(12)]).unwrap();
    let hole = [Subscribe(None, None, vec![9, 11], 11), Push(12)];
    assert_finds(check_with(Rules::default(), &hole), &[(Kind::Lost, 1)]);
}

#[test]
fn a_lost_one_is_found_and_named() {
    let steps = with_push(10, |steps, index| drop(steps.remove(index)));
    let report = assert_finds(check_with(Rules::default(), &steps), &[(Kind::Lost, 1)]);
    let text = report.to_string();
    for part in ["ann on project:a", "1 never came: id-10 at 30", "> ", "delivered id-11 Some(33@e1)"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn the_last_one_lost_is_found() {
    let steps = with_push(12, |steps, index| drop(steps.remove(index)));
    assert_finds(check_with(Rules::default(), &steps), &[(Kind::Lost, 1)]);
    // And where nobody got anything: the broker answered, so it is there.
    let silent = || client("ann", &[Subscribe(None, None, vec![], 0)]);
    assert_finds(run(Rules::default(), vec![publisher()], vec![silent()]), &[(Kind::Lost, 1)]);
}

#[test]
fn one_without_an_answer_is_owed_once_anybody_saw_it() {
    let steps = with_reply(&[4, 6], 6);
    assert_finds(check_with(Rules::default(), &steps), &[(Kind::HoleInRecovery, 1)]);
    // Nobody saw it, so nothing is known of it.
    run(Rules::default(), vec![publisher()], vec![client("ann", &steps)]).unwrap();
    // The broker has it.
    let mut run = Run::new().rules("project", Rules::default());
    run.publisher(publisher());
    run.client(client("ann", &steps));
    run.retained(seconds(20), CHANNEL, (1..=PUBLICATIONS).map(|n| (format!("id-{n}"), position(n))));
    assert_finds(run.check(), &[(Kind::HoleInRecovery, 1)]);
}

#[test]
fn a_doubled_one_is_found() {
    let steps = with_push(10, |steps, index| steps.insert(index, Push(10)));
    assert_finds(check_with(Rules::default(), &steps), &[(Kind::Duplicate, 1)]);
    // In the reply and pushed again behind it.
    let steps = with_push(7, |steps, index| steps.insert(index, Push(6)));
    assert_finds(check_with(Rules::default(), &steps), &[(Kind::Duplicate, 1)]);
    // Recovered though it had come.
    let steps = with_reply(&[3, 4, 5, 6], 6);
    assert_finds(check_with(Rules::default(), &steps), &[(Kind::Duplicate, 1)]);
}

#[test]
fn swapped_ones_are_found() {
    let steps = with_push(10, |steps, index| steps.swap(index, index + 1));
    assert_finds(check_with(Rules::default(), &steps), &[(Kind::Disorder, 1)]);
    let steps = with_reply(&[4, 6, 5], 6);
    assert_finds(check_with(Rules::default(), &steps), &[(Kind::Disorder, 1)]);
    // Older than where the client began.
    let steps = [Subscribe(None, None, vec![], 10), Push(9), Push(11), Push(12)];
    assert_finds(check_with(Rules::default(), &steps), &[(Kind::Disorder, 1)]);
}

#[test]
fn a_recovery_with_a_hole_is_found() {
    for publications in [&[5, 6][..], &[4, 6], &[4, 5], &[]] {
        let steps = with_reply(publications, 6);
        assert_finds(check_with(Rules::default(), &steps), &[(Kind::HoleInRecovery, 1)]);
    }
    // It stands at what came in the reply, and what should have come behind it did not.
    let mut steps = with_reply(&[4, 5], 5);
    assert_finds(check_with(Rules::default(), &steps), &[(Kind::HoleInRecovery, 1)]);
    // Here it did.
    steps.insert(6, Push(6));
    check_with(Rules::default(), &steps).unwrap();
}

#[test]
fn a_miss_needs_its_proof() {
    let mut steps = faithful();
    steps[5] = Subscribe(Some(3), Some(false), vec![], 6);
    let rules = Rules::default();
    assert_finds(check_with(rules, &steps), &[(Kind::UnprovenMiss, 1)]);
    // Four lay behind it when it came back at second 7, and the one it had last was sent at second 3.
    assert_finds(check_with(Rules { size: 5, ttl: seconds(5), ..rules }, &steps), &[(Kind::UnprovenMiss, 1)]);
    for proven in [
        Rules { size: 4, ..rules },
        Rules { ttl: seconds(4), ..rules },
        Rules { recovery_publications: 2, ..rules },
        Rules { recovery_bytes: 2, ..rules },
    ] {
        let summary = check_with(proven, &steps).unwrap();
        assert_eq!((summary.not_recovered, summary.excused), (1, 3));
    }
    // With the newest ones all the same: the others are missed.
    steps[5] = Subscribe(Some(3), Some(false), vec![5, 6], 6);
    let summary = check_with(Rules { size: 3, ..rules }, &steps).unwrap();
    assert_eq!((summary.not_recovered, summary.excused), (1, 1));
    // A partial replay passed off as whole.
    assert_finds(check_with(Rules { size: 3, ..rules }, &with_reply(&[5, 6], 6)), &[(Kind::HoleInRecovery, 1)]);
}

#[test]
fn a_gap_needs_its_proof() {
    let mut steps = with_push(10, |steps, index| steps[index] = Step::Gap(9, 10));
    let rules = Rules::default();
    assert_finds(check_with(rules, &steps), &[(Kind::UnprovenMiss, 1)]);
    let summary = check_with(Rules { size: 1, ..rules }, &steps).unwrap();
    assert_eq!((summary.gaps, summary.excused), (1, 1));
    // What it is said to have, it has to have.
    steps = with_push(9, |steps, index| {
        steps[index] = Step::Gap(9, 10);
        steps.remove(index + 1);
    });
    let report = assert_finds(check_with(Rules { size: 1, ..rules }, &steps), &[(Kind::HoleInRecovery, 1)]);
    assert!(report.to_string().contains("id-9"), "{report}");
    // Positions are owed.
    let mut log = client("ann", &faithful());
    log.gap(seconds(20), CHANNEL, Gap { reason: "interrupted".to_owned(), from: None, to: None });
    assert_finds(run(rules, vec![publisher()], vec![log]), &[(Kind::UnprovenMiss, 1)]);
}

#[test]
fn wrong_data_and_what_belongs_elsewhere_is_found() {
    let mut log = client("ann", &[Subscribe(None, None, vec![], 11)]);
    log.delivered(seconds(20), CHANNEL, Delivered::new("id-12", "13", Some(position(12))));
    assert_finds(run(Rules::default(), vec![publisher()], vec![log]), &[(Kind::WrongData, 1)]);

    let mut others = PublisherLog::new();
    others.attempted(seconds(1), "project:b", "other", "1");
    others.accepted("project:b", "other", 500, Some(EPOCH));
    let mut log = client("ann", &faithful());
    log.delivered(seconds(20), CHANNEL, Delivered::new("other", "1", Some(Position::new(500, EPOCH))));
    log.delivered(seconds(20), CHANNEL, Delivered::new("invented", "1", Some(Position::new(501, EPOCH))));
    log.delivered(seconds(20), "project:b", Delivered::new("other", "1", Some(Position::new(500, EPOCH))));
    let expected = [(Kind::ForeignChannel, 1), (Kind::NeverPublished, 1), (Kind::NotSubscribed, 1)];
    assert_finds(run(Rules::default(), vec![publisher(), others], vec![log]), &expected);

    let mut refused = PublisherLog::new();
    refused.attempted(seconds(13), CHANNEL, "id-13", "13");
    refused.refused(CHANNEL, "id-13");
    let mut log = client("ann", &faithful());
    log.delivered(seconds(20), CHANNEL, delivered(13));
    assert_finds(run(Rules::default(), vec![publisher(), refused], vec![log]), &[(Kind::RefusedButPublished, 1)]);
}

#[test]
fn positions_are_held_against_each_other() {
    // Where a client sees it elsewhere than the publisher was told.
    let mut log = client("ann", &[Subscribe(None, None, vec![], 11)]);
    log.delivered(seconds(20), CHANNEL, Delivered::new("id-12", "12", Some(Position::new(37, EPOCH))));
    assert_finds(run(Rules::default(), vec![publisher()], vec![log]), &[(Kind::Conflict, 1)]);
    // A publication that was sent again is where it was.
    let mut again = PublisherLog::new();
    again.attempted(seconds(13), CHANNEL, "id-3", "3");
    again.accepted(CHANNEL, "id-3", 9, Some(EPOCH));
    let clients = || vec![client("ann", &faithful())];
    run(Rules::default(), vec![publisher(), again], clients()).unwrap();
    let mut twice = PublisherLog::new();
    twice.attempted(seconds(13), CHANNEL, "id-3", "3");
    twice.accepted(CHANNEL, "id-3", 39, Some(EPOCH));
    assert_finds(run(Rules::default(), vec![publisher(), twice], clients()), &[(Kind::Conflict, 1)]);
    // None at all.
    let mut log = client("ann", &faithful());
    log.delivered(seconds(20), CHANNEL, Delivered::new("id-12", "12", None));
    assert_finds(run(Rules::default(), vec![publisher()], vec![log]), &[(Kind::NoPosition, 1)]);
}

#[test]
fn the_clients_own_part_is_checked() {
    let mut steps = faithful();
    steps[5] = Subscribe(Some(2), Some(true), vec![4, 5, 6], 6);
    assert_finds(check_with(Rules::default(), &steps), &[(Kind::ClientFault, 1)]);
    steps[5] = Subscribe(Some(3), None, vec![4, 5, 6], 6);
    assert_finds(check_with(Rules::default(), &steps), &[(Kind::NotAnswered, 1)]);
}

#[test]
fn a_new_numbering_has_to_be_told_and_needs_a_failover() {
    let other = |offset| Some(Position::new(offset, "e2"));
    let later = || {
        let mut log = PublisherLog::new();
        log.attempted(seconds(30), CHANNEL, "new-1", "n");
        log.accepted(CHANNEL, "new-1", 1, Some("e2"));
        log
    };
    let failed_over = Rules { failed_over: true, ..Rules::default() };
    let check = |rules, log| run(rules, vec![publisher(), later()], vec![log]);

    // It stays where it was.
    assert_finds(check(failed_over, client("ann", &faithful())), &[(Kind::Lost, 1)]);
    // It is not told.
    let mut log = client("ann", &faithful());
    log.delivered(seconds(31), CHANNEL, Delivered::new("new-1", "n", other(1)));
    assert_finds(check(failed_over, log), &[(Kind::EpochChanged, 1)]);
    // It is told, by a gap or when it comes back.
    let told = |recovered| {
        let mut log = client("ann", &faithful());
        let since = log.position(CHANNEL).cloned();
        log.disconnected(seconds(31));
        let reply = Subscribed { since, recovered: Some(recovered), publications: vec![], position: other(0) };
        log.subscribed(seconds(32), CHANNEL, reply);
        log.delivered(seconds(33), CHANNEL, Delivered::new("new-1", "n", other(1)));
        log
    };
    check(failed_over, told(false)).unwrap();
    assert_finds(check(Rules::default(), told(false)), &[(Kind::EpochChanged, 1)]);
    assert_finds(check(failed_over, told(true)), &[(Kind::EpochChanged, 1)]);
    let mut log = client("ann", &faithful());
    let from = log.position(CHANNEL).cloned();
    log.gap(seconds(32), CHANNEL, Gap { reason: "epoch".to_owned(), from, to: other(0) });
    log.delivered(seconds(33), CHANNEL, Delivered::new("new-1", "n", other(1)));
    check(failed_over, log).unwrap();
}

#[test]
fn the_brokers_history_is_checked_too() {
    let check = |rules, publications: Vec<u64>| {
        let mut run = Run::new().rules("project", rules);
        run.publisher(publisher());
        run.client(client("ann", &faithful()));
        run.retained(seconds(20), CHANNEL, publications.into_iter().map(|n| (format!("id-{n}"), position(n))));
        run.check()
    };
    let rules = Rules::default();
    check(rules, (1..=12).collect()).unwrap();
    assert_finds(check(rules, (2..=12).collect()), &[(Kind::LostByBroker, 1)]);
    check(Rules { size: 11, ..rules }, (2..=12).collect()).unwrap();
    check(Rules { ttl: seconds(19), ..rules }, (2..=12).collect()).unwrap();
    assert_finds(check(Rules { size: 11, ..rules }, (3..=12).collect()), &[(Kind::LostByBroker, 1)]);
    // That it could not be recovered does not mean that it may be gone.
    let limit = Rules { recovery_publications: 2, ..rules };
    assert_finds(check(limit, (2..=12).collect()), &[(Kind::LostByBroker, 1)]);
    let swapped = (1..=10).chain([12, 11]).collect();
    assert_finds(check(rules, swapped), &[(Kind::Disorder, 1)]);
}

/// Numbers by chance, the same for the same seed (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Sessions of any number and length, in which everything comes: some in the reply, the rest as pushes.
fn faithful_by_chance(chance: &mut Chance) -> Vec<Step> {
    let mut has = chance.below(4) as u64;
    let mut steps = vec![Subscribe(None, None, vec![], has)];
    while has < PUBLICATIONS {
        let published = (has + chance.below(4) as u64).min(PUBLICATIONS);
        steps.extend((has + 1..=published).map(Push));
        if chance.below(2) == 0 {
            let in_reply = (published + chance.below(4) as u64).min(PUBLICATIONS);
            steps.extend([Cut, Subscribe(Some(published), Some(true), (published + 1..=in_reply).collect(), in_reply)]);
            has = in_reply;
        } else {
            has = published;
        }
    }
    steps
}

#[test]
fn whatever_the_sessions_are_one_error_is_found_and_none_is_invented() {
    for seed in 1..=500 {
        let mut chance = Chance(seed);
        let mut steps = faithful_by_chance(&mut chance);
        check_with(Rules::default(), &steps).unwrap_or_else(|report| panic!("{seed}: {steps:?}\n{report}"));
        let pushes: Vec<_> = (0..steps.len()).filter(|index| matches!(steps[*index], Push(_))).collect();
        if pushes.is_empty() {
            continue;
        }
        let index = pushes[chance.below(pushes.len())];
        // Publication 5 had no answer, and the faithful client saw it all the same.
        match chance.below(3) {
            0 => drop(steps.remove(index)),
            1 => steps.insert(index, steps[index].clone()),
            _ if index + 1 < steps.len() && matches!(steps[index + 1], Push(_)) => steps.swap(index, index + 1),
            _ => continue,
        }
        assert!(check_with(Rules::default(), &steps).is_err(), "{seed}: {steps:?}");
    }
}
