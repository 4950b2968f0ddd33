//! What holds for all brokers that keep history.
//!
//! Offsets increase, not always by one: a stream may number all channels of a namespace together. So cases compare offsets
//! with those that publishing answered.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use fanfare_broker::{
    Broker, BrokerError, HistoryPage, HistoryRange, HistoryRead, InterestId, Publication, Publish, Published, Recorded,
    Standing,
};
use fanfare_protocol::{Channel, Position, Tenant};
use fanfare_testkit::wait_for;

use crate::{
    fixture::{KeepsHistory, SOON, kept, possible},
    node::{Node, number, numbered},
};

/// More than any case publishes.
const ALL: usize = 10_000;
const ROOMY: usize = 16 * 1024 * 1024;
const NEWEST: HistoryRange = HistoryRange::Before(None);

async fn connect(fixture: &impl KeepsHistory) -> Node {
    Node::over(fixture.connect_with(kept()).await)
}

async fn publish(broker: &dyn Broker, tenant: &str, channel: &str, body: Bytes, id: Option<&str>) -> Published {
    let (tenant, channel) = (Tenant::parse(tenant).unwrap(), Channel::parse(channel).unwrap());
    broker.publish(Publish { tenant, channel, body, id: id.map(str::to_owned), ephemeral: false }).await.unwrap()
}

/// Publishes numbers and answers their positions.
async fn publish_numbers(node: &Node, channel: &str, numbers: std::ops::RangeInclusive<u64>) -> Vec<Position> {
    let mut positions = Vec::new();
    for n in numbers {
        positions.push(publish(&*node.broker, "acme", channel, numbered(n), None).await.position.unwrap());
    }
    positions
}

fn request(tenant: &str, channel: &str, range: HistoryRange, max_publications: usize) -> HistoryRead {
    let (tenant, channel) = (Tenant::parse(tenant).unwrap(), Channel::parse(channel).unwrap());
    HistoryRead { tenant, channel, range, max_publications, max_bytes: ROOMY }
}

async fn read(node: &Node, channel: &str, range: HistoryRange, max_publications: usize) -> HistoryPage {
    node.broker.history(request("acme", channel, range, max_publications)).await.unwrap()
}

async fn standing(node: &Node, channels: &[&str]) -> Vec<Standing> {
    let channels: Vec<_> =
        channels.iter().map(|channel| (Tenant::parse("acme").unwrap(), Channel::parse(channel).unwrap())).collect();
    node.broker.positions(&channels).await.unwrap()
}

fn offsets(publications: &[Recorded]) -> Vec<u64> {
    publications.iter().map(|recorded| recorded.offset).collect()
}

fn offsets_of(positions: &[Position]) -> Vec<u64> {
    positions.iter().map(|position| position.offset).collect()
}

fn numbers(publications: &[Recorded]) -> Vec<u64> {
    publications.iter().map(|recorded| number(&recorded.body.bytes)).collect()
}

/// All of them, page by page.
async fn read_all_after(node: &Node, channel: &str, after: u64, page: usize) -> Vec<Recorded> {
    let mut all: Vec<Recorded> = Vec::new();
    loop {
        let after = all.last().map_or(after, |last| last.offset);
        let page = read(node, channel, HistoryRange::After(after), page).await;
        assert!(page.whole, "behind {after}: {page:?}");
        all.extend(page.publications);
        if !page.more {
            return all;
        }
    }
}

/// The next publications that come by one interest, so many of them.
async fn next_of(node: &mut Node, interest: InterestId, count: usize) -> Vec<Publication> {
    let mut came = Vec::new();
    while came.len() < count {
        let publication = node.publication().await;
        if publication.interest == interest {
            came.push(publication);
        }
    }
    came
}

/// Checks what came by one interest against the positions that publishing answered.
fn check_live(came: &[Publication], positions: &[Position]) {
    let mut before = None;
    assert_eq!(came.len(), positions.len());
    for (publication, position) in came.iter().zip(positions) {
        let live = publication.position.as_ref().unwrap();
        assert_eq!(live.position, *position);
        assert!(live.previous.is_none_or(|previous| previous == before.unwrap_or(0)), "{live:?} after {before:?}");
        // It may be unknown what was before the first one.
        assert!(before.is_none() || live.previous.is_some(), "{live:?} after {before:?}");
        before = Some(position.offset);
    }
}

pub(crate) async fn positions_increase_and_come_with_live_publications<F: KeepsHistory>() {
    let fixture = F::start_with_history().await;
    let (mut one, mut two) = (connect(&fixture).await, connect(&fixture).await);
    let mut ids = Vec::new();
    for node in [&mut one, &mut two] {
        // The other channel's publications lie between, and are not what was before on this one.
        ids = node.add_all("acme", &["log:a", "log:b"]).await;
    }
    let mut positions = Vec::new();
    for n in 1..=10 {
        publish(&*two.broker, "acme", "log:b", numbered(n), None).await;
        let publisher = if n % 2 == 0 { &one } else { &two };
        let published = publish(&*publisher.broker, "acme", "log:a", numbered(n), None).await;
        positions.push(published.position.unwrap());
    }
    assert!(positions.windows(2).all(|pair| pair[0].is_before(&pair[1])), "{positions:?}");
    for node in [&mut one, &mut two] {
        let came = next_of(node, ids[0], 10).await;
        check_live(&came, &positions);
        assert!(came.iter().zip(1..).all(|(publication, n)| number(&publication.body.bytes) == n));
    }
    one.close().await;
    two.close().await;
}

pub(crate) async fn patterns_carry_positions<F: KeepsHistory>() {
    if !F::PATTERNS {
        return;
    }
    let fixture = F::start_with_history().await;
    for topics in [["log:*", "log:a"], ["log:a", "log:**"]] {
        let mut node = connect(&fixture).await;
        let ids = node.add_all("acme", &topics).await;
        let before = standing(&node, &["log:a"]).await[0].position.clone();
        let positions = publish_numbers(&node, "log:a", 1..=3).await;
        assert!(before.is_before(&positions[0]));
        let mut came = Vec::new();
        while came.len() < 6 {
            came.push(node.publication().await);
        }
        for id in ids {
            let own: Vec<_> = came.iter().filter(|publication| publication.interest == id).collect();
            let live: Vec<_> = own.iter().map(|publication| publication.position.clone().unwrap()).collect();
            assert!(live.iter().map(|live| &live.position).eq(&positions), "{live:?} instead of {positions:?}");
            assert!(live.windows(2).all(|pair| pair[1].previous == Some(pair[0].position.offset)), "{live:?}");
        }
        node.close().await;
    }
}

pub(crate) async fn reads_forward_from_every_offset<F: KeepsHistory>() {
    let fixture = F::start_with_history().await;
    let node = connect(&fixture).await;
    let mut positions = Vec::new();
    for n in 1..=20 {
        positions.extend(publish_numbers(&node, "log:a", n..=n).await);
        publish_numbers(&node, "log:b", n..=n).await;
    }
    let all = offsets_of(&positions);
    for (behind, after) in std::iter::once(0).chain(all.iter().copied()).enumerate() {
        let page = read(&node, "log:a", HistoryRange::After(after), ALL).await;
        assert_eq!(offsets(&page.publications), all[behind..]);
        assert_eq!(numbers(&page.publications), (behind as u64 + 1..=20).collect::<Vec<_>>());
        assert_eq!(page.position, positions[19]);
        assert!(page.whole && !page.more, "behind {after}: {page:?}");
    }
    for size in [1, 7, 10, 19, 20] {
        assert_eq!(offsets(&read_all_after(&node, "log:a", 0, size).await), all, "in pages of {size}");
    }
    let page = read(&node, "log:a", HistoryRange::After(all[9]), 9).await;
    assert!(page.more && page.whole && offsets(&page.publications) == all[10..19], "{page:?}");
    // What is not there yet cannot have been seen in this numbering.
    for beyond in [all[19] + 1_000, u64::MAX] {
        let page = read(&node, "log:a", HistoryRange::After(beyond), ALL).await;
        assert!(page.publications.is_empty() && !page.whole && !page.more, "{page:?}");
        assert_eq!(page.position, positions[19]);
    }
}

pub(crate) async fn reads_backward_to_the_beginning<F: KeepsHistory>() {
    let fixture = F::start_with_history().await;
    let node = connect(&fixture).await;
    let mut positions = Vec::new();
    for n in 1..=20 {
        positions.extend(publish_numbers(&node, "log:a", n..=n).await);
        publish_numbers(&node, "log:b", n..=n).await;
    }
    let all = offsets_of(&positions);
    for newest in [1, 3, 19, 20, 21] {
        let page = read(&node, "log:a", NEWEST, newest).await;
        assert_eq!(offsets(&page.publications), all[20_usize.saturating_sub(newest)..]);
        assert_eq!((page.more, page.whole), (newest < 20, true), "the newest {newest}");
        assert_eq!(page.position, positions[19]);
    }
    for size in [1, 7, 10, 20] {
        let (mut read_so_far, mut before) = (Vec::new(), None);
        loop {
            let page = read(&node, "log:a", HistoryRange::Before(before), size).await;
            let mut offsets = offsets(&page.publications);
            assert!(offsets.len() <= size && page.whole, "{page:?}");
            before = offsets.first().copied();
            offsets.extend(read_so_far);
            read_so_far = offsets;
            if !page.more {
                break;
            }
        }
        assert_eq!(read_so_far, all, "in pages of {size}");
    }
    for before in [0, 1, all[0]] {
        let page = read(&node, "log:a", HistoryRange::Before(Some(before)), ALL).await;
        assert!(page.publications.is_empty() && !page.more && page.whole, "{page:?}");
    }
    let page = read(&node, "log:a", HistoryRange::Before(Some(all[19] + 1_000)), 2).await;
    assert_eq!(offsets(&page.publications), all[18..]);
}

pub(crate) async fn a_read_is_bounded_in_bytes<F: KeepsHistory>() {
    const BYTES: usize = 100_000;
    let fixture = F::start_with_history().await;
    let node = connect(&fixture).await;
    let mut all = Vec::new();
    for n in 0..8 {
        all.push(publish(&*node.broker, "acme", "log:a", vec![n; BYTES].into(), None).await.position.unwrap().offset);
    }
    for max_bytes in [1, BYTES + 1, 3 * BYTES + BYTES / 2] {
        let most = max_bytes / BYTES + 1;
        let (mut forward, mut more) = (Vec::new(), true);
        while more {
            let range = HistoryRange::After(forward.last().copied().unwrap_or(0));
            let read = HistoryRead { max_bytes, ..request("acme", "log:a", range, ALL) };
            let page = node.broker.history(read).await.unwrap();
            assert!((1..=most).contains(&page.publications.len()), "{} came", page.publications.len());
            forward.extend(offsets(&page.publications));
            more = page.more;
        }
        assert_eq!(forward, all, "forward by {max_bytes}");
        let (mut backward, mut more) = (Vec::new(), true);
        while more {
            let range = HistoryRange::Before(backward.last().copied());
            let read = HistoryRead { max_bytes, ..request("acme", "log:a", range, ALL) };
            let page = node.broker.history(read).await.unwrap();
            assert!((1..=most).contains(&page.publications.len()), "{} came", page.publications.len());
            backward.extend(offsets(&page.publications).into_iter().rev());
            more = page.more;
        }
        backward.reverse();
        assert_eq!(backward, all, "backward by {max_bytes}");
    }
}

pub(crate) async fn what_was_trimmed_by_size_is_missed<F: KeepsHistory>() {
    let fixture = F::start_with_history().await;
    let node = connect(&fixture).await;
    let positions = publish_numbers(&node, "log:a", 1..=80).await;
    let all = offsets_of(&positions);
    let retained = &all[30..];
    let page = read(&node, "log:a", NEWEST, ALL).await;
    assert_eq!(offsets(&page.publications), retained);
    assert!(!page.more, "{page:?}");
    // The one before the oldest is not asked for: nothing behind it is lost, but a broker may not know that.
    for after in std::iter::once(0).chain(all[..29].iter().copied()) {
        let page = read(&node, "log:a", HistoryRange::After(after), 5).await;
        assert!(!page.whole, "behind {after}: {page:?}");
        assert_eq!(page.position, positions[79]);
    }
    for (behind, after) in retained.iter().enumerate() {
        let page = read(&node, "log:a", HistoryRange::After(*after), ALL).await;
        assert!(page.whole && offsets(&page.publications) == retained[behind + 1..], "behind {after}: {page:?}");
    }
    assert_eq!(standing(&node, &["log:a"]).await, [Standing { position: positions[79].clone(), empty: false }]);
}

pub(crate) async fn what_has_expired_is_missed<F: KeepsHistory>() {
    let fixture = F::start_with_history().await;
    let node = connect(&fixture).await;
    let positions = publish_numbers(&node, "brief:a", 1..=3).await;
    let empty = wait_for("the publications to expire", SOON, async || {
        let page = read(&node, "brief:a", NEWEST, ALL).await;
        page.publications.is_empty().then_some(page)
    })
    .await;
    // Its numbering goes on.
    assert!(empty.position.epoch == positions[0].epoch && empty.position.offset >= positions[2].offset, "{empty:?}");
    for position in &positions[..2] {
        let page = read(&node, "brief:a", HistoryRange::After(position.offset), ALL).await;
        assert!(page.publications.is_empty() && !page.whole && !page.more, "{page:?}");
    }
    let page = read(&node, "brief:a", HistoryRange::After(empty.position.offset), ALL).await;
    assert!(page.publications.is_empty() && page.whole, "{page:?}");
    assert_eq!(standing(&node, &["brief:a"]).await, [Standing { position: empty.position.clone(), empty: true }]);
    let next = publish_numbers(&node, "brief:a", 4..=4).await.remove(0);
    assert!(empty.position.is_before(&next), "{next:?} after {empty:?}");
}

pub(crate) async fn several_channels_stand_where_they_stand<F: KeepsHistory>() {
    let fixture = F::start_with_history().await;
    let node = connect(&fixture).await;
    let a = publish_numbers(&node, "log:a", 1..=3).await;
    let deep = publish_numbers(&node, "deep:a", 1..=2).await;
    let c = publish_numbers(&node, "log:c:x", 1..=1).await;
    let standings = standing(&node, &["log:c:x", "log:empty", "deep:a", "log:a", "log:a", "deep:empty"]).await;
    let expected = [&c[0], &standings[1].position, &deep[1], &a[2], &a[2], &standings[5].position];
    assert!(standings.iter().map(|standing| &standing.position).eq(expected), "{standings:?}");
    let empty: Vec<bool> = standings.iter().map(|standing| standing.empty).collect();
    assert_eq!(empty, [false, true, false, false, false, true]);
    // Many in one call, and none.
    let many: Vec<String> = (0..300).map(|n| if n == 7 { "log:a".to_owned() } else { format!("log:n{n}") }).collect();
    let standings = standing(&node, &many.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let expected = Standing { position: a[2].clone(), empty: false };
    assert!(standings.len() == 300 && standings[7] == expected, "{:?}", standings.get(7));
    assert!(standings.iter().enumerate().all(|(n, standing)| standing.empty == (n != 7)));
    assert!(standing(&node, &[]).await.is_empty());
}

pub(crate) async fn what_comes_on_an_empty_channel_lies_behind_its_position<F: KeepsHistory>() {
    let fixture = F::start_with_history().await;
    let (mut node, other) = (connect(&fixture).await, connect(&fixture).await);
    publish_numbers(&other, "log:other", 1..=3).await;
    let interest = node.add("acme", "log:a").await;
    let stands = standing(&node, &["log:a"]).await.remove(0);
    let page = read(&node, "log:a", HistoryRange::After(stands.position.offset), ALL).await;
    assert!(stands.empty && page.publications.is_empty() && page.whole && page.position == stands.position, "{page:?}");
    publish_numbers(&other, "log:other", 4..=5).await;
    let positions = publish_numbers(&other, "log:a", 1..=2).await;
    assert!(stands.position.is_before(&positions[0]), "{positions:?} behind {stands:?}");
    let page = read(&node, "log:a", HistoryRange::After(stands.position.offset), ALL).await;
    assert!(page.whole && offsets(&page.publications) == offsets_of(&positions), "{page:?}");
    check_live(&next_of(&mut node, interest, 2).await, &positions);
}

pub(crate) async fn an_id_is_published_once<F: KeepsHistory>() {
    let fixture = F::start_with_history().await;
    let (mut one, two) = (connect(&fixture).await, connect(&fixture).await);
    let interest = one.add("acme", "log:a").await;
    let mut positions = Vec::new();
    for id in ["first", "second: äöü \u{1f600}"] {
        let mut answers = Vec::new();
        for node in [&one, &two, &one] {
            answers.push(publish(&*node.broker, "acme", "log:a", numbered(1), Some(id)).await.position.unwrap());
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        positions.push(answers.remove(0));
    }
    // The id is the channel's, and the tenant's.
    for (tenant, channel) in [("acme", "log:b"), ("other", "log:a"), ("acme", "deep:a")] {
        publish(&*one.broker, tenant, channel, numbered(2), Some("first")).await.position.unwrap();
        let read = request(tenant, channel, NEWEST, ALL);
        assert_eq!(numbers(&one.broker.history(read).await.unwrap().publications), [2]);
    }
    positions.extend(publish_numbers(&two, "log:a", 3..=3).await);
    check_live(&next_of(&mut one, interest, 3).await, &positions);
    let page = read(&one, "log:a", NEWEST, ALL).await;
    assert_eq!(offsets(&page.publications), offsets_of(&positions));
}

pub(crate) async fn an_id_is_published_once_by_many_at_a_time<F: KeepsHistory>() {
    let fixture = F::start_with_history().await;
    let nodes = [connect(&fixture).await, connect(&fixture).await];
    let publishing: Vec<_> = (0..40)
        .map(|n| {
            let broker = Arc::clone(&nodes[n % 2].broker);
            let id = format!("id-{}", n % 5);
            tokio::spawn(async move { publish(&*broker, "acme", "log:a", numbered(1), Some(&id)).await.position })
        })
        .collect();
    let mut answers = Vec::new();
    for task in publishing {
        answers.push(task.await.unwrap().unwrap().offset);
    }
    for n in 5..40 {
        assert_eq!(answers[n], answers[n % 5]);
    }
    answers.sort_unstable();
    answers.dedup();
    assert_eq!(offsets(&read(&nodes[0], "log:a", NEWEST, ALL).await.publications), answers);
}

pub(crate) async fn tenants_share_no_history<F: KeepsHistory>() {
    let fixture = F::start_with_history().await;
    let mut node = connect(&fixture).await;
    let ours = node.add("acme", "log:a").await;
    let theirs = node.add("other", "log:a").await;
    let mut positions = [Vec::new(), Vec::new()];
    for n in 1..=4 {
        for (tenant, positions) in ["acme", "other"].into_iter().zip(&mut positions) {
            let published = publish(&*node.broker, tenant, "log:a", Bytes::from(format!("{tenant}:{n}")), None).await;
            positions.push(published.position.unwrap());
        }
    }
    let mut came = Vec::new();
    while came.len() < 8 {
        came.push(node.publication().await);
    }
    for ((tenant, interest), positions) in [("acme", ours), ("other", theirs)].into_iter().zip(positions) {
        let expected: Vec<String> = (1..=4).map(|n| format!("{tenant}:{n}")).collect();
        let live = came.iter().filter(|publication| publication.interest == interest);
        assert!(live.map(|publication| &publication.body.bytes).eq(&expected));
        let page = node.broker.history(request(tenant, "log:a", NEWEST, ALL)).await.unwrap();
        assert!(page.publications.iter().map(|recorded| &recorded.body.bytes).eq(&expected));
        assert_eq!(offsets(&page.publications), offsets_of(&positions));
        assert_eq!(page.position, positions[3]);
    }
    assert!(node.broker.history(request("third", "log:a", NEWEST, ALL)).await.unwrap().publications.is_empty());
}

pub(crate) async fn other_namespaces_are_live_only<F: KeepsHistory>() {
    let fixture = F::start_with_history().await;
    let mut node = connect(&fixture).await;
    for topic in ["live:a", "logs:a", "lo:a"] {
        node.add("acme", topic).await;
        assert_eq!(publish(&*node.broker, "acme", topic, numbered(1), Some("x")).await.position, None);
        assert_eq!(node.publication().await.position, None);
        let refused = node.broker.history(request("acme", topic, NEWEST, ALL)).await;
        let namespace = topic.trim_end_matches(":a");
        let says_so =
            |error: BrokerError| matches!(error, BrokerError::NoHistory { namespace: of, .. } if of == namespace);
        assert!(refused.is_err_and(says_so));
        let both = ["log:a", topic].map(|channel| (Tenant::default(), Channel::parse(channel).unwrap()));
        assert!(node.broker.positions(&both).await.is_err_and(says_so));
    }
}

pub(crate) async fn what_is_ephemeral_is_live_only<F: KeepsHistory>() {
    let fixture = F::start_with_history().await;
    let mut node = connect(&fixture).await;
    let other = connect(&fixture).await;
    let topics = possible::<F>(&["log:a:b", "log:a:*", "log:**", "live:a"]);
    let ids = node.add_all("acme", &topics).await;
    let ephemeral = async |tenant: &str, channel: &str, number| {
        let (tenant, channel) = (Tenant::parse(tenant).unwrap(), Channel::parse(channel).unwrap());
        let id = Some("once".to_owned());
        let publish = Publish { tenant, channel, body: numbered(number), id, ephemeral: true };
        assert_eq!(other.broker.publish(publish).await.unwrap().position, None);
    };
    let before = publish_numbers(&other, "log:a:b", 1..=1).await;
    // Its id is nothing that is remembered.
    ephemeral("acme", "log:a:b", 100).await;
    ephemeral("acme", "log:a:b", 101).await;
    for (tenant, channel) in [("acme", "log:b"), ("acme", "log:a"), ("other", "log:a:b"), ("acme", "lo:a")] {
        ephemeral(tenant, channel, 900).await;
    }
    ephemeral("acme", "live:a", 102).await;
    let after = publish_numbers(&other, "log:a:b", 2..=2).await;
    let mut came: HashMap<&str, Vec<u64>> = HashMap::new();
    let by_pattern_only = topics.len().saturating_sub(2);
    // Of `log:**`, the two on other channels of the tenant as well.
    for _ in 0..4 * (1 + by_pattern_only) + 1 + 2 * usize::from(F::PATTERNS) {
        let publication = node.publication().await;
        let topic = topics[ids.iter().position(|id| *id == publication.interest).unwrap()];
        let number = number(&publication.body.bytes);
        let place = publication.position.as_ref().map(|live| &live.position);
        assert_eq!(place, [None, before.first(), after.first()][if number < 3 { number as usize } else { 0 }]);
        if number == 900 {
            let channel = publication.channel.unwrap();
            assert!(topic == "log:**" && ["log:b", "log:a"].contains(&channel.as_str()), "{topic} {channel}");
            continue;
        }
        came.entry(topic).or_default().push(number);
    }
    for (topic, mut numbers) in came {
        numbers.sort_unstable();
        assert_eq!(numbers, if topic == "live:a" { vec![102] } else { vec![1, 2, 100, 101] }, "{topic}");
    }
    // Nothing was left out between the two, and nothing of it is retained.
    let page = read(&node, "log:a:b", NEWEST, ALL).await;
    assert_eq!(offsets(&page.publications), offsets_of(&[before, after].concat()));
    assert!(read(&node, "log:b", NEWEST, ALL).await.publications.is_empty());
    node.broker.remove_interests(&ids).await;
    let outside = fixture.outside().await;
    node.settle(&*outside).await;
    ephemeral("acme", "log:a:b", 103).await;
    ephemeral("acme", "live:a", 103).await;
    assert_eq!(node.settle(&*outside).await, []);
}

pub(crate) async fn a_body_comes_back_as_it_came_live<F: KeepsHistory>() {
    let fixture = F::start_with_history().await;
    let mut node = connect(&fixture).await;
    let interest = node.add("acme", "log:a").await;
    let bodies: [&[u8]; 6] =
        [b"{ \"event\" : 1.50 }\n", b"", b"\0", b"\xff\xfe\r\n\0+OK\r\n", &[0x80; 30_000], &[b'x'; 500_000]];
    for body in bodies {
        publish(&*node.broker, "acme", "log:a", Bytes::from_static(Box::leak(body.into())), None).await;
    }
    let mut count = bodies.len();
    let (event, of) = ("thing:happened", "application/octet-stream");
    if fixture.publish_with_headers("acme", "log:a", Bytes::from_static(b"\0bytes"), event, of).await {
        count += 1;
    }
    let live = next_of(&mut node, interest, count).await;
    let page = read(&node, "log:a", NEWEST, ALL).await;
    assert_eq!(page.publications.len(), count);
    for ((live, recorded), n) in live.iter().zip(&page.publications).zip(0..) {
        let body = bodies.get(n).copied().unwrap_or(b"\0bytes");
        assert!(live.body.bytes == body && recorded.body.bytes == body, "body {n} differs");
        let headers = if n < bodies.len() { (None, None) } else { (Some(event), Some(of)) };
        assert_eq!((live.body.event.as_deref(), live.body.content_type.as_deref()), headers);
        assert_eq!((recorded.body.event.as_deref(), recorded.body.content_type.as_deref()), headers);
        assert_eq!(live.position.as_ref().unwrap().position.offset, recorded.offset);
        // What a client is told of the time is the same, where the broker tells it both ways.
        assert!(live.timestamp.is_none() || live.timestamp == recorded.timestamp, "{live:?} and {recorded:?}");
    }
}

/// The promise that the hub builds on: first the interest, then the history, then what came live behind it.
pub(crate) async fn history_and_live_publications_have_no_hole_between_them<F: KeepsHistory>() {
    const PUBLISHERS: usize = 3;
    const EACH: u64 = 150;
    let fixture = F::start_with_history().await;
    let nodes = [connect(&fixture).await, connect(&fixture).await];
    let publishing: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let broker = Arc::clone(&nodes[publisher % 2].broker);
            tokio::spawn(async move {
                let mut positions = Vec::new();
                for n in 1..=EACH {
                    positions.push(publish(&*broker, "acme", "deep:a", numbered(n), None).await.position.unwrap());
                }
                positions
            })
        })
        .collect();
    let mut seen = Vec::new();
    for reader in 0..4 {
        // Each begins at another time.
        wait_for("some publications", SOON, async || {
            (standing(&nodes[0], &["deep:a"]).await[0].position.offset >= 40 * reader).then_some(())
        })
        .await;
        let mut node = connect(&fixture).await;
        let interest = node.add("acme", "deep:a").await;
        let mut offsets = offsets(&read_all_after(&node, "deep:a", 0, 64).await);
        let newest = offsets.last().copied().unwrap_or(0);
        seen.push(tokio::spawn(async move {
            // The mark is the last one of all.
            loop {
                let publication = next_of(&mut node, interest, 1).await.remove(0);
                let live = publication.position.unwrap();
                let last = offsets.last().copied().unwrap_or(0);
                assert!(live.previous.is_none_or(|previous| previous <= last), "{live:?} came after {last}");
                if live.position.offset > newest {
                    assert!(live.position.offset > last, "{live:?} came after {last}");
                    offsets.push(live.position.offset);
                }
                if number(&publication.body.bytes) == 0 {
                    return offsets;
                }
            }
        }));
    }
    let mut all = Vec::new();
    for task in publishing {
        all.extend(task.await.unwrap());
    }
    all.extend(publish_numbers(&nodes[0], "deep:a", 0..=0).await);
    assert!(all.iter().all(|position| position.epoch == all[0].epoch));
    let mut all = offsets_of(&all);
    all.sort_unstable();
    for seen in seen {
        assert_eq!(seen.await.unwrap(), all);
    }
}
