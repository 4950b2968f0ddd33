//! What nodes are told of changes.

use std::{collections::BTreeMap, sync::Arc};

use fanfare_presence::{RowChange, StoreError, StoreEvent, Version};

use crate::{
    fixture::Fixture,
    node::{Node, place},
};

pub(crate) async fn changes_are_told_where_a_node_listens_and_nowhere_else<F: Fixture>() {
    let fixture = F::start().await;
    let (mut one, mut two) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    for _ in 0..2 {
        one.listen(&[place("crew:1")]).await;
    }
    two.listen(&[place("crew:1"), place("crew:2")]).await;
    for (channel, writer) in [("crew:1", &one), ("crew:2", &one), ("crew:3", &one), ("crew:1", &two)] {
        let n = fastrand::u128(..);
        writer.put(channel, "a", &[n]).await;
    }
    let told = async |node: &mut Node, count| {
        let mut told = Vec::new();
        for _ in 0..count {
            let (place, version, changes) = node.changed().await;
            assert_eq!(changes.len(), 1);
            told.push((place.channel.to_string(), version.number));
        }
        told.sort();
        told
    };
    // A node's own changes are told to it too, and each once however often it listens.
    let first = [("crew:1".to_owned(), 1), ("crew:1".to_owned(), 2)];
    assert_eq!(told(&mut one, 2).await, first);
    assert_eq!(told(&mut two, 3).await, [first.to_vec(), vec![("crew:2".to_owned(), 1)]].concat());
    two.store.unlisten(&[place("crew:1"), place("crew:9")]).await;
    // What is on its way may still come; what is listened to behind it is listened to when it has ended.
    two.settle().await;
    one.put("crew:1", "a", &[3]).await;
    one.put("crew:2", "a", &[3]).await;
    assert_eq!(told(&mut two, 1).await, [("crew:2".to_owned(), 2)]);
    assert_eq!(told(&mut one, 1).await, [("crew:1".to_owned(), 3)]);
    for node in [&mut one, &mut two] {
        node.settle().await;
    }
    // Again after it had ended.
    two.listen(&[place("crew:1")]).await;
    one.remove("crew:1", "a", &[3]).await;
    assert_eq!(told(&mut two, 1).await, [("crew:1".to_owned(), 4)]);
    one.listen(&[]).await;
}

pub(crate) async fn many_channels_are_listened_to_in_one_call<F: Fixture>() {
    const CHANNELS: usize = 300;
    let fixture = F::start().await;
    let (mut one, two) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    let names: Vec<_> = (0..CHANNELS).map(|n| format!("crew:{n}")).collect();
    let places: Vec<_> = names.iter().map(|name| place(name)).collect();
    one.listen(&places).await;
    for name in &names {
        two.put(name, "a", &[1]).await;
    }
    let mut told = Vec::new();
    for _ in 0..CHANNELS {
        told.push(one.changed().await.0);
    }
    let mut wanted = places.clone();
    wanted.sort();
    told.sort();
    assert_eq!(told, wanted);
    one.store.unlisten(&places).await;
    one.settle().await;
    for name in &names {
        two.put(name, "a", &[2]).await;
    }
    one.settle().await;
}

pub(crate) async fn versions_are_consecutive_however_many_write<F: Fixture>() {
    const WRITERS: u128 = 4;
    const WRITES: u128 = 100;
    let fixture = F::start().await;
    let mut listener = Node::connect(&fixture).await;
    listener.listen(&[place("crew:1")]).await;
    let mut writing = Vec::new();
    for writer in 0..WRITERS {
        let node = Node::connect(&fixture).await;
        writing.push(tokio::spawn(async move {
            let mut versions = Vec::new();
            for n in 0..WRITES {
                // What was written last time is removed, so that it goes both ways.
                let key = writer * 1_000 + n / 2;
                let written = match n % 2 {
                    0 => node.put("crew:1", "a", &[key]).await,
                    _ => node.remove("crew:1", "a", &[key]).await,
                };
                versions.push(written.version.number);
            }
            assert!(versions.is_sorted());
            versions
        }));
    }
    let mut last: Option<Version> = None;
    for n in 1..=(WRITERS * WRITES) as u64 {
        let (_, version, changes) = listener.changed().await;
        assert_eq!((version.number, changes.len()), (n, 1));
        assert!(last.is_none_or(|last| last.epoch == version.epoch));
        last = Some(version);
    }
    let mut versions = Vec::new();
    for task in writing {
        versions.extend(task.await.unwrap());
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=(WRITERS * WRITES) as u64).collect::<Vec<_>>());
}

/// As a mirror does it: listen, read, then follow what lies behind the first page.
pub(crate) async fn listening_and_reading_have_no_hole_between_them<F: Fixture>() {
    const WRITES: u128 = 400;
    let fixture = F::start().await;
    let (mut mirror, writer) = (Node::connect(&fixture).await, Arc::new(Node::connect(&fixture).await));
    writer.put("crew:1", "a", &(0..128).collect::<Vec<_>>()).await;
    let other = Arc::clone(&writer);
    let writing = tokio::spawn(async move {
        for n in 0..WRITES {
            match n % 3 {
                0 => other.put("crew:1", "a", &[1_000 + n]).await,
                1 => other.remove("crew:1", "a", &[n % 128]).await,
                _ => other.put("crew:1", "b", &[n % 128]).await,
            };
        }
    });
    mirror.listen(&[place("crew:1")]).await;
    let (first, rows) = mirror.pages("crew:1", 20).await;
    let mut mirrored: BTreeMap<_, _> =
        rows.into_iter().map(|(incarnation, row)| (row.connection.0, (incarnation, row))).collect();
    writing.await.unwrap();
    let last = writer.standing("crew:1").await.version;
    let mut at = first.number;
    while at < last.number {
        let (_, version, changes) = mirror.changed().await;
        assert_eq!(version.epoch, first.epoch);
        if version.number <= first.number {
            continue;
        }
        assert_eq!(version.number, at + 1);
        at = version.number;
        for change in changes {
            match change {
                RowChange::Put(incarnation, row) => mirrored.insert(row.connection.0, (incarnation, row)),
                RowChange::Removed { connection, .. } => mirrored.remove(&{ connection.0 }),
            };
        }
    }
    assert_eq!(mirrored.into_values().collect::<Vec<_>>(), writer.rows("crew:1").await);
}

pub(crate) async fn a_store_that_is_closed_does_nothing_more<F: Fixture>() {
    let fixture = F::start().await;
    let (mut one, mut two) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    for node in [&one, &two] {
        node.listen(&[place("crew:1")]).await;
    }
    one.put("crew:1", "a", &[1]).await;
    one.store.close().await;
    one.store.close().await;
    two.put("crew:1", "a", &[2]).await;
    // What was told before may still come.
    while let Some(event) = one.next_event().await {
        assert!(!matches!(event, StoreEvent::Changed { version: Version { number: 2, .. }, .. }), "{event:?}");
    }
    let refused = one.store.standings(&[place("crew:1")]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    for n in 1..=2 {
        assert_eq!(two.changed().await.1.number, n);
    }
}
