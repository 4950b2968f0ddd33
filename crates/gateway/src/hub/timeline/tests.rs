//! Each rule by itself; the model test puts them together.

use fanfare_protocol::Epoch;

use super::*;

type Tested = Timeline<u64, &'static str>;

const CONFIG: TimelineConfig = TimelineConfig {
    recovery_publications: 10,
    recovery_bytes: 1_000,
    size: 100,
    ttl: Duration::from_secs(600),
    ring_age: Duration::from_secs(60),
    check_interval: Duration::from_secs(10),
};

fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

fn place(offset: u64) -> Position {
    of("e", offset)
}

fn of(epoch: &str, offset: u64) -> Position {
    Position { offset, epoch: Epoch::parse(epoch).unwrap() }
}

fn entry(offset: u64) -> Entry<u64> {
    Entry { offset, bytes: 10, publication: offset }
}

fn standing(offset: u64) -> Standing {
    Standing { position: place(offset), empty: false }
}

fn since(offset: u64) -> Start {
    Start { since: Some(place(offset)), rewind: 0 }
}

fn page(offsets: impl IntoIterator<Item = u64>, position: u64, more: bool, whole: bool) -> Page<u64> {
    Page { entries: offsets.into_iter().map(entry).collect(), position: place(position), more, whole }
}

/// Everything that is to be done, as text.
fn effects(timeline: &mut Tested) -> Vec<String> {
    std::iter::from_fn(|| timeline.poll_effect())
        .map(|effect| match effect {
            Effect::Began(position) => format!("began {}", position.offset),
            Effect::NotBegun => "not begun".into(),
            Effect::Deliver(offset) => offset.to_string(),
            Effect::Gap { reason, from, to } => format!("{reason} {} {}", from.offset, to.offset),
            Effect::Answer(who, Answer::Unavailable) => format!("{who}: unavailable"),
            Effect::Answer(who, Answer::Begin { position, recovered, publications }) => {
                format!("{who}: {recovered:?} {publications:?} {}", position.offset)
            }
            Effect::Ask => "ask".into(),
            Effect::Read(read) => format!("{read:?}"),
        })
        .collect()
}

impl Tested {
    fn live(&mut self, now: u64, offset: u64, previous: u64) -> Vec<String> {
        let live = LivePosition { position: place(offset), previous: Some(previous) };
        self.handle_live(at(now), live, entry(offset));
        effects(self)
    }

    fn recover(&mut self, now: u64, who: &'static str, start: Start) -> Vec<String> {
        self.handle_recover(at(now), who, start);
        effects(self)
    }

    fn stands(&mut self, now: u64, standing: Standing) -> Vec<String> {
        self.handle_standing(at(now), Ok(standing));
        effects(self)
    }

    fn reads(&mut self, now: u64, page: Page<u64>) -> Vec<String> {
        self.handle_page(at(now), Ok(page));
        effects(self)
    }
}

fn begun(offset: u64) -> Tested {
    let mut timeline = Tested::new(at(0), CONFIG);
    assert_eq!(effects(&mut timeline), ["ask"]);
    assert_eq!(timeline.stands(1, standing(offset)), [format!("began {offset}")]);
    timeline
}

#[test]
fn what_came_before_the_position_was_known_is_delivered_behind_it() {
    let mut timeline = Tested::new(at(0), CONFIG);
    assert_eq!(effects(&mut timeline), ["ask"]);
    assert!(timeline.live(1, 4, 3).is_empty());
    assert!(timeline.live(1, 5, 4).is_empty());
    assert_eq!(timeline.stands(2, standing(4)), ["began 4", "5"]);
    assert_eq!(timeline.position(), Some(&place(5)));
}

#[test]
fn what_others_have_seen_by_a_pattern_is_not_delivered_again() {
    let mut timeline = Tested::new(at(0), CONFIG);
    timeline.live(1, 5, 4);
    timeline.handle_seen(&place(5));
    assert_eq!(timeline.stands(2, standing(4)), ["began 5"]);
}

#[test]
fn what_is_known_is_dropped_and_a_hole_is_read_before_what_is_newer() {
    let mut timeline = begun(4);
    assert_eq!(timeline.live(2, 5, 4), ["5"]);
    assert!(timeline.live(3, 5, 4).is_empty());
    assert_eq!(timeline.live(4, 8, 7), ["Missed { after: 5 }"]);
    assert!(timeline.live(5, 9, 8).is_empty());
    assert_eq!(timeline.reads(6, page([6, 7, 8], 8, false, true)), ["6", "7", "8", "9"]);
}

#[test]
fn a_repair_goes_on_until_all_is_read() {
    let mut timeline = begun(0);
    assert_eq!(timeline.live(2, 30, 29), ["Missed { after: 0 }"]);
    let mut told = timeline.reads(3, page(1..=10, 30, true, true));
    assert_eq!(told.pop().unwrap(), "Missed { after: 10 }");
    assert_eq!(told.len(), 10);
    assert_eq!(timeline.reads(4, page(11..=30, 30, false, true)).len(), 20);
    assert_eq!(timeline.live(5, 31, 30), ["31"]);
}

#[test]
fn what_is_not_retained_is_told_in_its_place() {
    let mut timeline = begun(4);
    timeline.live(2, 12, 11);
    assert_eq!(timeline.reads(3, page([10, 11, 12], 12, false, false)), ["not_retained 4 9", "10", "11", "12"]);
    assert_eq!(timeline.live(5, 20, 19), ["Missed { after: 12 }"]);
    assert_eq!(timeline.reads(6, page([], 20, false, false)), ["not_retained 12 20"]);
}

#[test]
fn what_is_held_back_is_bounded_and_read_instead() {
    let mut timeline = begun(0);
    assert_eq!(timeline.live(1, 2, 1), ["Missed { after: 0 }"]);
    (3..=200).for_each(|offset| assert!(timeline.live(1, offset, offset - 1).is_empty()));
    assert_eq!(timeline.held_bytes, timeline.held.len() * 10);
    assert!(timeline.held_bytes <= CONFIG.recovery_bytes);
    let told = timeline.reads(2, page([1, 2], 2, false, true));
    assert_eq!(told, ["1", "2", "Missed { after: 2 }"]);
}

#[test]
fn an_unknown_predecessor_is_none_only_as_long_as_one_would_be_retained() {
    let mut timeline = begun(4);
    let live = |offset| LivePosition { position: place(offset), previous: None };
    timeline.handle_live(at(599_000), live(5), entry(5));
    assert_eq!(effects(&mut timeline), ["5"]);
    timeline.handle_live(at(599_000 + 600_000), live(6), entry(6));
    assert_eq!(effects(&mut timeline), ["Missed { after: 5 }"]);
}

#[test]
fn a_lost_publication_is_found_by_the_check() {
    let mut timeline = begun(4);
    assert_eq!(timeline.poll_timeout(), at(1_001));
    timeline.handle_timeout(at(1_001));
    assert_eq!(effects(&mut timeline), ["ask"]);
    assert!(timeline.stands(1_002, standing(5)).is_empty(), "it may be on its way");
    assert_eq!(timeline.poll_timeout(), at(1_502));
    timeline.handle_timeout(at(1_502));
    assert_eq!(effects(&mut timeline), ["Missed { after: 4 }"]);
    assert_eq!(timeline.reads(1_510, page([5], 5, false, true)), ["5"]);
    timeline.handle_timeout(at(11_502));
    assert_eq!(effects(&mut timeline), ["ask"]);
    timeline.stands(11_503, standing(6));
    assert_eq!(timeline.live(11_504, 6, 5), ["6"]);
    timeline.handle_timeout(at(12_003));
    assert!(effects(&mut timeline).is_empty(), "it was only on its way");
}

#[test]
fn after_an_interruption_nothing_is_on_its_way() {
    let mut timeline = begun(4);
    timeline.handle_resumed(at(5));
    assert_eq!(effects(&mut timeline), ["ask"]);
    assert_eq!(timeline.stands(6, standing(7)), ["Missed { after: 4 }"]);
    assert_eq!(timeline.reads(7, page([5, 6, 7], 7, false, true)), ["5", "6", "7"]);
}

#[test]
fn an_empty_channel_is_not_read_where_nothing_can_have_come_and_gone() {
    let mut timeline = begun(4);
    timeline.handle_resumed(at(5));
    effects(&mut timeline);
    assert!(timeline.stands(6, Standing { position: place(100), empty: true }).is_empty());
    assert_eq!(timeline.recover(7, "a", since(100)), ["a: Some(true) [] 100"], "another node stands there");
}

#[test]
fn what_came_and_went_while_nobody_looked_is_told() {
    let mut timeline = begun(4);
    timeline.handle_resumed(at(600_002));
    assert_eq!(effects(&mut timeline), ["ask"]);
    assert_eq!(timeline.stands(600_003, Standing { position: place(7), empty: true }), ["Missed { after: 4 }"]);
    assert_eq!(timeline.reads(600_004, page([], 7, false, false)), ["not_retained 4 7"]);
}

#[test]
fn what_was_held_back_says_nothing_of_how_the_channel_stood_since() {
    let mut timeline = begun(4);
    timeline.live(2, 6, 5);
    timeline.reads(590_000, page([5], 5, false, true));
    assert_eq!(timeline.position(), Some(&place(6)));
    timeline.handle_resumed(at(602_500));
    effects(&mut timeline);
    let told = timeline.stands(602_600, Standing { position: place(7), empty: true });
    assert_eq!(told, ["Missed { after: 6 }"], "it came behind the one that was held back");
}

#[test]
fn a_question_that_takes_long_does_not_wake_the_node_all_the_time() {
    let mut timeline = Tested::new(at(0), CONFIG);
    assert_eq!(effects(&mut timeline), ["ask"]);
    timeline.handle_timeout(timeline.poll_timeout());
    assert_eq!(timeline.poll_timeout(), at(20_000));
}

#[test]
fn questions_that_fail_are_asked_again_ever_more_rarely() {
    let mut timeline = begun(4);
    timeline.live(2, 6, 5);
    for pause in [100, 200, 400] {
        let now = timeline.check_at.as_millis() + 10_000;
        if timeline.question.is_none() {
            timeline.handle_timeout(at(now));
            assert_eq!(effects(&mut timeline), ["ask"]);
            timeline.handle_standing(at(now), Err(Failed));
        } else {
            timeline.handle_page(at(now), Err(Failed));
        }
        assert_eq!(timeline.poll_timeout(), at(now + pause));
        timeline.handle_timeout(at(now + pause - 1));
        assert!(effects(&mut timeline).is_empty());
        timeline.check_at = at(now);
    }
    let mut timeline = Tested::new(at(0), CONFIG);
    effects(&mut timeline);
    timeline.handle_standing(at(1), Err(Failed));
    assert_eq!(effects(&mut timeline), ["not begun"]);
}

#[test]
fn a_new_epoch_is_told_and_the_old_one_forgotten() {
    let mut timeline = begun(40);
    let live = |offset, previous| LivePosition { position: of("f", offset), previous };
    timeline.handle_live(at(2), live(3, Some(2)), entry(3));
    assert_eq!(effects(&mut timeline), ["ask"], "only the leader knows which epoch it is");
    timeline.handle_live(at(3), live(4, Some(3)), entry(4));
    let told = timeline.stands(4, Standing { position: of("f", 4), empty: false });
    assert_eq!(told, ["new_epoch 40 2", "3", "4", "ask"], "the second came after the question");
    assert!(timeline.stands(4, Standing { position: of("f", 4), empty: false }).is_empty());
    assert_eq!(timeline.live(5, 41, 40), ["ask"], "a late one of the old epoch");
    assert!(timeline.stands(6, Standing { position: of("f", 4), empty: false }).is_empty());
    assert_eq!(timeline.recover(7, "a", since(40)), ["ask"]);
    assert_eq!(timeline.stands(8, Standing { position: of("f", 4), empty: false }), ["a: Some(false) [] 4"]);
}

#[test]
fn what_the_ring_has_is_answered_from_it() {
    let mut timeline = begun(4);
    (5..=8).for_each(|offset| _ = timeline.live(2, offset, offset - 1));
    assert_eq!(timeline.recover(3, "a", since(8)), ["a: Some(true) [] 8"]);
    assert_eq!(timeline.recover(3, "a", since(6)), ["a: Some(true) [7, 8] 8"]);
    assert_eq!(timeline.recover(3, "a", since(4)), ["a: Some(true) [5, 6, 7, 8] 8"]);
    assert_eq!(timeline.recover(3, "a", Start { since: None, rewind: 2 }), ["a: None [7, 8] 8"]);
    assert_eq!(timeline.recover(3, "a", Start { since: Some(place(6)), rewind: 4 }), ["a: Some(true) [7, 8] 8"]);
}

#[test]
fn one_read_serves_all_who_wait() {
    let mut timeline = begun(8);
    assert_eq!(timeline.recover(2, "a", since(5)), ["Recovery { after: 5 }"]);
    assert!(timeline.recover(2, "b", since(5)).is_empty());
    assert!(timeline.recover(2, "c", since(6)).is_empty());
    assert_eq!(timeline.live(3, 9, 8), ["9"], "live ones go on");
    assert_eq!(
        timeline.reads(4, page([6, 7, 8, 9], 9, false, true)),
        ["a: Some(true) [6, 7, 8, 9] 9", "b: Some(true) [6, 7, 8, 9] 9", "c: Some(true) [7, 8, 9] 9"]
    );
    assert_eq!(timeline.recover(5, "d", since(5)), ["d: Some(true) [6, 7, 8, 9] 9"], "it is in the ring now");
}

#[test]
fn a_read_that_proves_nothing_recovers_nobody_but_those_that_it_covers() {
    let mut timeline = begun(8);
    timeline.recover(2, "a", since(2));
    timeline.recover(2, "b", since(6));
    timeline.recover(2, "c", Start { since: Some(place(2)), rewind: 2 });
    assert_eq!(
        timeline.reads(4, page([6, 7, 8], 8, false, false)),
        ["a: Some(false) [] 8", "b: Some(true) [7, 8] 8", "c: Some(false) [7, 8] 8"]
    );
}

#[test]
fn too_much_is_not_recovered_and_read_once_for_all() {
    let mut timeline = begun(100);
    assert_eq!(timeline.recover(2, "a", since(20)), ["Recovery { after: 20 }"]);
    timeline.recover(2, "b", since(50));
    timeline.recover(2, "c", since(95));
    assert_eq!(timeline.reads(3, page(21..=30, 100, true, true)), ["a: Some(false) [] 100", "Newest { count: 10 }"]);
    assert_eq!(
        timeline.reads(4, page(91..=100, 100, true, true)),
        ["b: Some(false) [] 100", "c: Some(true) [96, 97, 98, 99, 100] 100"]
    );
}

#[test]
fn the_newest_are_read_where_the_ring_has_too_few() {
    let mut timeline = begun(8);
    let rewind = |rewind| Start { since: None, rewind };
    assert_eq!(timeline.recover(2, "a", rewind(3)), ["Newest { count: 3 }"]);
    assert_eq!(timeline.reads(3, page([6, 7, 8], 8, true, true)), ["a: None [6, 7, 8] 8"]);
    assert_eq!(timeline.recover(4, "b", rewind(7)), ["Newest { count: 7 }"]);
    assert_eq!(timeline.reads(5, page([5, 6, 7, 8], 8, false, true)), ["b: None [5, 6, 7, 8] 8"]);
    assert_eq!(timeline.recover(6, "c", rewind(9)), ["c: None [5, 6, 7, 8] 8"], "there are no more");
}

#[test]
fn a_read_of_few_does_not_decide_for_those_who_came_after_it() {
    let mut timeline = begun(8);
    assert_eq!(timeline.recover(2, "a", Start { since: None, rewind: 1 }), ["Newest { count: 1 }"]);
    assert!(timeline.recover(3, "b", since(5)).is_empty());
    assert!(timeline.recover(3, "c", Start { since: None, rewind: 4 }).is_empty());
    assert_eq!(timeline.reads(4, page([8], 8, true, true)), ["a: None [8] 8", "Recovery { after: 5 }"]);
    assert_eq!(
        timeline.reads(5, page([6, 7, 8], 8, false, true)),
        ["b: Some(true) [6, 7, 8] 8", "Newest { count: 4 }"]
    );
    assert_eq!(timeline.reads(6, page([5, 6, 7, 8], 8, true, true)), ["c: None [5, 6, 7, 8] 8"]);
}

#[test]
fn who_waits_for_a_read_is_not_given_up_for_questions_of_others() {
    let mut timeline = begun(8);
    assert_eq!(timeline.recover(2, "ahead", since(9)), ["ask"]);
    timeline.recover(2, "a", since(5));
    timeline.recover(2, "b", Start { since: None, rewind: 1 });
    for ahead in ["9", "10", "11", "12", "13"] {
        timeline.recover(3, ahead, since(9));
        assert_eq!(timeline.stands(4, standing(8)).last().unwrap(), "ask", "before {ahead}");
    }
    assert_eq!(timeline.stands(5, standing(8)), ["13: Some(false) [] 8", "Recovery { after: 5 }"]);
    let told = timeline.reads(6, page([6, 7, 8], 8, false, true));
    assert_eq!(told, ["a: Some(true) [6, 7, 8] 8", "b: None [8] 8"]);
}

#[test]
fn a_position_ahead_of_this_node_is_looked_up() {
    let mut timeline = begun(8);
    assert_eq!(timeline.recover(2, "a", since(9)), ["ask"]);
    assert!(timeline.recover(2, "late", since(10)).is_empty());
    assert_eq!(timeline.stands(3, standing(9)), ["Missed { after: 8 }"]);
    assert_eq!(timeline.reads(4, page([9], 9, false, true)), ["9", "a: Some(true) [] 9", "ask"]);
    assert_eq!(timeline.stands(5, standing(9)), ["late: Some(false) [] 9"]);
}

#[test]
fn who_waits_for_a_broker_that_does_not_answer_is_told() {
    let mut timeline = begun(8);
    timeline.recover(2, "a", since(5));
    timeline.handle_page(at(3), Err(Failed));
    assert_eq!(effects(&mut timeline), ["a: unavailable"]);
    timeline.recover(4, "b", since(9));
    timeline.handle_timeout(at(200));
    assert_eq!(effects(&mut timeline), ["ask"]);
    timeline.handle_standing(at(201), Err(Failed));
    assert_eq!(effects(&mut timeline), ["b: unavailable"]);
}

#[test]
fn a_late_first_answer_does_not_spin() {
    let mut timeline = Tested::new(at(0), CONFIG);
    assert_eq!(effects(&mut timeline), ["ask"]);
    timeline.handle_timeout(at(10_000));
    effects(&mut timeline);
    assert!(timeline.poll_timeout() > at(10_000), "else the hub looks at it again and again without end");
}

#[test]
fn what_expired_during_an_outage_is_told() {
    let mut timeline = begun(4);
    timeline.handle_resumed(at(1_000_000));
    assert_eq!(effects(&mut timeline), ["ask"]);
    // 5 to 9 were published right after the break and expired after 600 s.
    let told = timeline.stands(1_000_001, Standing { position: place(9), empty: true });
    assert_eq!(told, ["Missed { after: 4 }"]);
    assert_eq!(timeline.reads(1_000_002, page([], 9, false, false)), ["not_retained 4 9"]);
}

#[test]
fn who_waits_for_a_read_is_told_when_the_broker_does_not_answer() {
    let mut timeline = begun(50);
    timeline.handle_timeout(at(1_001));
    assert_eq!(effects(&mut timeline), ["ask"]);
    timeline.handle_standing(at(1_002), Err(Failed));
    effects(&mut timeline);
    assert!(timeline.recover(1_010, "a", since(10)).is_empty());
    let mut told = Vec::new();
    for turn in 0..10 {
        let now = at(10_000 * (turn + 1));
        timeline.handle_timeout(now);
        effects(&mut timeline);
        timeline.handle_standing(now, Err(Failed));
        timeline.handle_page(now, Err(Failed));
        told.extend(effects(&mut timeline));
    }
    assert!(told.contains(&"a: unavailable".to_owned()), "{told:?}");
}

#[test]
fn a_longer_rewind_is_not_answered_by_a_shorter_read() {
    let mut timeline = begun(50);
    let newest = |rewind| Start { since: None, rewind };
    assert_eq!(timeline.recover(1, "a", newest(1)), ["Newest { count: 1 }"]);
    assert!(timeline.recover(2, "b", newest(5)).is_empty());
    assert_eq!(timeline.reads(3, page([50], 50, true, true)), ["a: None [50] 50", "Newest { count: 5 }"]);
}

#[test]
fn a_rewind_sees_what_came_by_a_pattern() {
    let mut timeline = Tested::new(at(0), CONFIG);
    effects(&mut timeline);
    timeline.handle_seen(&place(5));
    assert_eq!(timeline.stands(2, Standing { position: place(0), empty: true }), ["began 5"]);
    assert_eq!(timeline.recover(3, "a", Start { since: None, rewind: 1 }), ["Newest { count: 1 }"]);
}

#[test]
fn positions_too_old_cost_no_read_each() {
    let mut timeline = begun(1_000);
    for (index, who) in ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().enumerate() {
        timeline.recover(1, who, since(10 + index as u64));
    }
    let mut reads = 1;
    for _ in 0..20 {
        let told = timeline.reads(2, page(995..=1_000, 1_000, false, false));
        if !told.iter().any(|one| one.starts_with("Recovery") || one.starts_with("Newest")) {
            break;
        }
        reads += 1;
    }
    assert!(reads <= 5, "{reads}");
}

#[test]
fn a_hole_that_the_leader_does_not_know_is_not_read_without_end() {
    let mut timeline = begun(4);
    assert_eq!(timeline.live(2, 12, 11), ["Missed { after: 4 }"]);
    let told = timeline.reads(2, page([], 4, false, true));
    assert!(told.is_empty(), "at once again: {told:?}");
}

#[test]
fn a_numbering_that_went_back_is_noticed() {
    let mut timeline = begun(5_000);
    for turn in 1..=3 {
        timeline.handle_timeout(at(turn * 20_000));
        effects(&mut timeline);
        timeline.stands(turn * 20_000 + 1, standing(3));
    }
    let told = timeline.live(70_000, 4, 3);
    assert!(!told.is_empty(), "dropped as delivered, for the next 4,996 too");
}

#[test]
fn the_position_of_an_empty_channel_that_another_node_gave_is_recovered_from() {
    // On NATS: the stream's last sequence, which grows with other channels.
    let empty = |offset| Standing { position: place(offset), empty: true };
    let mut timeline = Tested::new(at(0), CONFIG);
    effects(&mut timeline);
    timeline.stands(1, empty(990));
    let mut told = timeline.recover(2, "a", since(1_000));
    for turn in 0..6 {
        if told.last().is_some_and(|one| one == "ask") {
            told = timeline.stands(3 + turn, empty(1_001 + turn));
        }
    }
    assert!(told.iter().any(|one| one.starts_with("a: Some(true) []")), "{told:?}");
}

#[test]
fn a_hole_that_the_leader_does_not_know_ends_on_a_busy_channel_too() {
    let mut timeline = begun(4);
    assert_eq!(timeline.live(2, 5_000, 4_999), ["Missed { after: 4 }"]);
    let mut reads = 0;
    for turn in 0..40 {
        let (now, offset) = (1_000 + turn * 200, 5 + turn);
        // Every second read brings the next publication of the channel.
        let told = match turn % 2 {
            0 => {
                timeline.live(now, offset, offset - 1);
                timeline.reads(now + 1, page([offset], offset, false, true))
            }
            _ => timeline.reads(now + 1, page([], offset - 1, false, true)),
        };
        timeline.handle_timeout(at(now + 150));
        let told = [told, effects(&mut timeline)].concat();
        reads += told.iter().filter(|one| one.starts_with("Missed")).count();
    }
    assert!(reads < 10, "{reads} reads for a publication that does not exist");
}

#[test]
fn a_stale_leader_does_not_make_a_numbering_go_back_at_once() {
    let mut timeline = begun(105);
    timeline.recover(10_000, "a", since(107));
    assert!(timeline.stands(10_001, standing(100)).iter().all(|one| !one.starts_with("new_epoch")));
    let told = timeline.stands(10_002, standing(100));
    assert!(told.iter().all(|one| !one.starts_with("new_epoch")), "{told:?}");
}

#[test]
fn what_a_read_has_to_meet_is_kept_until_it_comes() {
    let mut timeline = begun(8);
    assert_eq!(timeline.recover(2, "a", since(5)), ["Recovery { after: 5 }"]);
    assert_eq!(timeline.live(3, 9, 8), ["9"]);
    assert!(!timeline.give_back());
    timeline.handle_timeout(at(70_000));
    assert_eq!(timeline.reads(70_001, page([6, 7, 8], 8, false, true))[0], "a: Some(true) [6, 7, 8, 9] 9");
    assert!(timeline.give_back());
}
