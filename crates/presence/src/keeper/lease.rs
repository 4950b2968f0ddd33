//! This node's lease, and what it knows of the others'. Pure; time is an argument.

use std::{collections::HashSet, time::Duration};

use crate::{Incarnation, Leases, Renewal};

/// Parts of a lease after which it is renewed.
const RENEWAL: u32 = 3;
/// Parts of a lease that are kept free at its end: what is written then might arrive too late.
const MARGIN: u32 = 10;
/// How long after a renewal that failed the next is tried, in parts of a lease, and at most.
const RETRY: u32 = 20;
const LONGEST_RETRY: Duration = Duration::from_millis(500);
/// How long a renewal may be without an answer before the store counts as away.
const SILENCE: Duration = Duration::from_secs(1);
/// Bits that count the incarnations of one process: a later one is greater, see [`Incarnation`].
const LIVES: u32 = 16;
/// How long after the end of another's lease it is looked at; each node another time, so that one of them finds it.
const LOOK_AFTER: u64 = 100;

/// See the module.
#[derive(Debug)]
pub(super) struct Lease {
    node: String,
    lease: Duration,
    random: u64,
    /// Of the incarnation.
    number: u64,
    incarnation: Incarnation,
    /// The lease lasts until then, as this node knows it for certain.
    held_until: Option<Duration>,
    /// When the first renewal of this incarnation was sent.
    begun: Option<Duration>,
    /// When the renewal was sent that is not answered.
    sent: Option<Duration>,
    /// The last renewal failed.
    has_failed: bool,
    next: Duration,
    /// Since when every renewal has succeeded.
    faultless_since: Option<Duration>,
    dead: HashSet<Incarnation>,
    /// Others that held a lease when this was renewed last.
    others: HashSet<Incarnation>,
}

/// What a renewal has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Renewed {
    /// The lease was extended.
    Held,
    /// The lease is held by a new incarnation, and nothing has been written by it.
    Begun,
    /// The lease had ended: there is a new incarnation, which has none yet.
    Lost,
    /// It is an incarnation's that was left meanwhile.
    Left,
}

impl Lease {
    pub(super) fn new(node: String, lease: Duration, random: u64, now: Duration) -> Self {
        let number = random << LIVES;
        let mut own = Self {
            incarnation: Incarnation::new(&node, number),
            number,
            node,
            lease,
            random,
            held_until: None,
            begun: None,
            sent: None,
            has_failed: false,
            next: now,
            faultless_since: None,
            dead: HashSet::new(),
            others: HashSet::new(),
        };
        // The name is not drawn from what draws the rest.
        own.draw();
        own
    }

    pub(super) fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    /// Whether what is sent now arrives before the lease ends.
    pub(super) fn may_write(&self, now: Duration) -> bool {
        self.held_until.is_some_and(|until| now + self.lease / MARGIN < until)
    }

    /// Whether the process of a dead incarnation lives on under a later one.
    pub(super) fn is_outlived(&self, dead: &Incarnation) -> bool {
        self.incarnation.is_later_than(dead) || self.others.iter().any(|other| other.is_later_than(dead))
    }

    /// Whether the store keeps silent, or fails.
    pub(super) fn is_unanswered(&self, now: Duration) -> bool {
        self.has_failed || self.sent.is_some_and(|sent| now.saturating_sub(sent) > SILENCE)
    }

    /// Whether the incarnation has no lease any more, and will never have one.
    pub(super) fn is_dead(&self, incarnation: &Incarnation) -> bool {
        self.dead.contains(incarnation)
    }

    /// Whether an incarnation of this node before this one still holds its lease. One that the store has forgotten does not.
    pub(super) fn still_holds(&self, left: &Incarnation) -> bool {
        self.others.contains(left)
    }

    /// When [`renewal`](Self::renewal) has something; `None` while one is under way.
    pub(super) fn due(&self) -> Option<Duration> {
        self.sent.is_none().then_some(self.next)
    }

    /// The renewal that is due.
    pub(super) fn renewal(&mut self, now: Duration) -> Option<Renewal> {
        if self.due()? > now {
            return None;
        }
        self.sent = Some(now);
        let begin = self.held_until.is_none();
        if begin {
            let begun = *self.begun.get_or_insert(now);
            // It may have begun long ago without an answer, and be dead by now.
            if now.saturating_sub(begun) >= self.lease {
                self.begin_anew(now);
                self.begun = Some(now);
            }
        }
        // Nobody has answered with an error to a node that stood still.
        if self.held_until.is_some_and(|until| until <= now) {
            self.faultless_since = None;
        }
        let reaps = self.faultless_since.is_some_and(|since| now.saturating_sub(since) >= self.lease);
        Some(Renewal { incarnation: self.incarnation.clone(), lease: self.lease, begin, reaps })
    }

    pub(super) fn handle_failed(&mut self, now: Duration) {
        self.sent = None;
        self.has_failed = true;
        self.faultless_since = None;
        let pause = (self.lease / RETRY).min(LONGEST_RETRY);
        self.next = now + pause / 2 + self.up_to(pause / 2);
    }

    pub(super) fn handle_renewed(&mut self, now: Duration, renewal: &Renewal, leases: &Leases) -> Renewed {
        let sent = self.sent.take().unwrap_or(now);
        self.has_failed = false;
        self.dead = leases.dead.iter().cloned().collect();
        self.others = leases.others.iter().map(|(other, _)| other.clone()).collect();
        if renewal.incarnation != self.incarnation {
            // It was left while this was under way.
            return Renewed::Left;
        }
        if !leases.held {
            self.faultless_since = None;
            self.dead.insert(renewal.incarnation.clone());
            self.begin_anew(now);
            return Renewed::Lost;
        }
        self.faultless_since.get_or_insert(sent);
        self.held_until = Some(sent + self.lease);
        self.next = sent + self.lease / RENEWAL;
        // Whoever does not renew is found at the end of its lease, not a third of ours later.
        if let Some(first) = leases.others.iter().map(|(_, left)| *left).min() {
            let look = now + first + self.up_to(Duration::from_millis(LOOK_AFTER));
            self.next = self.next.min(look).max(now + self.lease / RETRY / 2);
        }
        if renewal.begin { Renewed::Begun } else { Renewed::Held }
    }

    /// Takes another incarnation; says which was left. Its lease ends by itself.
    pub(super) fn leave(&mut self, now: Duration) -> Incarnation {
        let left = self.incarnation.clone();
        self.faultless_since = None;
        self.begin_anew(now);
        left
    }

    fn begin_anew(&mut self, now: Duration) {
        self.number += 1;
        self.incarnation = Incarnation::new(&self.node, self.number);
        self.held_until = None;
        self.begun = None;
        self.next = now;
    }

    /// From 0 to 1.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.draw() % (millis + 1))
    }

    /// SplitMix64: randomness is an argument, and one seed is enough.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn lease() -> Lease {
        Lease::new("a".to_owned(), LEASE, 7, Duration::ZERO)
    }

    fn held() -> Leases {
        Leases { held: true, ..Leases::default() }
    }

    fn renew(lease: &mut Lease, at: f64, leases: &Leases) -> Renewed {
        let renewal = lease.renewal(secs(at)).expect("one is due");
        lease.handle_renewed(secs(at), &renewal, leases)
    }

    #[test]
    fn it_is_begun_and_renewed_at_a_third() {
        let mut lease = lease();
        assert!(!lease.may_write(secs(0.0)));
        assert!(lease.renewal(secs(0.0)).unwrap().begin);
        assert_eq!(lease.due(), None);
        lease.handle_failed(secs(0.0));
        let again = lease.due().unwrap();
        assert!(again <= secs(0.5) && again > secs(0.0), "{again:?}");
        assert_eq!(renew(&mut lease, 1.0, &held()), Renewed::Begun);
        assert!(lease.may_write(secs(9.9)) && !lease.may_write(secs(10.0)), "a tenth is kept free");
        assert_eq!(lease.due(), Some(secs(1.0) + LEASE / 3));
        assert!(!lease.renewal(secs(4.5)).unwrap().begin);
    }

    #[test]
    fn a_lease_that_had_ended_is_another_incarnations() {
        let mut lease = lease();
        renew(&mut lease, 0.0, &held());
        let first = lease.incarnation().clone();
        assert_eq!(renew(&mut lease, 40.0, &Leases::default()), Renewed::Lost);
        assert!(lease.is_dead(&first) && !lease.may_write(secs(40.0)));
        assert_ne!(*lease.incarnation(), first);
        assert_eq!(renew(&mut lease, 40.0, &held()), Renewed::Begun);
        assert!(lease.may_write(secs(40.0)));
    }

    #[test]
    fn it_reaps_only_after_a_lease_without_a_fault() {
        let mut lease = lease();
        renew(&mut lease, 0.0, &held());
        assert!(!lease.renewal(secs(9.9)).unwrap().reaps);
        lease.handle_failed(secs(9.9));
        renew(&mut lease, 12.0, &held());
        assert!(!lease.renewal(secs(21.0)).unwrap().reaps);
        let renewal = Renewal { incarnation: lease.incarnation().clone(), lease: LEASE, begin: false, reaps: false };
        lease.handle_renewed(secs(21.0), &renewal, &held());
        assert!(lease.renewal(secs(24.5)).unwrap().reaps);
    }

    #[test]
    fn the_end_of_anothers_lease_is_looked_at() {
        let mut lease = lease();
        let other = (Incarnation::new("b", 1), secs(1.0));
        renew(&mut lease, 0.0, &Leases { others: vec![other], ..held() });
        let due = lease.due().unwrap();
        assert!(due >= secs(1.0) && due <= secs(1.1), "{due:?}");
        let long = (Incarnation::new("b", 1), secs(9.0));
        renew(&mut lease, 1.1, &Leases { others: vec![long], ..held() });
        assert_eq!(lease.due(), Some(secs(1.1) + LEASE / 3), "who renews costs nothing");
    }

    #[test]
    fn a_beginning_without_an_answer_is_not_believed_for_ever() {
        let mut lease = lease();
        let first = lease.renewal(secs(0.0)).unwrap().incarnation;
        lease.handle_failed(secs(5.0));
        assert_eq!(lease.renewal(secs(6.0)).unwrap().incarnation, first);
        lease.handle_failed(secs(6.0));
        assert_ne!(lease.renewal(secs(10.0)).unwrap().incarnation, first);
    }
}
