//! The source's own thread: everything that has to wait for a broker.
//!
//! In: requests of the feeds, librdkafka's log, errors and statistics, and the topics' metadata. Out: news for the
//! feeds. A broker that does not answer delays this thread, never a worker.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use floodmark_dataflows::input::{PartitionIndex, PartitionInfo, Waker};
use parking_lot::Mutex;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{ClientConfig, Offset};

use super::config::KafkaConfig;
use super::feed::PartitionReader;
use super::native::{ClientLog, Consumer, PartitionQueue, WakerCell};
use super::plan::{self, Identities, Planned};
use super::topics::{self, Described};
use crate::sources::{Positions, SourceError, WorkerPlace};

/// A broker counts as silent when it answered no fetch for this long beyond `fetch.wait.max.ms`.
const SILENCE: Duration = Duration::from_secs(3);
/// How often brokers are asked whether the topics are still those that are read.
const IDS_EVERY: Duration = Duration::from_secs(2);

/// What a feed asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    /// `from` is not in the log: find out where to go on.
    Reset {
        /// The offset that the feed wants.
        from: u64,
    },
    /// Read again from an offset: is it still the end?
    Seek {
        /// The offset to read next.
        to: u64,
    },
    /// Nothing more is read of this partition.
    Release,
}

/// What a feed has not heard yet.
#[derive(Default)]
pub(super) struct News {
    /// Partitions found while running.
    pub(super) joined: Vec<PartitionReader>,
    /// Partitions of topics that are no more, and where their logs ended.
    pub(super) gone: Vec<(PartitionIndex, u64)>,
    /// Partitions that go on elsewhere: the offset wanted, and the one read next.
    pub(super) restarted: Vec<(PartitionIndex, u64, u64)>,
    /// The newest state of each partition's broker: what keeps it from being read.
    pub(super) troubles: Option<Vec<Option<String>>>,
}

/// Between a feed and the service.
pub(super) struct FeedLink {
    worker: WorkerPlace,
    consumer: Arc<Consumer>,
    waker: WakerCell,
    log: Mutex<ClientLog>,
    /// In the feed's order; `None` for those of topics that are no more.
    partitions: Mutex<Vec<Option<PartitionInfo>>>,
    news: Mutex<News>,
    has_news: AtomicBool,
    requests: Mutex<Vec<(PartitionIndex, Request)>>,
    /// Requests that failed: asked again with the next statistics, a second later at the most.
    retries: Mutex<Vec<(PartitionIndex, Request)>>,
}

impl FeedLink {
    /// Opens a client for a worker's partitions and starts reading them.
    pub(super) fn open(
        config: &KafkaConfig,
        worker: WorkerPlace,
        plan: &[Planned],
    ) -> Result<(Arc<Self>, Vec<PartitionReader>), SourceError> {
        let consumer = Arc::new(consumer(config.reader(plan.len())?)?);
        let log = ClientLog::of(&consumer)
            .ok_or_else(|| SourceError::Unreachable("no memory for librdkafka's log".to_owned()))?;
        let link = Arc::new(Self {
            worker,
            consumer,
            log: Mutex::new(log),
            waker: Arc::new(OnceLock::new()),
            partitions: Mutex::default(),
            news: Mutex::default(),
            has_news: AtomicBool::new(false),
            requests: Mutex::default(),
            retries: Mutex::default(),
        });
        let readers = link.add(plan)?;
        Ok((link, readers))
    }

    /// Starts reading more partitions.
    fn add(&self, plan: &[Planned]) -> Result<Vec<PartitionReader>, SourceError> {
        let mut list = TopicPartitionList::with_capacity(plan.len());
        let mut readers = Vec::with_capacity(plan.len());
        for Planned { info, start, end, lost_from, .. } in plan {
            let queue = PartitionQueue::open(&self.consumer, &info.topic, info.number, Arc::clone(&self.waker))
                .ok_or_else(|| SourceError::Configuration(format!("\"{}\" cannot be a topic's name", info.topic)))?;
            let reader = PartitionReader::new(info.clone(), queue, *start, *end, *lost_from);
            if !reader.is_ended() {
                add(&mut list, info, *start)?;
            }
            readers.push(reader);
        }
        if list.count() > 0 {
            self.consumer.incremental_assign(&list).map_err(|e| plan::unreachable(&self.consumer, &e))?;
        }
        self.partitions.lock().extend(plan.iter().map(|planned| Some(planned.info.clone())));
        Ok(readers)
    }

    /// Stops reading a topic that is no more. `ends`: where its partitions ended.
    fn leave(&self, topic: &str, ends: &Positions) {
        let mut gone = Vec::new();
        for (index, slot) in self.partitions.lock().iter_mut().enumerate() {
            if let Some(info) = slot.take_if(|info| *info.topic == *topic) {
                self.release(&info);
                gone.push((index, ends.get(&info).copied().unwrap_or(0)));
            }
        }
        self.tell(|news| news.gone.extend(gone));
    }

    fn release(&self, info: &PartitionInfo) {
        let mut list = TopicPartitionList::new();
        let released = add(&mut list, info, 0).map_err(|error| error.to_string());
        let unassign = || self.consumer.incremental_unassign(&list).map_err(|error| error.to_string());
        // Ended before it was assigned: nothing to release, which is what is wanted.
        if let Err(error) = released.and_then(|()| unassign()) {
            tracing::debug!(topic = %info.topic, partition = info.number, error, "not released");
        }
    }

    /// Whether the client may have gone over to another topic of the same name. Records taken before this is asked are
    /// of the right one if the answer is no.
    pub(super) fn reads_another(&self, info: &PartitionInfo) -> bool {
        self.log.lock().hear();
        self.consumer.context().reads_another(info)
    }

    /// Gives librdkafka and the service the means to wake the worker.
    pub(super) fn attach(&self, waker: Waker) {
        waker();
        if self.waker.set(waker).is_err() {
            tracing::error!("a feed was given a second waker; the first one stays");
        }
    }

    /// Asks the service for something.
    pub(super) fn ask(&self, partition: PartitionIndex, request: Request) {
        self.requests.lock().push((partition, request));
    }

    /// What happened since the last call.
    pub(super) fn take_news(&self) -> Option<News> {
        self.has_news.swap(false, Ordering::Acquire).then(|| std::mem::take(&mut *self.news.lock()))
    }

    fn tell(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news.lock());
        self.has_news.store(true, Ordering::Release);
        if let Some(waker) = self.waker.get() {
            waker();
        }
    }
}

fn add(list: &mut TopicPartitionList, info: &PartitionInfo, offset: u64) -> Result<(), SourceError> {
    list.add_partition_offset(&info.topic, info.number, Offset::Offset(offset as i64))
        .map_err(|e| SourceError::Configuration(format!("{}:{}: {e}", info.topic, info.number)))
}

/// A client that reads nothing yet.
pub(super) fn consumer(config: ClientConfig) -> Result<Consumer, SourceError> {
    config
        .create_with_context(super::client::Context::default())
        .map_err(|e| SourceError::Configuration(format!("Kafka client: {e}")))
}

/// What the source, its thread and its feeds share.
pub(super) struct State {
    pub(super) config: KafkaConfig,
    /// A client for everything but reading.
    pub(super) control: Consumer,
    pub(super) live: bool,
    pub(super) ends: Mutex<Positions>,
    /// Why the source cannot go on.
    pub(super) failure: Mutex<Option<String>>,
    /// Everything that is read, by whichever worker; grows in a live run.
    plan: Mutex<Vec<Planned>>,
    /// Who the topics are.
    identities: Mutex<Identities>,
    feeds: Mutex<Vec<Weak<FeedLink>>>,
    stop: AtomicBool,
}

/// The thread. Ends when dropped.
pub(super) struct Service {
    pub(super) state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub(super) fn start(
        config: KafkaConfig,
        control: Consumer,
        live: bool,
        plan: Vec<Planned>,
        identities: Identities,
    ) -> Result<Self, SourceError> {
        let state = Arc::new(State {
            config,
            control,
            live,
            ends: Mutex::default(),
            failure: Mutex::default(),
            plan: Mutex::new(plan),
            identities: Mutex::new(identities),
            feeds: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let thread = std::thread::Builder::new().name("kafka".to_owned()).spawn({
            let state = Arc::clone(&state);
            // A panic is a mistake in this program: it ends the run, since what waits for a broker would wait for ever.
            move || {
                if catch_unwind(AssertUnwindSafe(|| state.run())).is_err() {
                    let why = "the thread of the Kafka source panicked; its message is above";
                    state.failure.lock().get_or_insert_with(|| why.to_owned());
                }
            }
        });
        let thread = thread.map_err(|source| SourceError::Io { context: "starting a thread".to_owned(), source })?;
        Ok(Self { state, thread: Some(thread) })
    }

    /// Opens a worker's share and looks after it from now on.
    pub(super) fn open(&self, worker: WorkerPlace) -> Result<(Arc<FeedLink>, Vec<PartitionReader>), SourceError> {
        // Locked until the feed is listed, so that a partition found meanwhile is in one of the two places.
        let plan = self.state.plan.lock();
        let topics = &self.state.config.topics;
        let share: Vec<Planned> =
            plan.iter().filter(|planned| plan::is_read_by(topics, &planned.info, worker)).cloned().collect();
        let opened = FeedLink::open(&self.state.config, worker, &share)?;
        self.state.ends.lock().extend(share.iter().map(|planned| (planned.info.clone(), planned.log_end)));
        self.state.feeds.lock().push(Arc::downgrade(&opened.0));
        Ok(opened)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the Kafka source's thread panicked");
        }
    }
}

impl State {
    /// Whether the plan has this offset of a partition.
    pub(super) fn covers(&self, partition: &PartitionInfo, offset: u64) -> bool {
        let plan = self.plan.lock();
        let planned = plan.iter().find(|planned| planned.info == *partition);
        planned.is_some_and(|planned| offset >= planned.start && planned.end.is_none_or(|end| offset < end))
    }

    fn run(&self) {
        let interval = self.config.discover_interval.0;
        let mut discover_at = Instant::now() + interval;
        let mut identify_at = Instant::now() + IDS_EVERY;
        while !self.stop.load(Ordering::Acquire) {
            // Serves the client's log, errors and commits, and sets the pace.
            self.control.poll(Duration::from_millis(20));
            let feeds: Vec<Arc<FeedLink>> = self.feeds.lock().iter().filter_map(Weak::upgrade).collect();
            for feed in &feeds {
                while feed.consumer.poll(Duration::ZERO).is_some() {}
                self.hear_statistics(feed);
                self.serve_requests(feed);
            }
            if self.live && Instant::now() >= identify_at {
                let followed = self.config.topics.iter().try_for_each(|topic| self.follow(topic).map(drop));
                if let Err(error) = followed {
                    tracing::debug!("asking who the topics are: {error}");
                }
                if self.is_incomplete() {
                    self.discover();
                }
                identify_at = Instant::now() + IDS_EVERY;
            }
            if self.live && Instant::now() >= discover_at {
                self.discover();
                discover_at = Instant::now() + interval;
            }
        }
    }

    fn hear_statistics(&self, feed: &FeedLink) {
        let Some(statistics) = feed.consumer.context().take_statistics() else { return };
        // Told of another topic before it had figures on it.
        feed.log.lock().hear();
        let partitions = feed.partitions.lock().clone();
        let wait_ms = self.config.fetch_wait_ms();
        let silence_us = SILENCE.as_micros() as i64 + 1000 * wait_ms;
        let trouble = |info: &PartitionInfo| statistics.trouble(&info.topic, info.number, silence_us);
        let troubles = partitions.iter().map(|info| info.as_ref().and_then(trouble)).collect();
        // Wakes the worker once a second in any case.
        feed.tell(|news| news.troubles = Some(troubles));
        feed.requests.lock().append(&mut feed.retries.lock());
        let mut ends = self.ends.lock();
        for info in partitions.into_iter().flatten() {
            if let Some(end) = statistics.end(&info.topic, info.number)
                && !feed.consumer.context().reads_another(&info)
            {
                ends.insert(info, end);
            }
        }
    }

    fn serve_requests(&self, feed: &FeedLink) {
        let requests = std::mem::take(&mut *feed.requests.lock());
        for (index, request) in requests {
            let Some(info) = feed.partitions.lock().get(index).cloned().flatten() else { continue };
            if let Err(error) = self.serve(feed, index, &info, request) {
                tracing::warn!(topic = %info.topic, partition = info.number, "trying again: {error}");
                feed.retries.lock().push((index, request));
            }
        }
    }

    fn serve(
        &self,
        feed: &FeedLink,
        index: PartitionIndex,
        info: &PartitionInfo,
        request: Request,
    ) -> Result<(), SourceError> {
        let failed = |e| plan::unreachable(&feed.consumer, &e);
        let mut list = TopicPartitionList::new();
        match request {
            Request::Reset { from } => {
                if !self.follow(&info.topic)? {
                    return Ok(());
                }
                let (low, high) = plan::bounds(&self.control, info)?;
                if from > high {
                    let message = format!(
                        "{}:{} ends at offset {high}, but {from} was to be read next: was the topic recreated?",
                        info.topic, info.number
                    );
                    self.fail(message);
                    return Ok(());
                }
                let to = from.max(low);
                add(&mut list, info, to)?;
                feed.consumer.incremental_unassign(&list).map_err(failed)?;
                feed.consumer.incremental_assign(&list).map_err(failed)?;
                feed.tell(|news| news.restarted.push((index, from, to)));
            }
            Request::Seek { to } => {
                add(&mut list, info, to)?;
                let sought = feed.consumer.seek_partitions(list, plan::REQUEST_TIMEOUT).map_err(failed)?;
                for element in sought.elements() {
                    match element.error() {
                        // Stopped for an offset that is gone: its `Reset` says where to go on.
                        Err(e) if e.rdkafka_error_code() == Some(RDKafkaErrorCode::State) => {}
                        result => result.map_err(failed)?,
                    }
                }
            }
            Request::Release => feed.release(info),
        }
        Ok(())
    }

    fn fail(&self, message: String) {
        tracing::error!("{message}");
        *self.failure.lock() = Some(message);
    }

    /// Goes over to the topic that has this name now, if it is another one. Says whether the one that is read is there
    /// still: if not, its partitions have been left, or the source has failed.
    fn follow(&self, topic: &str) -> Result<bool, SourceError> {
        let before = self.identities.lock().get(topic).cloned();
        let Some(before) = before.filter(|before| topics::id_of(topic, before).is_some()) else { return Ok(true) };
        let described = topics::describe(&self.control, &[topic.to_owned()])?.pop();
        let Some(Described::Here(Some(id))) = described else { return Ok(true) };
        if topics::id_of(topic, &before) == Some(id.as_str()) {
            return Ok(true);
        }
        let now = topics::identity(topic, Some(&id));
        if !self.live {
            self.fail(format!("topic \"{topic}\" was deleted and made again while it was read: begin again"));
            return Ok(false);
        }
        tracing::error!(
            topic, %before, %now,
            "the topic was deleted and made again: what was not read of the first one is lost; going over to the new one"
        );
        let ends = self.ends.lock().clone();
        let mut plan = self.plan.lock();
        plan.retain(|planned| *planned.info.topic != *topic);
        self.identities.lock().insert(topic.to_owned(), now);
        for feed in self.feeds.lock().iter().filter_map(Weak::upgrade) {
            feed.leave(topic, &ends);
        }
        drop(plan);
        self.discover();
        Ok(false)
    }

    /// Whether a topic was made again and has no partitions here yet, because its leaders were not there at once.
    fn is_incomplete(&self) -> bool {
        let plan = self.plan.lock();
        self.live && self.config.topics.iter().any(|topic| !plan.iter().any(|planned| *planned.info.topic == **topic))
    }

    /// Adds partitions that are new. They are read from their first offset.
    fn discover(&self) {
        let counts = match plan::partition_counts(&self.control, &self.config.topics) {
            Ok(counts) => counts,
            Err(error) => return tracing::warn!("looking for new partitions: {error}"),
        };
        let mut plan = self.plan.lock();
        let identities = self.identities.lock().clone();
        let mut known: BTreeMap<&str, i32> = BTreeMap::new();
        for planned in plan.iter() {
            let count = known.entry(&planned.info.topic).or_default();
            *count = (planned.info.number + 1).max(*count);
        }
        let new: Vec<PartitionInfo> = self
            .config
            .topics
            .iter()
            .zip(counts)
            .flat_map(|(topic, count)| {
                let identity = identities.get(topic).cloned().unwrap_or_else(|| topics::identity(topic, None));
                let new = known.get(topic.as_str()).copied().unwrap_or(0)..count;
                new.map(move |number| plan::info(topic, &identity, number))
            })
            .collect();
        for info in new {
            let (low, high) = match plan::bounds(&self.control, &info) {
                Ok(bounds) => bounds,
                // In order, so that the next attempt begins with this one.
                Err(error) => return tracing::warn!(topic = %info.topic, partition = info.number, "new: {error}"),
            };
            tracing::info!(topic = %info.topic, partition = info.number, "found a new partition");
            let lost_from = (low > 0).then_some(0);
            let planned = Planned { info, start: low, end: None, lost_from, log_end: high };
            if let Err(error) = self.join(&planned) {
                return tracing::warn!("new partition: {error}");
            }
            plan.push(planned);
        }
    }

    fn join(&self, planned: &Planned) -> Result<(), SourceError> {
        for feed in self.feeds.lock().iter().filter_map(Weak::upgrade) {
            if plan::is_read_by(&self.config.topics, &planned.info, feed.worker) {
                let readers = feed.add(std::slice::from_ref(planned))?;
                self.ends.lock().insert(planned.info.clone(), planned.log_end);
                feed.tell(|news| news.joined.extend(readers));
            }
        }
        Ok(())
    }
}
