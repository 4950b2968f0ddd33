//! Notes of where an incarnation may have rows.

use std::collections::BTreeSet;

use fanfare_presence::{Incarnation, Place};

use crate::{
    fixture::Fixture,
    node::{Node, incarnation, place, place_of},
};

async fn all(node: &Node, of: &Incarnation) -> Vec<Place> {
    let (mut places, mut cursor) = (BTreeSet::new(), None);
    loop {
        let (page, next) = node.store.noted(of, cursor, 100).await.unwrap();
        places.extend(page);
        cursor = next;
        if cursor.is_none() {
            return places.into_iter().collect();
        }
    }
}

pub(crate) async fn notes_are_kept_until_they_are_taken_back<F: Fixture>() {
    let fixture = F::start().await;
    let (one, two) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    let (a, b) = (incarnation("a"), incarnation("b"));
    let places = [place("crew:1"), place("crew:2"), place_of("beta", "crew:1"), place("log:a-_=@+~,B:9")];
    assert_eq!(one.store.noted(&a, None, 10).await.unwrap(), (vec![], None));
    for _ in 0..2 {
        one.store.note(&a, &places).await.unwrap();
    }
    two.store.note(&b, &places[..1]).await.unwrap();
    let mut wanted = places.to_vec();
    wanted.sort();
    assert_eq!(all(&two, &a).await, wanted);
    for _ in 0..2 {
        one.store.unnote(&a, &places[..2]).await.unwrap();
    }
    wanted.retain(|place| places[2..].contains(place));
    assert_eq!(all(&two, &a).await, wanted);
    assert_eq!(all(&two, &b).await, places[..1]);
    // Whoever reaps takes them back too.
    two.store.unnote(&a, &places).await.unwrap();
    assert!(all(&one, &a).await.is_empty() && !fixture.remembers(a.as_str()).await);
    one.store.note(&a, &[]).await.unwrap();
    one.store.unnote(&a, &[]).await.unwrap();
}

pub(crate) async fn many_notes_are_read_in_pages_while_they_are_taken_back<F: Fixture>() {
    const PLACES: usize = 1_000;
    let fixture = F::start().await;
    let node = Node::connect(&fixture).await;
    let a = incarnation("a");
    let places: Vec<_> = (0..PLACES).map(|n| place(&format!("crew:{n}"))).collect();
    for part in places.chunks(128) {
        node.store.note(&a, part).await.unwrap();
    }
    assert_eq!(all(&node, &a).await.len(), PLACES);
    // As a reaper reads: what it has read is gone before it reads on.
    let (mut found, mut cursor) = (BTreeSet::new(), None);
    loop {
        let (page, next) = node.store.noted(&a, cursor, 100).await.unwrap();
        assert!(page.len() <= 300, "{} at once", page.len());
        node.store.unnote(&a, &page).await.unwrap();
        found.extend(page);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found.len(), PLACES);
    assert!(all(&node, &a).await.is_empty());
}
