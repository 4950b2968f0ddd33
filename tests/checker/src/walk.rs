//! One client on one channel, event by event.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    Delivered, Gap, Kind, Position, Rules, Subscribed,
    client_log::Event,
    order::{Numbering, Order},
    publisher_log::Outcome,
    report::context,
    run::{Attempts, Findings},
};

/// How many ids of a hole are named.
const NAMED: usize = 5;

/// Goes through everything that came to a client on a channel.
pub(crate) fn walk<'a>(
    client: &'a str,
    channel: &'a str,
    events: &'a [(Duration, Event)],
    order: &'a Order,
    attempts: &'a Attempts,
    rules: &'a Rules,
) -> Walk<'a> {
    let mut walk = Walk {
        client,
        channel,
        events,
        order,
        attempts,
        rules,
        none: Numbering::default(),
        standing: None,
        findings: Findings::default(),
    };
    for (index, (at, event)) in events.iter().enumerate() {
        match event {
            Event::Subscribed(subscribed) => walk.subscribed(index, *at, subscribed),
            Event::Delivered(delivered) => {
                walk.findings.summary.pushed += 1;
                walk.delivered(index, delivered);
                if let Some(standing) = &mut walk.standing {
                    standing.recovering = false;
                }
            }
            Event::Gap(gap) => walk.gap(index, *at, gap),
            Event::Unsubscribed => walk.leave(),
            Event::Disconnected => {}
        }
    }
    walk.end();
    walk
}

pub(crate) struct Walk<'a> {
    client: &'a str,
    channel: &'a str,
    events: &'a [(Duration, Event)],
    order: &'a Order,
    attempts: &'a Attempts,
    rules: &'a Rules,
    none: Numbering,
    /// Nothing before it first subscribes, and after it gave the channel up.
    standing: Option<Standing>,
    findings: Findings,
}

/// What a subscribed client has.
struct Standing {
    epoch: Arc<str>,
    /// It has everything up to here that it was owed, but for `skipped`.
    offset: u64,
    seen: HashSet<u64>,
    /// What newer publications came before, and with which event that showed.
    skipped: BTreeMap<u64, Skip>,
    /// `recovered: true` was said, and nothing has been pushed since.
    recovering: bool,
}

struct Skip {
    promised: bool,
    index: usize,
}

impl Standing {
    fn new(position: &Position) -> Self {
        Self {
            epoch: Arc::clone(&position.epoch),
            offset: position.offset,
            seen: HashSet::new(),
            skipped: BTreeMap::new(),
            recovering: false,
        }
    }

    fn position(&self) -> Position {
        Position { offset: self.offset, epoch: Arc::clone(&self.epoch) }
    }
}

impl<'a> Walk<'a> {
    pub(crate) fn into_findings(self, all: &mut Findings) {
        let Findings { violations, summary } = self.findings;
        all.violations.extend(violations);
        let sum = &mut all.summary;
        sum.pushed += summary.pushed;
        sum.in_replies += summary.in_replies;
        sum.recovered += summary.recovered;
        sum.not_recovered += summary.not_recovered;
        sum.gaps += summary.gaps;
        sum.excused += summary.excused;
    }

    fn subscribed(&mut self, index: usize, at: Duration, subscribed: &Subscribed) {
        let Subscribed { since, recovered, publications, position } = subscribed;
        self.findings.summary.in_replies += publications.len();
        let Some(position) = position else {
            return self.wrong(Kind::NoPosition, index, "subscribed without a position".to_owned());
        };
        self.check_since(index, since.as_ref());
        match since {
            None => self.begin(position, publications),
            Some(since) => {
                if self.standing.is_none() {
                    self.standing = Some(Standing::new(since));
                }
                if recovered.is_none() {
                    let detail = format!("came back with {since}, and is not told whether it was recovered");
                    self.wrong(Kind::NotAnswered, index, detail);
                }
                if *recovered == Some(false) {
                    self.findings.summary.not_recovered += 1;
                    self.missed(index, at, position, publications.first());
                } else {
                    self.findings.summary.recovered += 1;
                    self.whole(index, position);
                }
            }
        }
        for delivered in publications {
            self.delivered(index, delivered);
        }
        self.reach(index, position);
    }

    /// The client's own part: it comes back with what it has.
    fn check_since(&mut self, index: usize, since: Option<&Position>) {
        let own = self.standing.as_ref().map(Standing::position);
        let detail = match (own, since) {
            (Some(own), Some(since)) if own != *since => format!("came back with {since}, but stood at {own}"),
            (Some(own), None) => format!("came back without a position, but stood at {own}"),
            _ => return,
        };
        self.wrong(Kind::ClientFault, index, detail);
    }

    /// It subscribed anew, perhaps with the newest publications.
    fn begin(&mut self, position: &Position, publications: &[Delivered]) {
        let mut start = position.clone();
        if let Some(first) = publications.first().and_then(|first| first.position.as_ref()) {
            start.offset = first.offset.saturating_sub(1);
        }
        self.standing = Some(Standing::new(&start));
    }

    /// It is promised everything behind where it stands.
    fn whole(&mut self, index: usize, position: &Position) {
        let standing = self.standing.as_mut().expect("whoever comes back stands somewhere");
        standing.recovering = true;
        if standing.epoch != position.epoch {
            let detail = format!("recovered from {} to {position}, which is another numbering", standing.position());
            self.wrong(Kind::EpochChanged, index, detail);
            self.standing = Some(Standing::new(position));
        }
    }

    /// It is told that it misses something. What comes next is behind `position`, or the reply's own publications.
    fn missed(&mut self, index: usize, at: Duration, position: &Position, first: Option<&Delivered>) {
        let mut to = position.clone();
        if let Some(first) = first.and_then(|first| first.position.as_ref()) {
            to.offset = first.offset.saturating_sub(1);
        }
        let standing = self.standing.as_ref().expect("whoever comes back stands somewhere");
        let (own, same_epoch) = (standing.position(), standing.epoch == to.epoch);
        if self.rules.failed_over && !same_epoch {
            // The old numbering's end is nobody's to know.
        } else if !same_epoch {
            let detail = format!("stood at {own} and is sent to {to}, but the broker did not fail over");
            self.wrong(Kind::EpochChanged, index, detail);
        } else if let Err(reason) = self.rules.missable(self.numbering(&own.epoch), own.offset, at) {
            self.wrong(Kind::UnprovenMiss, index, format!("told that it misses something behind {own}, but {reason}"));
        }
        if same_epoch && to.offset < own.offset {
            self.wrong(Kind::Disorder, index, format!("stood at {own} and is sent back to {to}"));
        }
        self.findings.summary.excused += self.numbering(&own.epoch).between(own.offset, to.offset + 1).count();
        self.go_to(&to);
    }

    /// Goes on at a position; what was skipped before stays skipped.
    fn go_to(&mut self, to: &Position) {
        let standing = self.standing.as_mut().expect("only who stands somewhere goes on");
        if standing.epoch == to.epoch {
            standing.offset = to.offset;
            standing.recovering = false;
        } else {
            self.report_skipped();
            self.standing = Some(Standing::new(to));
        }
    }

    fn delivered(&mut self, index: usize, delivered: &Delivered) {
        let id = &delivered.id;
        let Some(attempt) = self.attempts.get(self.channel, id) else {
            return match self.attempts.channel_of(id) {
                Some(other) => self.wrong(Kind::ForeignChannel, index, format!("{id} was published on {other}")),
                None => self.wrong(Kind::NeverPublished, index, format!("nobody published {id}")),
            };
        };
        if attempt.outcome == Outcome::Refused {
            self.wrong(Kind::RefusedButPublished, index, format!("the broker said that it does not have {id}"));
        }
        if attempt.body != delivered.body {
            self.wrong(Kind::WrongData, index, format!("the data of {id} is not what was published"));
        }
        let Some(position) = &delivered.position else {
            return self.wrong(Kind::NoPosition, index, format!("{id} has no position"));
        };
        let Some(standing) = &mut self.standing else {
            return self.wrong(Kind::NotSubscribed, index, format!("{id} came without a subscription"));
        };
        if standing.epoch != position.epoch {
            let detail = format!("{id} is at {position}, the client stood at {}", standing.position());
            self.wrong(Kind::EpochChanged, index, detail);
            self.report_skipped();
            self.standing = Some(Standing::new(position));
            return;
        }
        if position.offset > standing.offset {
            self.skip(index, position.offset);
            let standing = self.standing.as_mut().expect("it was there before");
            standing.offset = position.offset;
            standing.seen.insert(position.offset);
            return;
        }
        let (kind, detail) = if !standing.seen.insert(position.offset) {
            (Kind::Duplicate, format!("{id} at {position} came again"))
        } else if standing.skipped.remove(&position.offset).is_some() {
            (Kind::Disorder, format!("{id} at {position} came behind {}", standing.offset))
        } else {
            (Kind::Disorder, format!("{id} at {position} is older than where the client began or was sent to"))
        };
        self.wrong(kind, index, detail);
    }

    /// The reply says that the subscription stands here: everything up to it has come.
    fn reach(&mut self, index: usize, position: &Position) {
        let Some(standing) = &self.standing else { return };
        if position.offset < standing.offset {
            let detail = format!("stands at {} and is sent back to {position}", standing.position());
            self.wrong(Kind::Disorder, index, detail);
        }
        self.skip(index, position.offset + 1);
        let standing = self.standing.as_mut().expect("it was there before");
        standing.offset = standing.offset.max(position.offset);
    }

    /// Notes what lies between where the client stands and an offset that it got.
    fn skip(&mut self, index: usize, end: u64) {
        let Some(standing) = &mut self.standing else { return };
        let numbering = self.order.numbering(&standing.epoch).unwrap_or(&self.none);
        let promised = standing.recovering;
        let skipped = numbering.between(standing.offset, end).map(|(offset, _)| (offset, Skip { promised, index }));
        standing.skipped.extend(skipped);
    }

    fn gap(&mut self, index: usize, at: Duration, gap: &Gap) {
        self.findings.summary.gaps += 1;
        let (Some(from), Some(to)) = (&gap.from, &gap.to) else {
            if !self.rules.failed_over {
                self.wrong(Kind::UnprovenMiss, index, format!("a gap without positions, {:?}", gap.reason));
            }
            return;
        };
        let Some(standing) = &self.standing else {
            return self.wrong(Kind::NotSubscribed, index, "a gap without a subscription".to_owned());
        };
        // It is said to have everything up to `from`.
        if from.epoch == standing.epoch && from.offset > standing.offset {
            self.reach(index, from);
        }
        self.missed(index, at, to, None);
    }

    fn leave(&mut self) {
        self.report_skipped();
        self.standing = None;
    }

    /// What has not come by now does not come any more.
    fn end(&mut self) {
        let Some(standing) = &self.standing else { return };
        let index = self.events.len() - 1;
        let numbering = self.numbering(&standing.epoch);
        let rest: Vec<_> = numbering.behind(standing.offset).map(|(offset, _)| offset).collect();
        let later = self.order.epochs().into_iter().skip_while(|epoch| **epoch != standing.epoch).skip(1);
        let later: Vec<_> = later.map(|epoch| format!("everything of the numbering {epoch}")).collect();
        let promised = standing.recovering;
        if let Some(standing) = &mut self.standing {
            standing.skipped.extend(rest.into_iter().map(|offset| (offset, Skip { promised, index })));
        }
        self.report_skipped();
        for detail in later {
            self.wrong(Kind::Lost, index, detail);
        }
    }

    fn report_skipped(&mut self) {
        let Some(standing) = &mut self.standing else { return };
        let (epoch, skipped) = (Arc::clone(&standing.epoch), std::mem::take(&mut standing.skipped));
        for (promised, kind) in [(true, Kind::HoleInRecovery), (false, Kind::Lost)] {
            let offsets: Vec<_> = skipped.iter().filter(|(_, skip)| skip.promised == promised).collect();
            let Some((_, Skip { index, .. })) = offsets.first() else { continue };
            let numbering = self.numbering(&epoch);
            let name = |offset: u64| {
                numbering.at(offset).map_or_else(String::new, |place| format!(" {} at {offset}", place.id))
            };
            let named: String = offsets.iter().take(NAMED).map(|(offset, _)| name(**offset)).collect();
            let more = if offsets.len() > NAMED { " …" } else { "" };
            self.wrong(kind, *index, format!("{} never came:{named}{more}", offsets.len()));
        }
    }

    fn numbering(&self, epoch: &str) -> &Numbering {
        self.order.numbering(epoch).unwrap_or(&self.none)
    }

    fn wrong(&mut self, kind: Kind, index: usize, detail: String) {
        self.findings.add(kind, Some(self.client), self.channel, detail, context(self.events, index));
    }
}
