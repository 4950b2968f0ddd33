use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::HistoryRange;

const ALL: HistoryRange = HistoryRange::Before(None);
const ROOMY: Bounds = Bounds { channels: 100, bytes: 1 << 20, ids: 100 };

/// Namespace `log` with 5 publications for a minute, `brief` with 100 for a second; ids are known for 10 s.
struct Test {
    retained: Retained,
    now: Instant,
}

impl Test {
    fn new(bounds: Bounds) -> Self {
        let retention = |size, seconds| Retention { size, ttl: Duration::from_secs(seconds) };
        let options = HistoryOptions {
            namespaces: [("log".into(), retention(5, 60)), ("brief".into(), retention(100, 1))].into(),
            dedupe_window: Duration::from_secs(10),
            ..HistoryOptions::default()
        };
        Self { retained: Retained::new(options, bounds), now: Instant::now() }
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }

    /// The offset and the one before, or the offset of the first with this id.
    fn append(&mut self, channel: &str, id: Option<&str>) -> Result<(u64, Option<u64>), u64> {
        let body = Body::new(vec![0; 100]);
        match self.retained.append(self.now, &key(channel), id, body, 1).unwrap() {
            Appended::New(live) => Ok((live.position.offset, live.previous)),
            Appended::Known(position) => Err(position.offset),
        }
    }

    /// The offsets, where the channel stands, and whether it is whole.
    fn read(&mut self, channel: &str, range: HistoryRange) -> (Vec<u64>, u64, bool) {
        let (tenant, channel) = Arc::unwrap_or_clone(key(channel));
        let read = HistoryRead { tenant, channel, range, max_publications: 1_000, max_bytes: 1 << 20 };
        let page = self.retained.read(self.now, &read).unwrap();
        let offsets = page.publications.iter().map(|record| record.offset).collect();
        let standing = self.stands(read.channel.as_str()).unwrap();
        assert!(standing.position == page.position && (range != ALL || standing.empty == page.publications.is_empty()));
        (offsets, page.position.offset, page.whole)
    }

    fn stands(&mut self, channel: &str) -> Result<Standing, Channel> {
        let channels = [Arc::unwrap_or_clone(key(channel))];
        self.retained.stand(self.now, &channels).map(|mut standings| standings.remove(0)).map_err(Channel::clone)
    }
}

fn key(channel: &str) -> ChannelKey {
    Arc::new((Tenant::default(), Channel::parse(channel).unwrap()))
}

#[test]
fn keeps_as_many_as_the_namespace_says_for_as_long_as_it_says() {
    let mut test = Test::new(ROOMY);
    for n in 1..=7 {
        assert_eq!(test.append("log:a", None), Ok((n, Some(n - 1))));
        assert_eq!(test.append("brief:a", None), Ok((n, Some(n - 1))));
        test.wait(100);
    }
    assert_eq!(test.read("log:a", ALL), ((3..=7).collect(), 7, true));
    assert_eq!(test.read("brief:a", ALL), ((1..=7).collect(), 7, true));
    test.wait(400);
    assert_eq!(test.read("brief:a", HistoryRange::After(0)), ((3..=7).collect(), 7, false));
    assert_eq!(test.read("brief:a", HistoryRange::After(2)), ((3..=7).collect(), 7, true));
    test.wait(500);
    assert_eq!(test.read("brief:a", HistoryRange::After(7)), (vec![], 7, true));
    assert_eq!(test.read("brief:a", HistoryRange::After(6)), (vec![], 7, false));
    assert_eq!(test.append("brief:a", None), Ok((8, Some(7))));
    assert!(test.retained.append(test.now, &key("live:a"), None, Body::default(), 1).is_none());
    assert_eq!(test.stands("live:a"), Err(key("live:a").1.clone()));
}

#[test]
fn an_id_is_known_for_the_window_and_on_its_channel() {
    let mut test = Test::new(Bounds { ids: 2, ..ROOMY });
    assert_eq!(test.append("brief:a", Some("x")), Ok((1, Some(0))));
    test.wait(9_999);
    assert_eq!(test.append("brief:a", Some("x")), Err(1), "although it is not retained any more");
    assert_eq!(test.append("brief:b", Some("x")), Ok((1, Some(0))));
    test.wait(1);
    assert_eq!(test.append("brief:a", Some("x")), Ok((2, Some(1))));
    assert_eq!(test.append("brief:a", Some("y")), Ok((3, Some(2))));
    assert_eq!(test.append("brief:b", Some("x")), Ok((2, Some(1))), "the third id was one too many");
}

#[test]
fn offsets_never_come_again_although_channels_are_forgotten() {
    let mut test = Test::new(Bounds { channels: 2, ..ROOMY });
    for n in 1..=4 {
        assert_eq!(test.append("brief:a", None), Ok((n, Some(n - 1))));
    }
    test.wait(500);
    assert_eq!(test.append("brief:b", None), Ok((1, Some(0))));
    assert_eq!(test.read("brief:c", ALL), (vec![], 0, true));
    test.wait(500);
    // The third channel takes the place of the first, which is empty.
    assert_eq!(test.append("brief:c", None), Ok((1, Some(0))));
    assert_eq!(test.read("brief:b", ALL), (vec![1], 1, true));
    assert_eq!(test.read("brief:a", HistoryRange::After(3)), (vec![], 4, false));
    assert_eq!(test.read("brief:a", HistoryRange::After(4)), (vec![], 4, true));
    // Where all have publications, the oldest one goes; what was before is not known.
    assert_eq!(test.append("brief:a", None), Ok((5, None)));
    assert_eq!(test.read("brief:b", HistoryRange::After(0)), (vec![], 4, false));
    assert_eq!(test.read("brief:a", HistoryRange::After(4)), (vec![5], 5, true));
    assert_eq!(test.append("brief:a", None), Ok((6, Some(5))));
    assert_eq!(test.retained.channels.len(), 2);
}

#[test]
fn bytes_are_bounded_over_all_channels() {
    let mut test = Test::new(Bounds { bytes: 4 * (100 + RECORD_OVERHEAD), ..ROOMY });
    for _ in 0..3 {
        test.append("log:a", None).unwrap();
        test.wait(1);
        test.append("brief:b", None).unwrap();
        test.wait(1);
    }
    assert_eq!(test.read("log:a", HistoryRange::After(0)), (vec![2, 3], 3, false));
    assert_eq!(test.read("brief:b", HistoryRange::After(0)), (vec![2, 3], 3, false));
    test.wait(60_000);
    test.read("log:a", ALL);
    assert_eq!(test.retained.bytes, 0);
}

#[test]
fn what_is_kept_for_order_does_not_grow_with_what_was_published() {
    let mut test = Test::new(ROOMY);
    test.append("log:quiet", None).unwrap();
    for _ in 0..10_000 {
        test.append("log:loud", None).unwrap();
    }
    for _ in 0..1_000 {
        test.wait(1_000);
        test.append("brief:a", None).unwrap();
    }
    let marks: usize = test.retained.expiries.values().map(|expiry| expiry.marks.len()).sum();
    assert!(marks < 2 * SPARE_MARKS, "{marks} marks");
    assert!(test.retained.idle.len() <= 3);
    assert_eq!(test.retained.bytes, 100 + RECORD_OVERHEAD);
}

#[test]
fn a_new_beginning_is_another_epoch() {
    let mut test = Test::new(ROOMY);
    test.append("log:a", Some("x")).unwrap();
    let before = test.stands("log:a").unwrap();
    test.retained.begin_anew();
    let after = test.stands("log:a").unwrap();
    assert!((after.position.offset, after.empty) == (0, true) && after.position.epoch != before.position.epoch);
    assert_eq!(test.append("log:a", Some("x")), Ok((1, Some(0))));
}

/// Whatever is published, asked for and forgotten, in any order: what is said to be whole is whole, what a publication says
/// of the one before it is true, nothing that should be retained is missing, and no offset comes twice.
#[test]
fn random_walks_never_claim_more_than_is_true() {
    const CHANNELS: [&str; 4] = ["log:a", "log:b", "brief:a", "brief:b"];
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let channels = random.usize(2..=4);
        let bytes = random.usize(4..30) * (100 + RECORD_OVERHEAD);
        let mut test = Test::new(Bounds { channels, bytes, ids: 3 });
        // Everything that was ever published.
        let mut all: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for _ in 0..200 {
            let channel = CHANNELS[random.usize(..CHANNELS.len())];
            let published = all.entry(channel).or_default();
            match random.u8(..10) {
                0..4 => {
                    let id = random.bool().then(|| random.u8(..4).to_string());
                    match test.append(channel, id.as_deref()) {
                        Err(known) => assert!(published.contains(&known), "seed {seed}"),
                        Ok((offset, previous)) => {
                            let last = published.last().copied().unwrap_or(0);
                            assert!(offset > last, "seed {seed}: {offset} after {last}");
                            assert!(previous.is_none_or(|previous| previous == last), "seed {seed}: {previous:?}");
                            published.push(offset);
                        }
                    }
                }
                4..6 => test.wait(random.u64(..700)),
                _ => {
                    let last = published.last().copied().unwrap_or(0);
                    let after = random.u64(..=last + 2);
                    let (offsets, stands, whole) = test.read(channel, HistoryRange::After(after));
                    assert!(stands >= last, "seed {seed}: it stands at {stands}, and {last} was published");
                    let behind: Vec<u64> = published.iter().copied().filter(|offset| *offset > after).collect();
                    assert!(behind.ends_with(&offsets), "seed {seed}: {offsets:?} of {behind:?} behind {after}");
                    assert!(!whole || behind == offsets, "seed {seed}: {offsets:?} of {behind:?} behind {after}");
                    // Where no channel is forgotten, it is known.
                    let is_whole = behind == offsets && after <= last;
                    assert!(
                        channels < 4 || whole == is_whole,
                        "seed {seed}: {offsets:?} behind {after}, {published:?}"
                    );
                }
            }
            assert!(test.retained.channels.len() <= channels && test.retained.bytes <= bytes, "seed {seed}");
        }
    }
}
