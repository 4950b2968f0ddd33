//! What nobody knows for certain: whether something was done whose answer is lost.

use super::*;

#[test]
fn who_comes_after_a_note_was_perhaps_taken_back_is_noted_again() {
    let mut hand = Hand::new();
    hand.join(row(1, "alice"));
    hand.note();
    hand.write(Some(1));
    hand.keeper.handle_leave(hand.now, &place("crew:1"), ConnectionKey(1));
    hand.pass(5.1);
    hand.write(Some(2));
    let call = hand.call();
    assert!(matches!(call, Call::Unnote { .. }), "{call:?}");
    // It was done, and the answer was lost.
    hand.done(call, Outcome::Done(Err(away())));
    hand.join(row(2, "bob"));
    hand.pass(1.0);
    hand.note();
    assert_eq!(hand.write(Some(3)), (vec![2], vec![]));
    // And where nobody comes, it is tried again.
    hand.keeper.handle_leave(hand.now, &place("crew:1"), ConnectionKey(2));
    hand.pass(5.1);
    hand.write(Some(4));
    for _ in 0..2 {
        let call = hand.call();
        assert!(matches!(call, Call::Unnote { .. }), "{call:?}");
        hand.done(call, Outcome::Done(Err(away())));
        hand.pass(1.0);
    }
}
