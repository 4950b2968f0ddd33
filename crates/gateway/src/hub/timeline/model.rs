//! The rules together: a broker's channel, a way to the node on which publications are late or lost, questions that are
//! answered late or not at all, and clients that come with whatever position they have. Whatever happens in whatever
//! order, nobody gets anything twice or out of order, and nothing is missing without being told.

mod channel;

use proptest::{prelude::*, sample::Index};

use super::*;
use channel::{Channel, Numbering};

/// A publication: the number of its epoch, and its offset.
type Published = (usize, u64);

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// Something is published, after others in the same stream.
    Publish { others: u64, bytes: usize },
    /// Only others publish.
    Others(u64),
    /// The next publications on their way to the node come; the last of them may be lost instead.
    Arrive { count: usize, last_is_lost: bool },
    /// The broker looks at the question that it was asked: where the channel stands, then what is to be read.
    Consider,
    /// Its answer comes.
    Answer { fails: bool },
    /// Time passes.
    Pass(u64),
    /// The node loses the broker, with what is on its way.
    Interrupt,
    /// The broker is back.
    Resume,
    /// The numbering begins anew.
    NewEpoch,
    /// A client comes.
    Subscribe { since: Option<Since>, rewind: u32 },
    /// The node needs the memory.
    GiveBack,
}

/// Where a client that comes has been.
#[derive(Clone, Debug)]
enum Since {
    /// Where another node or this one has told it that it was.
    Known(Index),
    /// On a node that has got further.
    Newest,
    /// Nowhere: so far beyond where the channel stands.
    Beyond(u64),
}

/// A client that waits.
#[derive(Debug)]
struct Client {
    start: Start,
    /// Its position is one that the channel has not reached yet.
    beyond: bool,
    /// The broker could not prove at some time that nothing behind its position was lost.
    unproven: bool,
    /// The broker did not answer something meanwhile.
    failed: bool,
}

/// The question that the broker was asked.
#[derive(Debug)]
enum Question {
    Asked(Option<Read>),
    Began(Read, Position),
    Stands(Standing),
    Page(Read, Page<Published>, Vec<u64>),
}

struct World {
    now: u64,
    config: TimelineConfig,
    channel: Channel,
    connected: bool,
    /// What is on its way to the node, and since when.
    on_the_way: VecDeque<(u64, LivePosition, Entry<Published>)>,
    timeline: Timeline<Published, usize>,
    question: Option<Question>,
    /// What was retained when the last page was read.
    readable: Vec<u64>,
    /// The last page proved nothing.
    unproven: bool,
    /// The last page came so late that the ring does not reach back to it any more.
    too_late: bool,
    /// How far all subscribers have come.
    at: Option<Position>,
    /// Where clients may have been.
    known: Vec<Position>,
    clients: Vec<Option<Client>>,
    /// Reads for those who recover.
    reads: usize,
}

fn place(epoch: usize, offset: u64) -> Position {
    Position { offset, epoch: Epoch::parse(&format!("e{epoch}")).unwrap() }
}

fn epoch_of(position: &Position) -> usize {
    position.epoch.as_str()[1..].parse().unwrap()
}

fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

impl World {
    fn new(numbering: Numbering, config: TimelineConfig) -> Self {
        let mut world = Self {
            now: 0,
            config,
            channel: Channel::new(numbering, &config),
            connected: true,
            on_the_way: VecDeque::new(),
            timeline: Timeline::new(at(0), config),
            question: None,
            readable: Vec::new(),
            unproven: false,
            too_late: false,
            at: None,
            known: vec![place(0, 0)],
            clients: Vec::new(),
            reads: 0,
        };
        world.carry_out();
        world
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish { others, bytes } => {
                self.channel.publish_others(self.now, *others);
                let (live, entry) = self.channel.publish(self.now, *bytes);
                self.known.push(live.position.clone());
                if self.connected {
                    self.on_the_way.push_back((self.now, live, entry));
                }
            }
            Step::Others(count) => self.channel.publish_others(self.now, *count),
            Step::Arrive { count, last_is_lost } => {
                for number in 1..=*count {
                    self.arrive(*last_is_lost && number == *count);
                }
            }
            Step::Consider => self.consider(),
            Step::Answer { fails } => self.answer(*fails),
            Step::Pass(millis) => self.pass(*millis),
            Step::Interrupt => {
                self.connected = false;
                self.on_the_way.clear();
            }
            Step::Resume => self.resume(),
            Step::NewEpoch => self.channel.begin_epoch(),
            Step::Subscribe { since, rewind } => self.subscribe(since.as_ref(), *rewind),
            Step::GiveBack => _ = self.timeline.give_back(),
        }
        let standing = self.channel.standing().position;
        if self.known.last() != Some(&standing) {
            self.known.push(standing);
        }
        self.check_bounds();
    }

    fn arrive(&mut self, lost: bool) {
        let Some((_, live, entry)) = self.on_the_way.pop_front() else { return };
        if !lost && !self.timeline.has_delivered(&live.position) {
            self.timeline.handle_live(at(self.now), live, entry);
            self.carry_out();
        }
    }

    fn consider(&mut self) {
        let position = self.channel.standing().position;
        let question = match self.question.take() {
            Some(Question::Asked(None)) => Question::Stands(self.channel.standing()),
            Some(Question::Asked(Some(read))) => Question::Began(read, position),
            Some(Question::Began(read, begun)) => {
                let target = if begun.epoch == position.epoch { begun } else { position };
                let page = self.channel.read(read, target.offset, &self.config);
                self.clients.iter_mut().flatten().for_each(|client| client.look(&self.channel));
                Question::Page(read, page, self.channel.retained())
            }
            Some(considered) => considered,
            None => return,
        };
        self.question = Some(question);
    }

    fn answer(&mut self, fails: bool) {
        let now = at(self.now);
        if fails {
            self.clients.iter_mut().flatten().for_each(|client| client.failed = true);
            match self.question.take() {
                None => return,
                Some(Question::Asked(None) | Question::Stands(_)) => self.timeline.handle_standing(now, Err(Failed)),
                Some(_) => self.timeline.handle_page(now, Err(Failed)),
            }
            return self.carry_out();
        }
        while matches!(self.question, Some(Question::Asked(_) | Question::Began(..))) {
            self.consider();
        }
        match self.question.take() {
            Some(Question::Stands(standing)) => self.timeline.handle_standing(now, Ok(standing)),
            Some(Question::Page(read, page, readable)) => {
                let cut_at = self.channel.cut_at(read, &page, self.config.recovery_publications);
                for client in self.clients.iter_mut().flatten() {
                    client.unproven |= client.start.since.as_ref().is_some_and(|since| since.offset < cut_at);
                }
                self.readable = readable;
                self.unproven = !page.whole && self.channel.has_holes();
                self.too_late = page.position.offset < self.timeline.ring.floor();
                self.timeline.handle_page(now, Ok(page));
            }
            _ => return,
        }
        self.carry_out();
    }

    /// Lets time pass, and the timeline look at it when it wants to.
    fn pass(&mut self, millis: u64) {
        let end = self.now + millis;
        loop {
            // What is later counts as missing.
            let arrives = self.on_the_way.front().map(|(sent, ..)| sent + LATEST);
            let wakes = self.timeline.poll_timeout().as_millis();
            let next = arrives.unwrap_or(wakes).min(wakes);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            self.channel.expire(self.now);
            if arrives.is_some_and(|arrives| arrives <= self.now) {
                self.arrive(false);
            } else {
                self.timeline.handle_timeout(at(self.now));
                self.carry_out();
                assert!(self.timeline.poll_timeout() > at(self.now), "it wants to be woken at once, again and again");
            }
        }
        self.now = end;
        self.channel.expire(end);
    }

    fn resume(&mut self) {
        if !self.connected {
            self.connected = true;
            self.timeline.handle_resumed(at(self.now));
            self.carry_out();
        }
    }

    fn subscribe(&mut self, since: Option<&Since>, rewind: u32) {
        let since = since.map(|since| match since {
            Since::Known(index) => index.get(&self.known).clone(),
            Since::Newest => self.channel.standing().position,
            Since::Beyond(by) => self.channel.place(self.channel.head() + by),
        });
        if self.at.is_some() {
            self.come_back(since, rewind);
        }
    }

    fn come_back(&mut self, since: Option<Position>, rewind: u32) {
        let stands = self.channel.standing().position;
        let beyond = since.as_ref().is_some_and(|since| since.epoch == stands.epoch && since.offset > stands.offset);
        let start = Start { since, rewind };
        self.too_late = false;
        let mut client = Client { start: start.clone(), beyond, unproven: false, failed: false };
        client.look(&self.channel);
        self.clients.push(Some(client));
        self.timeline.handle_recover(at(self.now), self.clients.len() - 1, start);
        self.carry_out();
    }

    /// All is well from now on: everything comes, and every question is answered.
    fn settle(&mut self) {
        self.resume();
        let end = self.now + 3 * self.config.check_interval.as_millis() as u64;
        while self.now < end {
            self.arrive_all();
            self.pass(200);
        }
        self.arrive_all();
        let at = self.at.as_ref().expect("it has begun");
        assert_eq!(epoch_of(at), self.channel.epoch());
        assert_eq!(self.channel.between(self.channel.epoch(), at.offset, u64::MAX), [], "nobody is told of these");
        assert!(self.clients.iter().all(Option::is_none), "{:?} wait for good", self.clients);
    }

    fn arrive_all(&mut self) {
        while !self.on_the_way.is_empty() {
            self.arrive(false);
        }
        while self.question.is_some() {
            self.answer(false);
        }
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.timeline.poll_effect() {
            match effect {
                Effect::Began(position) => {
                    assert!(self.at.is_none(), "it began before");
                    assert!(position.offset <= self.channel.head() || epoch_of(&position) < self.channel.epoch());
                    self.at = Some(position);
                }
                Effect::NotBegun => {
                    assert!(self.at.is_none() && self.clients.is_empty());
                    self.on_the_way.clear();
                    self.timeline = Timeline::new(at(self.now), self.config);
                }
                Effect::Deliver((epoch, offset)) => {
                    let before = self.at.as_ref().expect("it began before anything is delivered");
                    assert_eq!(epoch, epoch_of(before));
                    assert!(before.offset < offset, "{offset} comes after {}", before.offset);
                    let between = self.channel.between(epoch, before.offset, offset - 1);
                    assert_eq!(between, [], "they lie between {} and {offset}", before.offset);
                    self.at = Some(place(epoch, offset));
                }
                Effect::Gap { reason, from, to } => self.take_gap(reason, from, to),
                Effect::Answer(who, answer) => self.take_answer(who, answer),
                Effect::Ask => self.ask(None),
                Effect::Read(read) => {
                    self.reads += usize::from(!matches!(read, Read::Missed { .. }));
                    self.ask(Some(read));
                }
            }
        }
        if let Some(position) = self.timeline.position().cloned() {
            self.move_to(&position);
        }
    }

    fn ask(&mut self, read: Option<Read>) {
        assert!(self.question.is_none(), "{read:?} is asked beside {:?}", self.question);
        self.question = Some(Question::Asked(read));
    }

    /// It is said that the channel stands here. Then there may be nothing in between.
    fn move_to(&mut self, position: &Position) {
        let Some(before) = self.at.replace(position.clone()) else { panic!("it has not begun") };
        let epoch = epoch_of(position);
        assert_eq!(epoch, epoch_of(&before), "the epoch changes and nobody is told");
        assert!(position.offset >= before.offset, "it goes back from {} to {}", before.offset, position.offset);
        let between = self.channel.between(epoch, before.offset, position.offset);
        assert_eq!(between, [], "passed over without a word");
        assert!(epoch < self.channel.epoch() || position.offset <= self.channel.head(), "that is still to come");
    }

    fn take_gap(&mut self, reason: &str, from: Position, to: Position) {
        self.move_to(&from);
        let epoch = epoch_of(&to);
        assert!(epoch < self.channel.epoch() || to.offset <= self.channel.head(), "that is still to come");
        if reason == NEW_EPOCH {
            assert!(epoch > epoch_of(&from), "an epoch that is over");
        } else {
            assert_eq!((reason, &from.epoch), (NOT_RETAINED, &to.epoch));
            assert!(from.offset < to.offset);
            let lost = self.channel.between(epoch, from.offset, to.offset);
            assert!(!lost.is_empty() || self.unproven, "nothing was lost behind {from:?}");
            let readable = lost.iter().find(|(offset, _)| self.readable.contains(offset));
            assert_eq!(readable, None, "it was retained, and is told to be lost");
        }
        self.at = Some(to);
    }

    fn take_answer(&mut self, who: usize, answer: Answer<Published>) {
        let client = self.clients[who].take().expect("everyone is answered once");
        let Answer::Begin { position, recovered, publications } = answer else {
            return assert!(client.failed, "refused, and nothing had failed");
        };
        self.move_to(&position);
        let epoch = epoch_of(&position);
        let (count, bytes) = (self.config.recovery_publications, self.config.recovery_bytes);
        let Start { since, rewind } = &client.start;
        match (recovered, since) {
            (Some(true), Some(since)) => {
                assert_eq!(since.epoch, position.epoch);
                let missed = self.channel.between(epoch, since.offset, position.offset);
                let offsets: Vec<Published> = missed.iter().map(|(offset, _)| (epoch, *offset)).collect();
                assert_eq!(publications, offsets, "behind {since:?}");
                assert!(missed.len() <= count && missed.iter().map(|(_, bytes)| bytes).sum::<usize>() <= bytes);
                assert!(since.offset <= position.offset);
                return;
            }
            (Some(false), Some(since)) => assert!(self.is_beyond_recovery(&client, since, &position), "{client:?}"),
            (None, None) => {}
            (recovered, since) => panic!("{recovered:?} for {since:?}"),
        }
        self.check_rewound(*rewind as usize, epoch, position.offset, &publications);
    }

    /// Whether a client could not be told that it has recovered.
    fn is_beyond_recovery(&self, client: &Client, since: &Position, position: &Position) -> bool {
        if since.epoch != position.epoch || client.beyond || client.unproven || self.channel.cannot_prove(since.offset)
        {
            return true;
        }
        let missed = self.channel.between(epoch_of(since), since.offset, u64::MAX);
        let bytes: usize = missed.iter().map(|(_, bytes)| bytes).sum();
        missed.len() > self.config.recovery_publications
            || bytes > self.config.recovery_bytes
            || epoch_of(since) < self.channel.epoch()
            || missed.iter().any(|(offset, _)| !self.channel.retained().contains(offset))
    }

    /// The newest, as many as are wanted, retained and allowed.
    fn check_rewound(&self, rewind: usize, epoch: usize, up_to: u64, publications: &[Published]) {
        let all = self.channel.between(epoch, 0, up_to);
        let (older, newest) = all.split_at(all.len().checked_sub(publications.len()).expect("not more than there are"));
        let newest: Vec<Published> = newest.iter().map(|(offset, _)| (epoch, *offset)).collect();
        assert_eq!(publications, newest);
        let wanted = rewind.min(self.config.recovery_publications);
        assert!(publications.len() <= wanted);
        // Those that are on their way come anyway.
        let coming = self.channel.between(epoch, up_to, u64::MAX);
        if let Some((next, first)) = older.last()
            && publications.len() + coming.len() < wanted
            && epoch == self.channel.epoch()
            && !self.too_late
        {
            let bytes = first + all[older.len()..].iter().chain(&coming).map(|(_, bytes)| bytes).sum::<usize>();
            let is_retained = self.channel.retained().contains(next);
            assert!(!is_retained || bytes > self.config.recovery_bytes, "{next} is missing from the newest {rewind}");
        }
    }

    fn check_bounds(&self) {
        let Timeline { held, held_bytes, ring, .. } = &self.timeline;
        let waits_for_something =
            self.timeline.last.is_none() || self.question.is_some() || self.timeline.wants_to_ask();
        assert!(held.is_empty() || waits_for_something, "{} are held back for nothing", held.len());
        assert!(held.len() <= HELD_PUBLICATIONS && *held_bytes <= self.config.recovery_bytes);
        assert_eq!(*held_bytes, held.iter().map(|(_, entry)| entry.bytes).sum::<usize>());
        assert!(ring.len() <= self.config.recovery_publications.min(self.config.size));
        assert!(ring.bytes() <= self.config.recovery_bytes);
        assert_eq!(ring.bytes(), ring.behind(ring.floor()).map(|entry| entry.bytes).sum::<usize>());
    }
}

impl Client {
    /// What the broker could prove for it now.
    fn look(&mut self, channel: &Channel) {
        self.unproven |= self.start.since.as_ref().is_some_and(|since| channel.cannot_prove(since.offset));
    }
}

/// A publication that has been on its way for so long arrives now.
const LATEST: u64 = 400;

fn config() -> impl Strategy<Value = (Numbering, TimelineConfig)> {
    let numbering = prop_oneof![Just(Numbering::Memory), Just(Numbering::Redis), Just(Numbering::Nats)];
    let ttl = prop_oneof![Just(2_000), Just(15_000), Just(600_000)];
    (numbering, 1..12_usize, 1..12_usize, 20..200_usize, ttl, 1_000..60_000_u64, 1_000..15_000_u64).prop_map(
        |(numbering, recovery_publications, size, recovery_bytes, ttl, ring_age, check_interval)| {
            let config = TimelineConfig {
                recovery_publications,
                recovery_bytes,
                size,
                ttl: Duration::from_millis(ttl),
                ring_age: Duration::from_millis(ring_age),
                check_interval: Duration::from_millis(check_interval),
            };
            (numbering, config)
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let since = prop_oneof![
        4 => any::<Index>().prop_map(Since::Known),
        1 => Just(Since::Newest),
        1 => (1..4_u64).prop_map(Since::Beyond),
    ];
    prop_oneof![
        12 => (0..3_u64, 1..30_usize).prop_map(|(others, bytes)| Step::Publish { others, bytes }),
        2 => (1..4_u64).prop_map(Step::Others),
        12 => (1..5_usize, prop::bool::weighted(0.2))
            .prop_map(|(count, last_is_lost)| Step::Arrive { count, last_is_lost }),
        6 => Just(Step::Consider),
        8 => prop::bool::weighted(0.15).prop_map(|fails| Step::Answer { fails }),
        6 => (1..600_u64).prop_map(Step::Pass),
        2 => (600..20_000_u64).prop_map(Step::Pass),
        1 => Just(Step::Interrupt),
        2 => Just(Step::Resume),
        1 => Just(Step::NewEpoch),
        8 => (proptest::option::weighted(0.8, since), 0..8_u32)
            .prop_map(|(since, rewind)| Step::Subscribe { since, rewind }),
        1 => Just(Step::GiveBack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_doubled_disordered_or_missing_without_a_word(
        (numbering, config) in config(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(numbering, config);
        for step in &steps {
            world.step(step);
        }
        world.settle();
    }

    #[test]
    fn a_storm_of_clients_that_come_back_is_served_by_two_reads(
        (numbering, config) in config(),
        steps in prop::collection::vec(step(), 1..60),
        since in any::<Index>(),
        rewind in 0..8_u32,
        clients in 2..20_usize,
        publications in 0..5_usize,
    ) {
        let mut world = World::new(numbering, config);
        for step in &steps {
            world.step(step);
        }
        world.settle();
        world.reads = 0;
        let since = since.get(&world.known).clone();
        for _ in 0..clients {
            world.come_back(Some(since.clone()), rewind);
        }
        for _ in 0..publications {
            world.step(&Step::Publish { others: 1, bytes: 10 });
            world.step(&Step::Arrive { count: 1, last_is_lost: false });
        }
        world.arrive_all();
        world.pass(50);
        prop_assert!(world.clients.iter().all(Option::is_none));
        prop_assert!(world.reads <= 2, "{} reads", world.reads);
    }
}
