//! The publisher over a transport that answers as the test says, on virtual time.

use std::{collections::HashMap, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_protocol::Epoch;
use tokio::{sync::Notify, task::JoinSet, time::timeout};

use super::*;
use crate::{Acceptance, publication::Checked};

/// What the transport does with one publication.
#[derive(Clone)]
enum Answer {
    Accept,
    /// Accepts at this offset.
    At(u64),
    Fail(Failure),
    /// Accepts after so long.
    After(Duration),
}

#[derive(Default)]
struct Record {
    /// Ids of each call.
    calls: Vec<Vec<String>>,
    /// Virtual time of each call, since the first.
    at: Vec<Duration>,
    under_way: usize,
    most_under_way: usize,
    closed: bool,
}

/// For every id the answers in turn; the last one stays. Ids that are not named are accepted.
struct Fake {
    began: Instant,
    answers: Mutex<HashMap<String, Vec<Answer>>>,
    record: Arc<Mutex<Record>>,
    gate: Option<Arc<Notify>>,
}

#[async_trait]
impl Transport for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn encode(&self, checked: &Checked) -> Result<Bytes, String> {
        let body = checked.envelope_json();
        if body.len() > 2 * limits::BATCH_BYTES { Err("too large".into()) } else { Ok(body.into()) }
    }

    async fn send(&self, publications: &[&Prepared], until: Instant) -> Vec<Attempted> {
        {
            let mut record = self.record.lock().unwrap();
            record.calls.push(publications.iter().map(|publication| publication.id.clone()).collect());
            record.at.push(self.began.elapsed());
            record.under_way += publications.len();
            record.most_under_way = record.most_under_way.max(record.under_way);
        }
        if let Some(gate) = &self.gate {
            gate.notified().await;
        }
        let mut outcomes = Vec::new();
        for publication in publications {
            let answer = self.answer(&publication.id);
            outcomes.push(match answer {
                Answer::Accept => Ok(None),
                Answer::At(offset) => Ok(Some(position(offset))),
                Answer::Fail(failure) => Err(failure),
                Answer::After(delay) => match timeout_at(until, sleep(delay)).await {
                    Ok(()) => Ok(None),
                    Err(_) => Err(Failure::unknown("late")),
                },
            });
        }
        self.record.lock().unwrap().under_way -= publications.len();
        outcomes
    }

    async fn close(&self) {
        self.record.lock().unwrap().closed = true;
    }
}

impl Fake {
    fn answer(&self, id: &str) -> Answer {
        let mut answers = self.answers.lock().unwrap();
        match answers.get_mut(id) {
            None => Answer::Accept,
            Some(list) if list.len() > 1 => list.remove(0),
            Some(list) => list[0].clone(),
        }
    }
}

fn position(offset: u64) -> Position {
    Position { offset, epoch: Epoch::parse("e").unwrap() }
}

const DEADLINE: Duration = Duration::from_secs(10);

fn settings(in_flight: usize) -> Settings {
    Settings {
        tenant: Tenant::default(),
        in_flight,
        deadline: DEADLINE,
        attempt: Duration::from_secs(1),
        retry: RetryPolicy { base: Duration::from_millis(100), cap: Duration::from_millis(400) },
    }
}

fn publisher<const N: usize>(
    settings: Settings,
    answers: [(&str, Vec<Answer>); N],
    gate: Option<Arc<Notify>>,
) -> (Publisher, Arc<Mutex<Record>>) {
    let record = Arc::new(Mutex::new(Record::default()));
    let answers = answers.into_iter().map(|(id, answers)| (id.to_owned(), answers)).collect();
    let fake = Fake { began: Instant::now(), answers: Mutex::new(answers), record: Arc::clone(&record), gate };
    (Publisher::new(Box::new(fake), settings), record)
}

fn event(id: &str) -> Publication {
    Publication::new("project:a", "x").id(id)
}

fn away() -> Answer {
    Answer::Fail(Failure::not_accepted("away"))
}

#[tokio::test(start_paused = true)]
async fn what_can_succeed_is_sent_again_with_the_same_id_until_it_does() {
    let (publisher, record) = publisher(settings(4), [], None);
    let published = publisher.publish("project:a", "x", &1).await.unwrap();
    assert_eq!(record.lock().unwrap().calls, [[published.id]]);

    let (publisher, record) = self::publisher(settings(4), [("i", vec![away(), away(), Answer::Accept])], None);
    let published = publisher.send(event("i")).await.unwrap();
    assert_eq!(published.id, "i");
    let record = record.lock().unwrap();
    assert_eq!(record.calls, [["i"], ["i"], ["i"]]);
    assert!(record.at[1] <= Duration::from_millis(100), "{:?}", record.at);
    assert!(record.at[2] - record.at[1] <= Duration::from_millis(200), "{:?}", record.at);
}

#[tokio::test(start_paused = true)]
async fn pauses_are_jittered() {
    let mut firsts = Vec::new();
    for _ in 0..20 {
        let (publisher, record) = publisher(settings(4), [("i", vec![away(), Answer::Accept])], None);
        publisher.send(event("i")).await.unwrap();
        firsts.push(record.lock().unwrap().at[1]);
    }
    firsts.sort();
    firsts.dedup();
    assert!(firsts.len() > 3, "{firsts:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_not_sent_again() {
    let (publisher, record) = publisher(settings(4), [("i", vec![Answer::Fail(Failure::refused("no"))])], None);
    let error = publisher.send(event("i")).await.unwrap_err();
    assert_eq!(error.acceptance(), Acceptance::Refused);
    assert_eq!(error.to_string(), "publication i on project:a was refused by fake: no");
    assert_eq!(record.lock().unwrap().calls.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_invalid_is_not_sent_at_all() {
    let (publisher, record) = publisher(settings(4), [], None);
    for error in [
        publisher.publish("a b", "x", &1).await.unwrap_err(),
        publisher.publish_raw("a", "x", "{").await.unwrap_err(),
        publisher.publish("a", "x", &"x".repeat(3 * limits::BATCH_BYTES)).await.unwrap_err(),
    ] {
        assert!(matches!(error, PublishError::Invalid { .. }), "{error}");
        assert_eq!(error.acceptance(), Acceptance::Refused);
    }
    assert!(record.lock().unwrap().calls.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_the_call_and_the_error_says_that_nothing_was_accepted() {
    let (publisher, record) = publisher(settings(4), [("i", vec![away()])], None);
    let began = Instant::now();
    let error = publisher.send(event("i")).await.unwrap_err();
    assert!(began.elapsed() <= DEADLINE, "{:?}", began.elapsed());
    assert!(began.elapsed() >= DEADLINE - Duration::from_millis(400), "{:?}", began.elapsed());
    let PublishError::NotAccepted { attempts, reason, .. } = &error else { panic!("{error}") };
    assert_eq!((*attempts as usize, reason.as_str()), (record.lock().unwrap().calls.len(), "away"));
}

#[tokio::test(start_paused = true)]
async fn one_attempt_that_may_have_been_accepted_makes_the_outcome_unknown() {
    let unknown = || Answer::Fail(Failure::unknown("lost"));
    let refused = || Answer::Fail(Failure::refused("no"));
    for answers in [vec![unknown(), away()], vec![away(), unknown(), refused()], vec![Answer::After(DEADLINE * 2)]] {
        let (publisher, _) = publisher(settings(4), [("i", answers)], None);
        let error = publisher.send(event("i")).await.unwrap_err();
        assert_eq!(error.acceptance(), Acceptance::Unknown, "{error}");
        assert_eq!(error.id(), Some("i"));
    }
    let (publisher, _) = publisher(settings(4), [("i", vec![unknown(), Answer::Accept])], None);
    publisher.send(event("i")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_an_answer_is_made_again_and_the_answer_is_the_firsts_position() {
    let unknown = Answer::Fail(Failure::unknown("lost"));
    let (publisher, record) =
        publisher(settings(4), [("a", vec![unknown, Answer::At(7)]), ("b", vec![Answer::At(9)])], None);
    let published = publisher.batch([event("a"), event("b"), event("live")]).await.unwrap();
    let positions: Vec<_> = published.into_iter().map(|published| published.position).collect();
    assert_eq!(positions, [Some(position(7)), Some(position(9)), None]);
    assert_eq!(record.lock().unwrap().calls, [vec!["a", "b", "live"], vec!["a"]]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_was_asked_for_is_kept_and_one_beyond_the_deadline_ends_the_call() {
    let busy = |after| Answer::Fail(Failure { retry_after: Some(after), ..Failure::not_accepted("busy") });
    let (publisher, record) = publisher(settings(4), [("i", vec![busy(Duration::from_secs(3)), Answer::Accept])], None);
    publisher.send(event("i")).await.unwrap();
    let at = record.lock().unwrap().at[1];
    assert!((Duration::from_secs(3)..=Duration::from_millis(3_100)).contains(&at), "{at:?}");

    let (publisher, record) = self::publisher(settings(4), [("i", vec![busy(DEADLINE)])], None);
    let began = Instant::now();
    publisher.send(event("i")).await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(record.lock().unwrap().calls.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_window_is_under_way_and_others_wait_for_a_place() {
    let gate = Arc::new(Notify::new());
    let (publisher, record) = publisher(settings(3), [], Some(Arc::clone(&gate)));
    let mut calls = JoinSet::new();
    for n in 0..10 {
        let publisher = publisher.clone();
        calls.spawn(async move { publisher.send(event(&n.to_string())).await.unwrap() });
    }
    for done in 0..10 {
        // With paused time a sleep ends only when every task waits for something.
        sleep(Duration::from_millis(1)).await;
        assert_eq!(record.lock().unwrap().calls.len(), (3 + done).min(10));
        gate.notify_one();
        calls.join_next().await.unwrap().unwrap();
    }
    assert_eq!(record.lock().unwrap().most_under_way, 3);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_place_counts_towards_the_deadline() {
    let gate = Arc::new(Notify::new());
    let (publisher, record) = publisher(settings(1), [], Some(gate));
    let first = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.send(event("first")).await }
    });
    sleep(Duration::from_millis(1)).await;
    let began = Instant::now();
    let error = publisher.send(event("second")).await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), DEADLINE.as_secs());
    let PublishError::NotAccepted { attempts: 0, reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("no place among the 1"), "{reason}");
    assert_eq!(record.lock().unwrap().calls, [["first"]]);
    first.abort();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_gives_its_place_back() {
    let gate = Arc::new(Notify::new());
    let (publisher, record) = publisher(settings(1), [], Some(Arc::clone(&gate)));
    timeout(Duration::from_secs(1), publisher.send(event("dropped"))).await.unwrap_err();
    gate.notify_one();
    publisher.send(event("next")).await.unwrap();
    assert_eq!(record.lock().unwrap().calls, [["dropped"], ["next"]]);
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_every_publication_has_its_outcome_and_only_what_may_succeed_is_sent_again() {
    let answers = [
        ("later", vec![away(), Answer::Accept]),
        ("no", vec![Answer::Fail(Failure::refused("no"))]),
        ("never", vec![away()]),
        ("lost", vec![Answer::Fail(Failure::unknown("lost"))]),
    ];
    let (publisher, record) = publisher(settings(10), answers, None);
    let invalid = Publication::new("a b", "x");
    let batch = ["yes", "later", "no", "never", "lost"].map(event).into_iter().chain([invalid]);
    let error = publisher.batch(batch).await.unwrap_err();
    let outcomes: Vec<Result<&str, Acceptance>> = error
        .outcomes()
        .iter()
        .map(|outcome| outcome.as_ref().map(|published| published.id.as_str()).map_err(PublishError::acceptance))
        .collect();
    let refused = || Err(Acceptance::Refused);
    assert_eq!(
        outcomes,
        [Ok("yes"), Ok("later"), refused(), Err(Acceptance::NotAccepted), Err(Acceptance::Unknown), refused()]
    );
    assert_eq!((error.accepted(), error.count(Acceptance::Refused)), (2, 2));
    let text = error.to_string();
    assert!(
        text.starts_with(
            "of 6 publications 2 were accepted, 2 refused, 1 not accepted, 1 may or may not have been accepted; the first: \
             publication no on project:a was refused"
        ),
        "{text}"
    );
    let record = record.lock().unwrap();
    assert_eq!(record.calls[0], ["yes", "later", "no", "never", "lost"]);
    assert_eq!(record.calls[1], ["later", "never", "lost"]);
    assert_eq!(record.calls[2], ["never", "lost"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_goes_out_in_order_in_chunks_no_larger_than_the_window() {
    let (publisher, record) = publisher(settings(4), [], None);
    let ids: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    let published = publisher.batch(ids.iter().map(|id| event(id))).await.unwrap();
    assert_eq!(published.into_iter().map(|published| published.id).collect::<Vec<_>>(), ids);
    let record = record.lock().unwrap();
    assert_eq!(record.calls.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
    assert_eq!(record.calls.concat(), ids);
    assert_eq!(record.most_under_way, 4);
}

#[tokio::test(start_paused = true)]
async fn large_publications_of_a_batch_go_in_requests_of_their_own() {
    let (publisher, record) = publisher(settings(100), [], None);
    let large = |id: &str| event(id).data(&"x".repeat(limits::BATCH_BYTES * 2 / 3)).unwrap();
    publisher.batch([event("0"), large("1"), large("2"), event("3")]).await.unwrap();
    assert_eq!(record.lock().unwrap().calls, [vec!["0", "1"], vec!["2", "3"]]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_batch_is_done_at_once() {
    let (publisher, record) = publisher(settings(1), [], None);
    assert_eq!(publisher.batch([]).await.unwrap(), []);
    assert!(record.lock().unwrap().calls.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_batch_is_for_all_of_it() {
    let (publisher, record) = publisher(settings(1), [("1", vec![away()])], None);
    let began = Instant::now();
    let error = publisher.batch(["0", "1", "2"].map(event)).await.unwrap_err();
    assert!(began.elapsed() <= DEADLINE);
    assert!(error.outcomes()[0].is_ok());
    assert_eq!(error.outcomes()[1].as_ref().unwrap_err().acceptance(), Acceptance::NotAccepted);
    // The last one had its turn in the time that was left before the next pause, or was told that it had none.
    assert_eq!(error.outcomes().len(), 3);
    assert!(record.lock().unwrap().calls.len() > 10);
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_what_is_under_way_and_refuses_what_comes_later() {
    let (publisher, record) = publisher(settings(4), [("slow", vec![Answer::After(Duration::from_millis(700))])], None);
    let slow = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.send(event("slow")).await }
    });
    sleep(Duration::from_millis(1)).await;
    let closing = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.close().await }
    });
    sleep(Duration::from_millis(1)).await;
    assert!(!closing.is_finished() && !record.lock().unwrap().closed);
    let error = publisher.send(event("late")).await.unwrap_err();
    assert!(matches!(error, PublishError::Closed { .. }), "{error}");
    assert_eq!(error.acceptance(), Acceptance::NotAccepted);
    assert_eq!(slow.await.unwrap().unwrap().id, "slow");
    closing.await.unwrap();
    assert!(record.lock().unwrap().closed);
    assert_eq!(record.lock().unwrap().calls, [["slow"]]);
    publisher.close().await;
}
