//! Where channels stand, and what is retained of them.
//!
//! Positions are asked of the stream's leader. A page is whole where it is proven that nothing was lost to retention
//! between where it begins and what it holds; the proof is made after the read, so that it is true of what was read.

use std::{collections::VecDeque, sync::Arc};

use fanfare_protocol::{Channel, NatsSubjects, Position, Tenant};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    NAME,
    api::{ApiFailure, StreamInfo, Which},
    requests::Caller,
    stream::{Stream, Streams},
    stream_config::size_raised,
    walk::{Step, Walk},
};
use crate::{BrokerError, HistoryPage, HistoryRange, HistoryRead, Recorded, Standing};

/// Channels whose last publication is asked for at the same time.
const PIPELINE: usize = 64;

/// How often a read is begun anew because the stream was made anew meanwhile.
const ATTEMPTS: usize = 2;

/// Where channels stand, in the order asked for.
pub(super) async fn positions(
    caller: &Caller,
    subjects: &NatsSubjects,
    streams: &Streams,
    channels: &[(Tenant, Channel)],
) -> Result<Vec<Standing>, BrokerError> {
    let mut wanted: Vec<(Arc<Stream>, Option<Position>)> = Vec::new();
    let mut asked = Vec::with_capacity(channels.len());
    for (tenant, channel) in channels {
        let stream = of_channel(streams, channel)?;
        let place = wanted.iter().position(|(known, _)| Arc::ptr_eq(known, stream)).unwrap_or_else(|| {
            wanted.push((Arc::clone(stream), None));
            wanted.len() - 1
        });
        asked.push((place, subjects.publish(tenant, channel)));
    }
    // Before the channels are asked for: what is published meanwhile lies behind what is taken for an empty channel.
    for (stream, end) in &mut wanted {
        let info = caller.stream_info(stream.name()).await?;
        *end = Some(Position { offset: info.state.last_seq, epoch: stream.learn(&info) });
    }
    let wanted = &wanted;
    stream::iter(asked)
        .map(|(place, subject)| async move {
            let (stream, end) = &wanted[place];
            let last = caller.sequence(stream.name(), Which::Last { last_by_subj: &subject }).await?;
            let end = end.as_ref().expect("every stream was asked above");
            let position = Position { offset: last.unwrap_or(end.offset), epoch: end.epoch.clone() };
            Ok(Standing { position, empty: last.is_none() })
        })
        .buffered(PIPELINE)
        .try_collect()
        .await
}

/// Reads a part of a channel's history.
pub(super) async fn history(
    caller: &Caller,
    subjects: &NatsSubjects,
    streams: &Streams,
    read: &HistoryRead,
) -> Result<HistoryPage, BrokerError> {
    let stream = of_channel(streams, &read.channel)?;
    let subject = subjects.publish(&read.tenant, &read.channel);
    let reading = Reading { caller, stream, subject: &subject, read };
    for _ in 0..ATTEMPTS {
        let page = match read.range {
            HistoryRange::After(after) => reading.after(after).await?,
            HistoryRange::Before(before) => reading.before(before).await?,
        };
        if let Some(page) = page {
            return Ok(page);
        }
    }
    let reason = format!("the stream {} was made anew while it was read", stream.name());
    Err(BrokerError::Refused { broker: NAME, reason })
}

fn of_channel<'a>(streams: &'a Streams, channel: &Channel) -> Result<&'a Arc<Stream>, BrokerError> {
    streams.of_channel(channel).ok_or_else(|| BrokerError::no_history(NAME, channel))
}

struct Reading<'a> {
    caller: &'a Caller,
    stream: &'a Stream,
    subject: &'a str,
    read: &'a HistoryRead,
}

impl Reading<'_> {
    /// `None` where the stream was made anew meanwhile.
    async fn after(&self, after: u64) -> Result<Option<HistoryPage>, ApiFailure> {
        let info = self.caller.stream_info(self.stream.name()).await?;
        let epoch = self.stream.learn(&info);
        let last = self.caller.sequence(self.stream.name(), Which::Last { last_by_subj: self.subject }).await?;
        let target = last.unwrap_or(info.state.last_seq);
        if after > target.max(info.state.last_seq) {
            let position = Position { offset: target, epoch };
            return Ok(Some(HistoryPage { publications: Vec::new(), position, more: false, whole: false }));
        }
        // Where the channel was empty, `after` may be the position of another channel's publication.
        let position = Position { offset: target.max(after), epoch };

        let mut walk = Walk::new(self.caller, self.stream, self.subject, after, target);
        let (mut publications, mut bytes, mut more) = (Vec::new(), 0, false);
        'walk: loop {
            let room = self.read.max_publications - publications.len();
            let steps = walk.next(room, self.read.max_bytes.saturating_sub(bytes)).await?;
            if steps.is_empty() {
                break;
            }
            for Step { seq, bytes: of_this, recorded } in steps {
                more = seq < target;
                if !publications.is_empty() && bytes + of_this > self.read.max_bytes {
                    more = true;
                    break 'walk;
                }
                bytes += of_this;
                publications.extend(recorded);
            }
            if publications.len() >= self.read.max_publications {
                break;
            }
            more = false;
        }
        walk.end().await;
        let mut page = HistoryPage { publications, position, more, whole: false };
        let (info, first) = self.info_and_first().await?;
        let Some(whole) = self.is_whole(after, &page, &info, first).await? else { return Ok(None) };
        page.whole = whole;
        if !whole {
            // The channel may have been trimmed while it was read: between those that are gone others may be missing, whose
            // turn had not come. Behind the oldest that is still there none is. One alone has nothing between.
            let gone = |recorded: &Recorded| first.is_none_or(|first| recorded.offset < first);
            let gone = page.publications.iter().take_while(|recorded| gone(recorded)).count();
            page.publications.drain(..gone.min(page.publications.len().saturating_sub(1)));
        }
        Ok(Some(page))
    }

    /// The stream, and the oldest that is retained on the channel.
    async fn info_and_first(&self) -> Result<(StreamInfo, Option<u64>), ApiFailure> {
        let name = self.stream.name();
        let first = self.caller.sequence(name, Which::Next { seq: 1, next_by_subj: self.subject });
        futures_util::future::try_join(self.caller.stream_info(name), first).await
    }

    /// Whether all that was published on the channel behind `after` was retained until it was read, by the stream as it is
    /// now and the oldest that is now retained on the channel. `None` where the stream was made anew.
    async fn is_whole(
        &self,
        after: u64,
        page: &HistoryPage,
        info: &StreamInfo,
        first: Option<u64>,
    ) -> Result<Option<bool>, ApiFailure> {
        if self.stream.learn(info) != page.position.epoch {
            return Ok(None);
        }
        // A channel is trimmed oldest first: what lies behind a publication that is still there was there until now.
        if first.is_some_and(|first| first <= after) {
            return Ok(Some(true));
        }
        // Else nothing behind `after` may have left the stream by its front, and the channel must never have been full, since
        // its size is what it is.
        if info.state.first_seq > after + 1 || size_raised(&info.config) > after {
            return Ok(Some(false));
        }
        let Some(first) = first else { return Ok(Some(true)) };
        // Full it would have been with publications that are all still there: those of the page, and those that came since.
        let since = info.state.last_seq.saturating_sub(page.position.offset);
        let at_most = page.publications.len() as u64 + since;
        let begins = page.publications.first().is_some_and(|publication| publication.offset == first);
        if !page.more && begins && at_most < size(info) {
            return Ok(Some(true));
        }
        let info = self.caller.stream_info_of(self.stream.name(), self.subject).await?;
        if self.stream.learn(&info) != page.position.epoch {
            return Ok(None);
        }
        Ok(Some(info.state.first_seq <= after + 1 && self.retained(&info) < size(&info)))
    }

    async fn before(&self, before: Option<u64>) -> Result<Option<HistoryPage>, ApiFailure> {
        let name = self.stream.name();
        let info = self.caller.stream_info(name).await?;
        let epoch = self.stream.learn(&info);
        let last = self.caller.stored(name, Which::Last { last_by_subj: self.subject }).await?;
        let offset = last.as_ref().map_or(info.state.last_seq, |last| last.seq);
        let end = before.map_or(offset, |before| before.saturating_sub(1).min(offset));

        let mut newest = match &last {
            None => Newest::new(self.read),
            Some(last) if self.read.max_publications == 1 && end == last.seq => Newest::new(self.read),
            Some(_) => self.newest_until(end).await?,
        };
        let (info, first) = self.info_and_first().await?;
        if self.stream.learn(&info) != epoch {
            return Ok(None);
        }
        // As in `after`; where the oldest that is still there lies behind `end`, nothing that was read has a known place.
        let first = first.unwrap_or(u64::MAX);
        newest.steps.retain(|step| step.seq >= first);
        if let Some(last) = last.filter(|last| last.seq == end && newest.steps.is_empty()) {
            newest.push(last.into());
        }
        let more = newest.steps.front().is_some_and(|oldest| oldest.seq > first);
        let publications: Vec<Recorded> = newest.steps.into_iter().filter_map(|step| step.recorded).collect();
        Ok(Some(HistoryPage { publications, position: Position { offset, epoch }, more, whole: true }))
    }

    /// The newest up to `end`, within the limits of the read.
    async fn newest_until(&self, end: u64) -> Result<Newest, ApiFailure> {
        let mut newest = Newest::new(self.read);
        let mut walk = Walk::new(self.caller, self.stream, self.subject, 0, end);
        // A channel with a few publications is at its end before a consumer is needed.
        while walk.asks_leader() {
            let steps = walk.next(usize::MAX, self.read.max_bytes).await?;
            if steps.is_empty() {
                return Ok(newest);
            }
            steps.into_iter().for_each(|step| newest.push(step));
        }
        // Where the newest begin is found out by headers alone.
        let headers = self.newest(Walk::new(self.caller, self.stream, self.subject, 0, end).headers_only()).await?;
        let start = headers.steps.front().map_or(end, |first| first.seq - 1);
        self.newest(Walk::new(self.caller, self.stream, self.subject, start, end)).await
    }

    async fn newest(&self, mut walk: Walk<'_>) -> Result<Newest, ApiFailure> {
        let mut newest = Newest::new(self.read);
        loop {
            let steps = walk.next(usize::MAX, self.read.max_bytes).await?;
            if steps.is_empty() {
                break;
            }
            steps.into_iter().for_each(|step| newest.push(step));
        }
        walk.end().await;
        Ok(newest)
    }

    /// How many publications the channel has, as the stream's information says that was asked for with its subject.
    fn retained(&self, info: &StreamInfo) -> u64 {
        info.state.subjects.as_ref().and_then(|subjects| subjects.get(self.subject)).copied().unwrap_or_default()
    }
}

/// How many publications a channel may have; without a limit none is ever given up for another.
fn size(info: &StreamInfo) -> u64 {
    let size = info.config["max_msgs_per_subject"].as_i64().unwrap_or(-1);
    u64::try_from(size).ok().filter(|size| *size > 0).unwrap_or(u64::MAX)
}

/// The newest of what was passed over, within the limits of a read.
struct Newest {
    steps: VecDeque<Step>,
    bytes: usize,
    max_publications: usize,
    max_bytes: usize,
}

impl Newest {
    fn new(read: &HistoryRead) -> Self {
        let HistoryRead { max_publications, max_bytes, .. } = *read;
        Self { steps: VecDeque::new(), bytes: 0, max_publications, max_bytes }
    }

    fn push(&mut self, step: Step) {
        self.bytes += step.bytes;
        self.steps.push_back(step);
        while self.steps.len() > self.max_publications || (self.bytes > self.max_bytes && self.steps.len() > 1) {
            let Some(oldest) = self.steps.pop_front() else { return };
            self.bytes -= oldest.bytes;
        }
    }
}
