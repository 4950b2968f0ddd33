//! A node that is killed, and one that is frozen and comes back.

use std::time::{Duration, Instant};

use fanfare_testkit::wait_for;
use tokio::time::{sleep_until, timeout_at};

use super::{
    crowd::{Crowd, Seat},
    scene::{Scene, Truth, channels, lease, names},
    watcher::Watcher,
};
use crate::SOON;

/// Behind the lease's end a reaper has so long.
const REAPED_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_on_a_killed_node_leaves_once() {
    const MEMBERS: usize = 1_000;
    const CHANNELS: usize = 50;
    /// So many of the members are on the other node, too.
    const ELSEWHERE: usize = 100;
    const WATCHERS: usize = 4;
    let lease = lease();
    let scene = Scene::start(|node| node.set("presence.lease", format!("{}s", lease.as_secs()))).await;
    let started = Instant::now();
    let (channels, users) = (channels(CHANNELS), names("m", MEMBERS));
    let seats = |node, users| Seat::spread(&[node], users, &channels);
    let dying = Crowd::come(seats(&scene.first, &users)).await;
    let staying = Crowd::come(seats(&scene.second, &users[..ELSEWHERE])).await;
    let mut watchers = Vec::new();
    for name in names("w", WATCHERS) {
        watchers.push(Watcher::watch(&scene.second, &name, &channels).await);
    }
    let watchers: Vec<_> = watchers.iter().collect();
    Truth::of(&[&dying, &staying], &watchers).wait_seen(&watchers, SOON).await;
    let all = scene.store().rows().await.len();
    assert_eq!(all, MEMBERS + ELSEWHERE + WATCHERS * CHANNELS);
    assert_eq!(scene.store().rows_of("a").await.len(), MEMBERS);
    let from: Vec<Vec<usize>> = watchers
        .iter()
        .map(|watcher| channels.iter().map(|channel| watcher.known().view(channel).log().len()).collect())
        .collect();

    // A node reaps once it has held its own lease for as long as one lasts.
    sleep_until((started + lease).into()).await;
    let killed = Instant::now();
    scene.first.kill();
    let after = Truth::of(&[&staying], &watchers);
    let allowed = lease + REAPED_WITHIN;
    let told = timeout_at((killed + allowed).into(), after.wait_seen(&watchers, SOON));
    told.await.unwrap_or_else(|_| panic!("not everyone was told within {allowed:?}\n{}", scene.second.process().log()));
    let seen = killed.elapsed();
    let store = scene.store();
    let gone = timeout_at((killed + allowed).into(), after.wait_stored(&store, SOON));
    gone.await.unwrap_or_else(|_| panic!("rows were left after {allowed:?}\n{}", scene.second.process().log()));
    assert_eq!(scene.store().rows_of("a").await.len(), 0);
    // What it noted is kept for what it may have written too late, and goes by itself.
    let ends = async || scene.store().notes_end("a").await.then_some(());
    wait_for("an end for the notes of the killed node", SOON, ends).await;

    let (mut first, mut last) = (Duration::MAX, Duration::ZERO);
    for (watcher, from) in watchers.iter().zip(&from) {
        let known = watcher.known();
        for (index, user) in users.iter().enumerate() {
            let view = known.view(&channels[index % CHANNELS]);
            let statuses = view.statuses(from[index % CHANNELS], user);
            let expected = if index < ELSEWHERE { ["online"] } else { ["offline"] };
            assert_eq!(statuses, expected, "{user}, as {} was told", watcher.user());
        }
        for (channel, from) in channels.iter().zip(from) {
            let times = known.view(channel).log()[*from..].iter().map(|change| change.at - killed);
            (first, last) = times.fold((first, last), |(first, last), at| (first.min(at), last.max(at)));
        }
        drop(known);
        watcher.assert_sound();
    }
    println!(
        "a node killed with {MEMBERS} members on {CHANNELS} channels, {ELSEWHERE} of them on another node, too: {WATCHERS} \
         clients on all channels were told of each leave once, between {first:.1?} and {last:.1?} after the kill (lease \
         {lease:?}); all saw the truth after {seen:.1?}; of {all} rows {} were left, none of the killed node",
        scene.store().rows().await.len(),
    );
    assert_eq!(staying.ended(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_on_a_frozen_node_leaves_once_and_comes_back_once() {
    const LEASE: Duration = Duration::from_secs(2);
    const CHANNELS: usize = 10;
    const FROZEN: usize = 60;
    const OTHERS: usize = 40;
    const LATE: usize = 20;
    let scene = Scene::start(|node| node.set("presence.lease", "2s").set("presence.grace", "1s")).await;
    let started = Instant::now();
    let channels = channels(CHANNELS);
    let seats = |node, prefix, count| Seat::spread(&[node], &names(prefix, count), &channels);
    let frozen = Crowd::come(seats(&scene.first, "f", FROZEN)).await;
    let others = Crowd::come(seats(&scene.second, "o", OTHERS)).await;
    let inside = Watcher::watch(&scene.first, "inside", &channels).await;
    let outside = Watcher::watch(&scene.second, "outside", &channels).await;
    let before = Truth::of(&[&frozen, &others], &[&inside, &outside]);
    before.wait_seen(&[&inside, &outside], SOON).await;
    before.wait_stored(&scene.store(), SOON).await;
    let from: Vec<_> = channels.iter().map(|channel| outside.known().view(channel).log().len()).collect();
    let of_others = scene.store().rows_of("b").await;
    let old = incarnations(&scene).await;
    sleep_until((started + LEASE).into()).await;

    // Some come at the very moment, and wait.
    let coming = tokio::spawn(Crowd::come(seats(&scene.first, "l", LATE)));
    scene.first.process().pause();
    let paused = Instant::now();
    let without = Truth::of(&[&others], &[&outside]);
    without.wait_stored(&scene.store(), SOON).await;
    let reaped = paused.elapsed();
    without.wait_seen(&[&outside], SOON).await;
    assert_eq!(scene.store().rows_of("b").await, of_others, "rows of the other node");
    sleep_until((paused + 3 * LEASE).into()).await;

    scene.first.process().resume();
    let resumed = Instant::now();
    let late = coming.await.expect("they came");
    let after = Truth::of(&[&frozen, &others, &late], &[&inside, &outside]);
    after.wait_seen(&[&outside, &inside], SOON).await;
    let back = resumed.elapsed();
    after.wait_stored(&scene.store(), SOON).await;
    // What it wrote too late, as who it was, goes.
    sleep_until((resumed + 2 * LEASE).into()).await;
    after.wait_stored(&scene.store(), SOON).await;
    after.wait_seen(&[&outside, &inside], SOON).await;
    assert_eq!(scene.store().rows_of("b").await, of_others, "rows of the other node");
    let new = incarnations(&scene).await;
    assert!(new.iter().all(|name| !old.contains(name)), "{new:?} is not another than {old:?}");
    assert_eq!(new.len(), 1, "{new:?}");

    let known = outside.known();
    for (index, user) in names("f", FROZEN).iter().enumerate() {
        let statuses = known.view(&channels[index % CHANNELS]).statuses(from[index % CHANNELS], user);
        assert_eq!(statuses, ["offline", "online"], "{user}");
    }
    for (channel, from) in channels.iter().zip(from) {
        assert_eq!(known.view(channel).statuses(from, "inside"), ["offline", "online"], "on {channel}");
    }
    drop(known);
    outside.assert_sound();
    println!(
        "a node frozen for {:?} with {FROZEN} members, {LATE} coming: reaped after {reaped:.1?} (lease {LEASE:?}); {back:.1?} \
         after it went on everybody was back",
        3 * LEASE,
    );
    assert_eq!((frozen.ended(), others.ended()), (0, 0));
}

/// By which names the first node's rows are there.
async fn incarnations(scene: &Scene) -> std::collections::BTreeSet<String> {
    scene.store().rows_of("a").await.iter().map(|row| row.incarnation().to_owned()).collect()
}
