//! Rows, versions and counts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use fanfare_presence::{Incarnation, Reap, Row, RowChange, Standing, State, User, Version, Write, Written};

use crate::{
    fixture::Fixture,
    node::{Node, connection, incarnation, place, place_of, row, with_info, write},
};

pub(crate) async fn rows_come_back_as_they_were_written<F: Fixture>() {
    let fixture = F::start().await;
    let (one, mut two) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    two.listen(&[place("crew:1")]).await;
    let long = format!("[\"{}\"]", "x".repeat(1_000));
    let rows: Vec<Row> = vec![
        row(0, "alice"),
        with_info(row(u128::MAX, "alice"), "null"),
        Row { state: State::Idle, since: 0, ..row(2, "a:b{c}|\u{0}\n\u{1f600}\"\\ ü") },
        Row { state: State::Own("editing_2-x".into()), ..with_info(row(3, " "), r#"{ "a" : [1.50, "\u00e9ü\n"] }"#) },
        Row { user: User::Anonymous(connection(4)), ..with_info(row(4, ""), &long) },
        with_info(row(5, &"u".repeat(256)), "\"\""),
        Row { user: User::Named("00000000000000000000000000000004".into()), ..row(6, "") },
    ];
    one.store.write(write("crew:1", "node-a.b_c", rows.clone(), vec![])).await.unwrap();
    let mut wanted: Vec<_> = rows.iter().map(|row| (incarnation("node-a.b_c"), row.clone())).collect();
    let (.., mut changes) = two.changed().await;
    changes.sort_by_key(|change| match change {
        RowChange::Put(_, row) => row.connection,
        RowChange::Removed { connection, .. } => *connection,
    });
    wanted.sort_by_key(|(_, row)| row.connection);
    assert_eq!(two.rows("crew:1").await, wanted);
    assert_eq!(changes, wanted.iter().map(|(by, row)| RowChange::Put(by.clone(), row.clone())).collect::<Vec<_>>());
    // Each is told with its user when it goes.
    for row in rows {
        one.store.write(write("crew:1", "node-a.b_c", vec![], vec![row.connection])).await.unwrap();
        let removed = RowChange::Removed { connection: row.connection, user: row.user };
        assert_eq!(two.changed().await.2, [removed]);
    }
    assert!(two.rows("crew:1").await.is_empty());
}

pub(crate) async fn a_write_that_changes_nothing_gives_no_version<F: Fixture>() {
    let fixture = F::start().await;
    let (one, mut two) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    two.listen(&[place("crew:1")]).await;
    let nothing = Standing { version: Version { epoch: String::new(), number: 0 }, users: 0, connections: 0 };
    assert_eq!(one.standing("crew:1").await, nothing);
    // Nothing was ever written.
    let written = one.remove("crew:1", "a", &[1]).await;
    assert_eq!(written, Written { version: nothing.version.clone(), occupied: false, vacated: false });
    assert_eq!(one.standing("crew:1").await, nothing);

    let puts = vec![row(1, "alice"), with_info(row(2, "bob"), "{}")];
    let first = one.store.write(write("crew:1", "a", puts.clone(), vec![])).await.unwrap().version;
    assert!(first.number == 1 && !first.epoch.is_empty(), "{first:?}");
    assert_eq!(two.changed().await.1, first);
    for _ in 0..2 {
        let again = one.store.write(write("crew:1", "a", puts.clone(), vec![connection(9)])).await.unwrap();
        assert_eq!(again, Written { version: first.clone(), occupied: false, vacated: false });
    }
    // Each part of a row is a change, and only the rows that changed are told.
    let changed = [
        Row { state: State::Idle, ..row(1, "alice") },
        with_info(row(1, "alice"), "{}"),
        with_info(row(1, "alice"), "{ }"),
        Row { since: 5, ..with_info(row(1, "alice"), "{ }") },
        row(1, "carol"),
    ];
    for (n, row) in (2..).zip(changed) {
        let puts = vec![row.clone(), puts[1].clone()];
        let written = one.store.write(write("crew:1", "a", puts, vec![])).await.unwrap();
        let version = Version { number: n, ..first.clone() };
        assert_eq!(written.version, version);
        let told = vec![RowChange::Put(incarnation("a"), row)];
        assert_eq!(two.changed().await, (place("crew:1"), version, told));
    }
    assert_eq!(one.standing("crew:1").await.version.number, 6);
    two.settle().await;
}

pub(crate) async fn a_put_is_over_what_was_there_and_a_remove_of_ones_own_only<F: Fixture>() {
    let fixture = F::start().await;
    let (one, mut two) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    one.put("crew:1", "a", &[1, 2]).await;
    assert_eq!(two.remove("crew:1", "b", &[1, 2]).await.version.number, 1);
    two.listen(&[place("crew:1")]).await;
    assert_eq!(two.put("crew:1", "b", &[2]).await.version.number, 2);
    assert_eq!(two.changed().await.2, [RowChange::Put(incarnation("b"), row(2, "u2"))]);
    assert_eq!(one.owners("crew:1").await, [(1, "a".to_owned()), (2, "b".to_owned())]);
    // It is the other's now.
    assert_eq!(one.remove("crew:1", "a", &[2]).await.version.number, 2);
    assert!(two.reap("crew:1", "a").await == (vec![1], 0));
    // A put and a remove at once.
    let both = write("crew:1", "b", vec![row(3, "u3")], vec![connection(2)]);
    let written = two.store.write(both).await.unwrap();
    assert!(written.version.number == 4 && !written.occupied && !written.vacated, "{written:?}");
    assert_eq!(one.owners("crew:1").await, [(3, "b".to_owned())]);
}

pub(crate) async fn a_put_that_was_overtaken_by_the_next_life_of_its_process_changes_nothing<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::connect(&fixture).await;
    let put = async |number, connections: &[u128]| {
        let puts = connections.iter().map(|n| row(*n, "u")).collect();
        let incarnation = Incarnation::new("a", number);
        node.store.write(Write { incarnation, ..write("crew:1", "a", puts, vec![]) }).await.unwrap().version.number
    };
    let owners =
        async || -> Vec<Incarnation> { node.rows("crew:1").await.into_iter().map(|(owner, _)| owner).collect() };
    let (before, after, other) = (0x1_0009, 0x1_000a, 0x0_ffff);
    assert_eq!((put(after, &[1]).await, put(before, &[1]).await, put(before, &[1, 2]).await), (1, 1, 2));
    assert_eq!(owners().await, [Incarnation::new("a", after), Incarnation::new("a", before)]);
    // Of another process nothing is known.
    put(other, &[1]).await;
    assert_eq!(owners().await[0], Incarnation::new("a", other));
}

pub(crate) async fn occupied_and_vacated_are_told_once<F: Fixture>() {
    let fixture = F::start().await;
    let (one, two) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    let told = |written: &Written| (written.occupied, written.vacated);
    assert_eq!(told(&one.put("crew:1", "a", &[1, 2]).await), (true, false));
    assert_eq!(told(&one.put("crew:1", "a", &[1, 2]).await), (false, false));
    assert_eq!(told(&two.put("crew:1", "b", &[3]).await), (false, false));
    assert_eq!(told(&one.remove("crew:1", "a", &[1, 2]).await), (false, false));
    assert_eq!(told(&two.remove("crew:1", "b", &[3]).await), (false, true));
    assert_eq!(told(&two.remove("crew:1", "b", &[3]).await), (false, false));
    // The numbering goes on.
    let written = two.put("crew:1", "b", &[3]).await;
    assert!(written.occupied && written.version.number == 5, "{written:?}");
    let reap = Reap { place: place("crew:1"), dead: incarnation("b") };
    assert!(one.store.reap(reap.clone()).await.unwrap().vacated);
    assert!(!one.store.reap(reap).await.unwrap().vacated);
    assert_eq!(told(&one.put("crew:1", "a", &[1]).await), (true, false));
}

pub(crate) async fn standings_count_users_and_connections<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::connect(&fixture).await;
    let counts = async |channel| {
        let Standing { users, connections, .. } = node.standing(channel).await;
        (users, connections)
    };
    let rows = vec![
        row(1, "alice"),
        row(2, "alice"),
        row(3, "bob"),
        Row { user: User::Anonymous(connection(4)), ..row(4, "") },
    ];
    node.store.write(write("crew:1", "a", rows, vec![])).await.unwrap();
    assert_eq!(counts("crew:1").await, (3, 4));
    node.remove("crew:1", "a", &[1]).await;
    assert_eq!(counts("crew:1").await, (3, 3));
    // A user of the same name as an anonymous connection is another.
    let namesake = row(5, &connection(4).to_string());
    node.store.write(write("crew:1", "a", vec![namesake], vec![])).await.unwrap();
    assert_eq!(counts("crew:1").await, (4, 4));
    node.store.write(write("crew:1", "a", vec![row(2, "bob")], vec![])).await.unwrap();
    assert_eq!(counts("crew:1").await, (3, 4));
    node.put("crew:1", "b", &[9]).await;
    assert_eq!(node.reap("crew:1", "b").await.0, [9]);
    assert_eq!(counts("crew:1").await, (3, 4));
    node.remove("crew:1", "a", &[2, 3, 4, 5]).await;
    assert_eq!(counts("crew:1").await, (0, 0));
    assert_eq!(node.standing("crew:1").await.version.number, 7);

    // In the order asked for, one asked for twice included.
    for n in 1..=300_u128 {
        node.put(&format!("many:{n}"), "a", &(0..n % 7).collect::<Vec<_>>()).await;
    }
    let places: Vec<_> = (1..=300).chain([5]).rev().map(|n| place(&format!("many:{n}"))).collect();
    let standings = node.store.standings(&places).await.unwrap();
    let connections: Vec<_> = standings.iter().map(|standing| standing.connections).collect();
    assert_eq!(connections, (1..=300).chain([5]).rev().map(|n| n % 7).collect::<Vec<_>>());
    assert!(node.store.standings(&[]).await.unwrap().is_empty());
}

pub(crate) async fn many_rows_are_read_in_pages<F: Fixture>() {
    const ROWS: u128 = 2_500;
    let fixture = F::start().await;
    let node = Node::connect(&fixture).await;
    let page = node.store.read(&place("crew:1"), None, 10).await.unwrap();
    assert!(page.rows.is_empty() && page.next.is_none() && page.version.number == 0 && page.version.epoch.is_empty());
    let all: Vec<u128> = (0..ROWS).collect();
    for part in all.chunks(100) {
        node.put("crew:1", "a", part).await;
    }
    let (mut pages, mut cursor) = (Vec::new(), None);
    loop {
        let page = node.store.read(&place("crew:1"), cursor, 100).await.unwrap();
        assert_eq!(page.version.number, 25);
        pages.push(page.rows.len());
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    // About so many: stores may find it easier to give some more.
    assert!(pages.len() >= 8 && pages.iter().all(|rows| *rows <= 300), "{pages:?}");
    let rows = node.rows("crew:1").await;
    assert_eq!(rows.into_iter().map(|(_, row)| row.connection.0).collect::<Vec<_>>(), all);
}

pub(crate) async fn reading_misses_nothing_that_is_there_all_the_time<F: Fixture>() {
    const STEADY: u128 = 600;
    let fixture = F::start().await;
    let (reader, writer) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    for part in (0..STEADY).collect::<Vec<_>>().chunks(100) {
        writer.put("crew:1", "a", part).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    // Others come and go, many at a time, so that the table grows and shrinks.
    let writing = tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            for part in 0..10 {
                let passing: Vec<_> = (0..100).map(|n| 10_000 + part * 100 + n).collect();
                writer.put("crew:1", "b", &passing).await;
            }
            for part in (0..10).rev() {
                let passing: Vec<_> = (0..100).map(|n| 10_000 + part * 100 + n).collect();
                writer.remove("crew:1", "b", &passing).await;
            }
        }
    });
    for _ in 0..20 {
        let rows = reader.pages("crew:1", 50).await.1;
        let steady = rows.iter().filter(|(incarnation, _)| incarnation.node() == "a").count();
        assert_eq!(steady as u128, STEADY);
    }
    done.store(true, Ordering::Relaxed);
    writing.await.unwrap();
}

pub(crate) async fn tenants_and_channels_share_nothing<F: Fixture>() {
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    let places = [("acme", "crew:1"), ("acme", "crew:1:a"), ("acme", "crew"), ("beta", "crew:1"), ("acme1", "crew:1")];
    let places = places.map(|(tenant, channel)| place_of(tenant, channel));
    node.listen(&places[3..4]).await;
    for (n, place) in places.iter().enumerate() {
        let puts = vec![row(n as u128, "alice")];
        let write = Write { place: place.clone(), incarnation: incarnation("a"), puts, removes: vec![] };
        assert!(node.store.write(write).await.unwrap().occupied);
    }
    assert_eq!(node.changed().await.0, places[3]);
    for (n, place) in places.iter().enumerate() {
        let page = node.store.read(place, None, 10).await.unwrap();
        assert_eq!(page.rows.iter().map(|(_, row)| row.connection.0).collect::<Vec<_>>(), [n as u128]);
        assert_eq!(page.version.number, 1);
    }
    node.settle().await;
}
