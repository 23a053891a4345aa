//! What is read from where to where, settled with the brokers before reading starts.
//!
//! In: the topics, [`StartAt`] and [`Extent`]. Out: for each partition the first offset to read and, in a bounded run,
//! the first one not to read. A topic or broker that is missing is waited for up to `connect_timeout`, then it is an
//! error. Everything here blocks: it runs when the source is opened and on the source's own thread, never in a worker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::time::Millis;
use rdkafka::Offset;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::config::KafkaConfig;
use super::native::Consumer;
use super::range::{Bounds, Extent, RangeSpec, StartAt, TopicPartition};
use super::topics::{self, Described};
use crate::sources::{Positions, SourceError, WorkerPlace};

/// How long one request may take.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A partition and the part of it that is read.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) info: PartitionInfo,
    /// First offset to read.
    pub(super) start: u64,
    /// First offset not to read; `None` in a live run.
    pub(super) end: Option<u64>,
    /// Where reading was to start, when the broker no longer has that.
    pub(super) lost_from: Option<u64>,
    /// One past the last record that could be read when the source was opened.
    pub(super) log_end: u64,
}

/// The worker that reads a partition: partition `p` of the first topic goes to worker `p % peers`, of the second to
/// `(p + 1) % peers` and so on, so that a partition found later changes no other's worker.
pub(super) fn is_read_by(topics: &[String], info: &PartitionInfo, worker: WorkerPlace) -> bool {
    let topic = topics.iter().position(|topic| **topic == *info.topic).unwrap_or(0);
    (topic + info.number as usize) % worker.peers == worker.index
}

/// Names a partition.
pub(super) fn info(topic: &str, identity: &Arc<str>, number: i32) -> PartitionInfo {
    PartitionInfo { identity: Arc::clone(identity), topic: topic.into(), number }
}

/// The identity of each topic.
pub(super) type Identities = BTreeMap<String, Arc<str>>;

/// Asks who the topics are. One that was known by its name alone stays so, or its records would come a second time
/// under other ids.
fn identities(control: &Consumer, topics: &[String], positions: &Positions) -> Result<Identities, SourceError> {
    let identity = |(topic, described): (&String, Described)| {
        let mut known = positions.keys().filter(|info| *info.topic == **topic);
        let by_name = known.clone().any(|info| info.identity == info.topic);
        match described {
            Described::Missing => Err(missing(topic)),
            Described::Here(None) if !by_name && known.next().is_some() => Err(SourceError::Unreachable(format!(
                "topic \"{topic}\": the brokers do not give its id as they did before"
            ))),
            Described::Here(id) => Ok((topic.clone(), topics::identity(topic, id.filter(|_| !by_name).as_deref()))),
        }
    };
    topics.iter().zip(topics::describe_if_possible(control, topics)?).map(identity).collect()
}

/// The number of partitions of each topic, in the order of the topics.
pub(super) fn partition_counts(control: &Consumer, topics: &[String]) -> Result<Vec<i32>, SourceError> {
    topics.iter().map(|topic| partition_count(control, topic)).collect()
}

fn partition_count(control: &Consumer, topic: &str) -> Result<i32, SourceError> {
    let metadata = control.fetch_metadata(Some(topic), REQUEST_TIMEOUT).map_err(|e| unreachable(control, &e))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let error = found.and_then(|found| found.error()).map(RDKafkaErrorCode::from);
    match (found, error) {
        (Some(found), None) if !found.partitions().is_empty() => Ok(found.partitions().len() as i32),
        (_, Some(error)) if !is_missing(error) => Err(SourceError::Unreachable(format!("topic \"{topic}\": {error}"))),
        _ => Err(missing(topic)),
    }
}

fn missing(topic: &str) -> SourceError {
    SourceError::Configuration(format!("topic \"{topic}\" does not exist; create it, or correct the option \"topics\""))
}

pub(super) fn is_missing(error: RDKafkaErrorCode) -> bool {
    matches!(error, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)
}

/// The error of a request that the brokers did not answer, with what librdkafka complained about last.
pub(super) fn unreachable(control: &Consumer, error: &KafkaError) -> SourceError {
    let reason = control.context().last_error().map(|reason| format!(" ({reason})")).unwrap_or_default();
    SourceError::Unreachable(format!("the Kafka brokers do not answer: {error}{reason}"))
}

/// Repeats what may go better a moment later, until it does or the deadline has passed.
pub(super) fn until<T>(
    deadline: Instant,
    control: &Consumer,
    mut attempt: impl FnMut() -> Result<T, SourceError>,
) -> Result<T, SourceError> {
    loop {
        match attempt() {
            Err(SourceError::OutOfRange(message)) => return Err(SourceError::OutOfRange(message)),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(error) => {
                tracing::info!("waiting for Kafka: {error}");
                // Serves the client's log and errors meanwhile.
                control.poll(Duration::from_millis(500));
            }
            done => return done,
        }
    }
}

/// Settles the plan of a run, and who the topics are, where partitions in `positions` go on there. Asks again until
/// `connect_timeout` has passed.
pub(super) fn settle(
    control: &Consumer,
    config: &KafkaConfig,
    extent: &Extent,
    positions: &Positions,
) -> Result<(Vec<Planned>, Identities), SourceError> {
    let deadline = Instant::now() + config.connect_timeout.0;
    let counts = until(deadline, control, || partition_counts(control, &config.topics))?;
    let there: BTreeSet<TopicPartition> =
        config.topics.iter().zip(&counts).flat_map(|(topic, n)| (0..*n).map(move |p| (topic.clone(), p))).collect();
    let wanted = match extent {
        Extent::Replay(RangeSpec::Offsets(ranges)) => ranges.keys().cloned().collect(),
        _ => there.clone(),
    };
    let named: Vec<&TopicPartition> = match &config.start {
        StartAt::Offsets(offsets) if !matches!(extent, Extent::Replay(_)) => offsets.keys().collect(),
        _ => Vec::new(),
    };
    if let Some((topic, partition)) = wanted.iter().chain(named).find(|partition| !there.contains(partition)) {
        let all: Vec<_> = config.topics.iter().zip(&counts).map(|(t, n)| format!("{t}:0 to {t}:{}", n - 1)).collect();
        let message = format!("there is no partition {topic}:{partition}; there are {}", all.join(", "));
        return Err(SourceError::Configuration(message));
    }
    let settled = until(deadline, control, || {
        // Before the offsets: were a topic made again in between, they would be taken for those of the first one.
        let identities = identities(control, &config.topics, positions)?;
        let plan = ranges(control, config, extent, &wanted, &identities, positions)?;
        Ok((plan, identities))
    })?;
    for (info, position) in positions {
        if let Some(now) = settled.1.get(&*info.topic)
            && *now != info.identity
        {
            tracing::error!(
                topic = %info.topic, partition = info.number, position, before = %info.identity, %now,
                "the topic was deleted and made again: what the first one held from the position on was not read"
            );
        }
    }
    Ok(settled)
}

fn ranges(
    control: &Consumer,
    config: &KafkaConfig,
    extent: &Extent,
    wanted: &BTreeSet<TopicPartition>,
    identities: &Identities,
    positions: &Positions,
) -> Result<Vec<Planned>, SourceError> {
    let earliest = offsets_at(control, wanted, Offset::Beginning)?;
    let latest = offsets_at(control, wanted, Offset::End)?;
    // The first record appended at a time or later; the end where there is none.
    let at_time = |time: Option<Millis>| -> Result<Option<BTreeMap<TopicPartition, u64>>, SourceError> {
        time.map(|ms| offsets_at(control, wanted, Offset::Offset(ms as i64))).transpose()
    };
    let (starts, ends) = match extent {
        Extent::Replay(RangeSpec::Times { from, to }) => (at_time(*from)?, at_time(*to)?),
        Extent::Replay(RangeSpec::Offsets(ranges)) => {
            let side = |pick: fn(&Bounds) -> Option<u64>| {
                ranges.iter().filter_map(|(p, range)| Some((p.clone(), pick(range)?))).collect()
            };
            (Some(side(|range| range.0)), Some(side(|range| range.1)))
        }
        Extent::Live | Extent::UntilEnd => {
            let starts = match &config.start {
                StartAt::Earliest => None,
                StartAt::Latest => Some(latest.clone()),
                StartAt::Time(ms) => {
                    let found = at_time(Some(*ms))?.unwrap_or_default();
                    Some(latest.iter().map(|(p, end)| (p.clone(), *found.get(p).unwrap_or(end))).collect())
                }
                StartAt::Committed => Some(committed(control, wanted)?),
                StartAt::Offsets(offsets) => Some(offsets.clone()),
            };
            (starts, None)
        }
    };
    let is_time = matches!(extent, Extent::Replay(RangeSpec::Times { from: Some(_), .. }));
    let planned = |partition: &TopicPartition| {
        let (topic, number) = partition;
        let missing = || SourceError::Unreachable(format!("{topic}:{number}: the broker gave no offsets"));
        let low = *earliest.get(partition).ok_or_else(missing)?;
        let high = *latest.get(partition).ok_or_else(missing)?;
        let default = if is_time { high } else { low };
        let identity = identities.get(topic).ok_or_else(missing)?;
        let asked = match positions.get(&info(topic, identity, *number)) {
            Some(position) => *position,
            // Made since the topic was last read, which went on with all of its partitions.
            None if positions.keys().any(|info| *info.topic == **topic) => low,
            None => starts.as_ref().map_or(low, |starts| *starts.get(partition).unwrap_or(&default)),
        };
        if asked > high {
            return Err(SourceError::OutOfRange(format!(
                "{topic}:{number} ends at offset {high}, but reading was to start at {asked}: was the topic recreated?"
            )));
        }
        let end = match extent {
            Extent::Live => None,
            _ => Some(ends.as_ref().and_then(|ends| ends.get(partition)).map_or(high, |end| high.min(*end))),
        };
        let (start, lost_from) = if asked < low { (low, Some(asked)) } else { (asked, None) };
        Ok(Planned { info: info(topic, identity, *number), start, end, lost_from, log_end: high })
    };
    wanted.iter().map(planned).collect()
}

/// Asks for one kind of offset of several partitions at once. Times that no record reaches are left out.
fn offsets_at(
    control: &Consumer,
    partitions: &BTreeSet<TopicPartition>,
    at: Offset,
) -> Result<BTreeMap<TopicPartition, u64>, SourceError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition_offset(topic, *partition, at).map_err(|e| unreachable(control, &e))?;
    }
    let found = control.offsets_for_times(list, REQUEST_TIMEOUT).map_err(|e| unreachable(control, &e))?;
    numbers(control, &found)
}

fn committed(
    control: &Consumer,
    partitions: &BTreeSet<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, u64>, SourceError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    let found = control.committed_offsets(list, REQUEST_TIMEOUT).map_err(|e| unreachable(control, &e))?;
    numbers(control, &found)
}

/// The offsets of a list that are numbers.
fn numbers(control: &Consumer, list: &TopicPartitionList) -> Result<BTreeMap<TopicPartition, u64>, SourceError> {
    let mut offsets = BTreeMap::new();
    for element in list.elements() {
        element.error().map_err(|e| unreachable(control, &e))?;
        if let Offset::Offset(offset) = element.offset() {
            offsets.insert((element.topic().to_owned(), element.partition()), offset.max(0) as u64);
        }
    }
    Ok(offsets)
}

/// The first and the end offset of a partition, asked anew.
pub(super) fn bounds(control: &Consumer, info: &PartitionInfo) -> Result<(u64, u64), SourceError> {
    let partition: BTreeSet<TopicPartition> = [(info.topic.to_string(), info.number)].into();
    let first = |offsets: BTreeMap<TopicPartition, u64>| offsets.into_values().next();
    let low = first(offsets_at(control, &partition, Offset::Beginning)?);
    let high = first(offsets_at(control, &partition, Offset::End)?);
    low.zip(high).ok_or_else(|| SourceError::Unreachable("the broker gave no offsets".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_one_worker_that_never_changes() {
        let topics = ["a".to_owned(), "b".to_owned()];
        for peers in 1..5 {
            for (topic, number) in [("a", 0), ("a", 7), ("b", 0), ("b", 1)] {
                let readers = (0..peers).filter(|index| {
                    is_read_by(&topics, &info(topic, &topic.into(), number), WorkerPlace { index: *index, peers })
                });
                assert_eq!(readers.count(), 1, "{topic}:{number} of {peers}");
            }
        }
        assert!(is_read_by(&topics, &info("a", &"a".into(), 5), WorkerPlace { index: 1, peers: 4 }));
        assert!(is_read_by(&topics, &info("b", &"b".into(), 5), WorkerPlace { index: 2, peers: 4 }));
    }
}
