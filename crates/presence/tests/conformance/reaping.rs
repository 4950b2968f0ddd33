//! Rows of the dead.

use fanfare_presence::{Reap, RowChange};

use crate::{
    fixture::Fixture,
    node::{Node, incarnation, place, row, write},
};

pub(crate) async fn only_the_rows_of_the_dead_are_removed_and_told<F: Fixture>() {
    let fixture = F::start().await;
    let (one, mut two) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    let reap = Reap { place: place("crew:1"), dead: incarnation("dead") };
    let nothing = one.store.reap(reap.clone()).await.unwrap();
    assert!(nothing.removed.is_empty() && !nothing.vacated && !nothing.more);
    one.put("crew:1", "dead", &[1, 2, 3]).await;
    one.put("crew:1", "alive", &[3, 4]).await;
    // The same user on both.
    one.store.write(write("crew:1", "alive", vec![row(5, "u1")], vec![])).await.unwrap();
    one.put("crew:2", "dead", &[6]).await;
    two.listen(&[place("crew:1")]).await;

    let reaped = one.store.reap(reap.clone()).await.unwrap();
    let mut removed = reaped.removed;
    removed.sort_by_key(|row| row.connection);
    assert_eq!(removed, [row(1, "u1"), row(2, "u2")]);
    assert!(!reaped.vacated && !reaped.more);
    let (place, version, mut changes) = two.changed().await;
    changes.sort_by_key(|change| change.user().to_cursor());
    let told = removed.into_iter().map(|row| RowChange::Removed { connection: row.connection, user: row.user });
    assert_eq!((place, version.number, changes), (reap.place.clone(), 4, told.collect()));
    let left = [(3, "alive".to_owned()), (4, "alive".to_owned()), (5, "alive".to_owned())];
    assert_eq!(one.owners("crew:1").await, left);
    let standing = one.standing("crew:1").await;
    assert_eq!((standing.users, standing.connections, standing.version.number), (3, 3, 4));
    // Nothing is left: no version, no event.
    assert!(one.store.reap(reap).await.unwrap().removed.is_empty());
    assert_eq!(one.standing("crew:1").await.version.number, 4);
    two.settle().await;
    assert_eq!(one.reap("crew:2", "dead").await, (vec![6], 1));
}

pub(crate) async fn each_row_is_removed_once_whoever_reaps<F: Fixture>() {
    const ROWS: u128 = 2_600;
    let fixture = F::start().await;
    let (one, two, mut listener) =
        (Node::connect(&fixture).await, Node::connect(&fixture).await, Node::connect(&fixture).await);
    let all: Vec<u128> = (0..ROWS).collect();
    for part in all.chunks(100) {
        one.put("crew:1", "dead", part).await;
    }
    listener.listen(&[place("crew:1")]).await;
    let ((mut removed, vacated), (others, also)) = tokio::join!(one.reap("crew:1", "dead"), two.reap("crew:1", "dead"));
    removed.extend(others);
    removed.sort_unstable();
    assert_eq!((removed, vacated + also), (all.clone(), 1));
    let (mut told, mut last) = (Vec::new(), (ROWS / 100) as u64);
    while told.len() < all.len() {
        let (_, version, changes) = listener.changed().await;
        assert_eq!(version.number, last + 1);
        last = version.number;
        told.extend(changes.iter().map(|change| match change {
            RowChange::Removed { connection, .. } => connection.0,
            RowChange::Put(..) => panic!("{change:?}"),
        }));
    }
    told.sort_unstable();
    assert_eq!(told, all);
    assert!(last > ROWS as u64 / 100 + 1, "so many rows take several calls");
    assert_eq!(one.standing("crew:1").await.version.number, last);
}

pub(crate) async fn what_was_written_too_late_is_reaped_again<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::connect(&fixture).await;
    node.put("crew:1", "dead", &[1]).await;
    assert_eq!(node.reap("crew:1", "dead").await, (vec![1], 1));
    assert!(node.put("crew:1", "dead", &[1, 2]).await.occupied);
    let (mut removed, vacated) = node.reap("crew:1", "dead").await;
    removed.sort_unstable();
    assert_eq!((removed, vacated), (vec![1, 2], 1));
}
