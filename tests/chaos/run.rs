//! Runs a plan: starts the cluster, lets happen what the plan says, and compares what is there in the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{Debug, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use floodmark::checkpoint::{self, restore, store::CopyStore};
use floodmark::sources::redrive::Redrive;
use floodmark_dataflows::checkpoint::RecordedMark;
use floodmark_dataflows::input::PartitionInfo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::runtime::Handle;

use crate::alerts::Receiver;
use crate::draw::Draw;
use crate::input::REDRIVEN_TIME;
use crate::live::{self, Look};
use crate::naive::alerts::AlertPlace;
use crate::naive::{self, Mark, Model, Outcome, Partition, REDRIVES, canonical, number_of};
use crate::plan::{Damage, End, Incarnation, Plan, Step};
use crate::process::{Process, Signal};
use crate::source::Source;
use crate::store::Store;

/// How long the last incarnation may take, and how long any takes to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a process may live after another one of its cluster was killed.
const ALONE: Duration = Duration::from_secs(15);
/// How long a step waits for records to be read.
const READING: Duration = Duration::from_secs(2);
/// Differences that are shown of each kind.
const SHOWN: usize = 3;
/// What redrives are read by.
const FIXED: &str = "fixed.toml";
/// So much of a document is shown.
const SHOWN_CHARACTERS: usize = 1_200;

/// What happened in plans.
#[derive(Clone, Copy, Debug, Default)]
pub struct Events {
    /// Starts of a cluster.
    pub starts: u64,
    /// Of these, how many went on from a checkpoint beyond the beginning.
    pub restored: u64,
    /// Processes killed.
    pub kills: u64,
    /// Files damaged.
    pub damaged: u64,
    /// Of these, how many a start came across.
    pub noticed: u64,
    /// Plans in which partitions were held.
    pub held: u64,
    /// Corrections among the windows compared.
    pub corrections: u64,
    /// Windows with a score of which enough was learned.
    pub judged: u64,
    /// Of these, with a score of 50 and more.
    pub unusual: u64,
    /// Of these, without records.
    pub silences: u64,
    /// Alerts that hold or held.
    pub alerts: u64,
    /// Notifications that their receiver took.
    pub notified: u64,
    /// Reads of the counts of patterns while plans ran.
    pub looks: u64,
    /// Checkpoints whose counts of patterns were compared.
    pub counted: u64,
    /// Documents of redriven records.
    pub redriven: u64,
    /// Windows of added views.
    pub added: u64,
}

impl Events {
    /// Adds those of another plan.
    pub fn add(&mut self, other: Events) {
        self.starts += other.starts;
        self.restored += other.restored;
        self.kills += other.kills;
        self.damaged += other.damaged;
        self.noticed += other.noticed;
        self.held += other.held;
        self.corrections += other.corrections;
        self.judged += other.judged;
        self.unusual += other.unusual;
        self.silences += other.silences;
        self.alerts += other.alerts;
        self.notified += other.notified;
        self.looks += other.looks;
        self.counted += other.counted;
        self.redriven += other.redriven;
        self.added += other.added;
    }
}

/// Runs a plan in an empty folder. `Err` says what is wrong.
pub fn run(plan: &Plan, folder: &Path, runtime: &Handle) -> Result<Events, String> {
    let mut events = Events::default();
    let records = plan.input.make(&mut Draw::new(plan.seed, 6), plan.model.max_record_bytes);
    let mut source = Source::new(plan, folder, records);
    let mut store = Store::new(plan, folder, runtime);
    let receiver = (!plan.model.alerts.is_empty()).then(|| Receiver::start(plan, runtime));
    let route = receiver.as_ref().map(Receiver::config).unwrap_or_default();
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).map_err(|e| e.to_string());
    let max_bytes = plan.model.max_record_bytes;
    write(FIXED, format!("[records]\nmax_record_bytes = \"{max_bytes}B\"\nfields.timestamp = \"{REDRIVEN_TIME}\"\n"))?;
    source.append(0);
    let mut draw = Draw::new(plan.seed, 7);
    let mut looks = Vec::new();
    for (number, incarnation) in plan.incarnations.iter().enumerate() {
        if let Some(damage) = incarnation.damage {
            let harmed = harm(&folder.join("data/checkpoints"), damage, &mut draw);
            events.damaged += u64::from(harmed.map_err(|e| format!("damaging a file: {e}"))?);
        }
        let config =
            format!("data_dir = \"data\"\n{}{}{route}{}", source.config(), store.config(), plan.config(number));
        write("floodmark.toml", config)?;
        events.starts += 1;
        events.kills += u64::from(matches!(incarnation.end, End::Kill(_)));
        let cluster = Cluster { folder, number, incarnation, plan, processes: Vec::new(), looks: &mut looks };
        cluster.run(&mut source, &mut store)?;
        store.next_incarnation();
        let messages = std::fs::read_to_string(folder.join(format!("messages-{number}-0.txt"))).unwrap_or_default();
        events.restored += u64::from(messages.contains("going on from a checkpoint"));
        events.noticed += u64::from(incarnation.damage.is_some() && messages.contains("damaged"));
    }
    let marks = marks(folder, runtime)?;
    events.held += u64::from(marks.values().flatten().any(|mark| mark.hold > 0));
    let mut expected = expected(plan, &source, marks, folder)?;
    let mut is = store.outcome()?;
    if plan.adds_view.is_some() {
        let from = whole_from(folder, runtime, plan)?;
        for outcome in [&mut expected, &mut is] {
            outcome.windows.retain(|(view, _, start), _| view != "added" || *start >= from);
        }
        events.added += expected.windows.keys().filter(|(view, ..)| view == "added").count() as u64;
    }
    let redriven = |(number, _): &&(i32, u64)| *number >= REDRIVES;
    events.redriven = expected.documents.keys().filter(redriven).count() as u64;
    events.corrections = expected.windows.values().filter(|line| line.contains("previous")).count() as u64;
    note_scores(&mut events, &expected);
    compare(&is, &expected, store.keeps_bytes())?;
    if let Some(receiver) = receiver {
        let (alerts, notified) = receiver.check(&folder.join("data/outbox/0"), events.starts)?;
        compare_alerts("alert of the outbox", &alerts, &expected)?;
        events.notified = notified;
    }
    // What no mark covers yet is read again after a restart, and may be found idle by then, so it may be dated later.
    if plan.idle_after < 60_000 {
        looks.clear();
    }
    looks.iter().try_for_each(|look| live::check_look(look, &expected.counted, plan.model.tick))?;
    events.looks = looks.len() as u64;
    events.counted = u64::from(live::check_checkpoint(folder, runtime, &expected.counted)?);
    Ok(events)
}

fn note_scores(events: &mut Events, expected: &Outcome) {
    events.alerts = expected.alerts.len() as u64;
    for line in expected.windows.values() {
        let document: Value = serde_json::from_str(line).unwrap_or_default();
        let score = &document["score"];
        if score["learning"] == false {
            events.judged += 1;
            let is_unusual = score["score"].as_u64() >= Some(50);
            events.unusual += u64::from(is_unusual);
            events.silences += u64::from(is_unusual && document["count"] == 0);
        }
    }
}

fn compare_alerts(what: &str, is: &BTreeMap<AlertPlace, String>, expected: &Outcome) -> Result<(), String> {
    let mut text = String::new();
    differences(&mut text, what, is, &expected.alerts);
    if text.is_empty() { Ok(()) } else { Err(text) }
}

/// What the reference says.
fn expected(
    plan: &Plan,
    source: &Source,
    mut marks: BTreeMap<i32, Vec<Mark>>,
    folder: &Path,
) -> Result<Outcome, String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let model = Model { arrived_by: now.as_millis() as u64, ..plan.model.clone() };
    let redrives = redrives(folder, &mut marks)?;
    let mut partitions = source.partitions(marks);
    partitions.extend(redrives);
    Ok(naive::expected(&model, &partitions))
}

/// The redrives that were recorded, as partitions.
fn redrives(folder: &Path, marks: &mut BTreeMap<i32, Vec<Mark>>) -> Result<Vec<Partition>, String> {
    let mut found = Vec::new();
    for number in 0.. {
        // One of the copies may be damaged.
        let copies = ["a", "b"].map(|copy| {
            let bytes = std::fs::read(folder.join(format!("data/checkpoints/{copy}/redrives/{number:08}"))).ok()?;
            Some(Redrive::decode(&bytes))
        });
        if copies.iter().all(Option::is_none) {
            break;
        }
        let good = copies.into_iter().flatten().find_map(Result::ok).ok_or(format!("redrive {number} is lost"))?;
        let records = (0..).zip(good.letters.iter().map(|letter| letter.letter.bytes().unwrap_or_default()));
        let origins = good.letters.iter().map(|letter| {
            let origin = letter.origin();
            (origin.topic, origin.partition, origin.offset)
        });
        found.push(Partition {
            records: records.collect(),
            marks: marks.remove(&(REDRIVES + number)).unwrap_or_default(),
            redrive: Some(naive::Redrive {
                number,
                timestamp: REDRIVEN_TIME,
                arrived: good.header.recorded_ms,
                origins: origins.collect(),
            }),
        });
    }
    Ok(found)
}

/// From which time on windows of the view that was added are whole.
fn whole_from(folder: &Path, runtime: &Handle, plan: &Plan) -> Result<u64, String> {
    let store = CopyStore::in_directory(&folder.join("data/checkpoints"), 2).map_err(|e| e.to_string())?;
    let manifest = runtime.block_on(async {
        let newest = restore::choose(&store).await.map_err(|e| e.to_string())?.ok_or("there is no checkpoint")?;
        restore::manifest(&store, newest, false).await.map_err(|e| e.to_string())
    })?;
    let print = manifest.configuration.views.iter().find(|view| view.name == "added");
    // Where none was made since it was added, the last start went on from one without it.
    Ok(print.map_or(manifest.at, |print| print.partial_before) * plan.model.tick)
}

/// The marks that the runs recorded, by partition. All starts of a plan are of one generation, unless they were killed
/// before the first one had begun.
fn marks(folder: &Path, runtime: &Handle) -> Result<BTreeMap<i32, Vec<Mark>>, String> {
    let generation = std::fs::read_to_string(folder.join("data/generation")).map_err(|e| e.to_string())?;
    let generation: u64 = generation.trim().parse().map_err(|_| format!("generation {generation}"))?;
    if generation != 1 {
        return Err(format!("a start began anew: generation {generation}"));
    }
    let store = CopyStore::in_directory(&folder.join("data/checkpoints"), 2).map_err(|e| e.to_string())?;
    let recorded = runtime.block_on(checkpoint::marks::read(&store, generation, 0)).map_err(|e| e.to_string())?;
    let mark = |mark: RecordedMark| Mark { next_offset: mark.next_offset, wall: mark.wall_ms, hold: mark.hold };
    let of_partition = |(info, marks): (PartitionInfo, VecDeque<RecordedMark>)| {
        (number_of(&info.topic, info.number), marks.into_iter().map(mark).collect())
    };
    Ok(recorded.into_iter().map(of_partition).collect())
}

/// Damages all copies of the newest manifest, if there is one before it to go back to.
fn lose_newest(folder: &Path) -> std::io::Result<bool> {
    let mut manifests = BTreeMap::<_, Vec<_>>::new();
    for copy in ["a", "b"] {
        let Ok(entries) = std::fs::read_dir(folder.join(copy)) else { continue };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // One that was being written when its run ended has a number behind its name.
            if name.starts_with("manifest-") && !name.contains('#') {
                manifests.entry(name).or_default().push(entry.path());
            }
        }
    }
    let newest = manifests.pop_last().filter(|_| !manifests.is_empty());
    let Some((_, copies)) = newest else { return Ok(false) };
    copies.iter().try_for_each(|path| std::fs::write(path, b"lost"))?;
    Ok(true)
}

/// Damages one of the files below a folder, or the newest manifest. Returns whether there was any.
fn harm(folder: &Path, damage: Damage, draw: &mut Draw) -> std::io::Result<bool> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            // A file whose copy was not written when its run ended is damaged already.
            let name = path.to_string_lossy().into_owned();
            let copies = [
                name.replace("/checkpoints/a/", "/checkpoints/b/"),
                name.replace("/checkpoints/b/", "/checkpoints/a/"),
            ];
            if path.is_dir() {
                folders.push(path);
            } else if copies.iter().all(|copy| Path::new(copy).exists()) {
                files.push(path);
            }
        }
    }
    // The newest matter most, and their names say when they were made.
    files.sort();
    let Some(last) = files.len().checked_sub(1) else { return Ok(false) };
    let path = &files[if draw.chance(1, 2) {
        last - draw.below(files.len().min(4) as u64) as usize
    } else {
        draw.below(files.len() as u64) as usize
    }];
    let mut bytes = std::fs::read(path)?;
    let at = draw.below(bytes.len().max(1) as u64) as usize;
    match damage {
        Damage::Deleted => return std::fs::remove_file(path).map(|()| true),
        Damage::Emptied => bytes.clear(),
        Damage::CutShort => bytes.truncate(at),
        Damage::ByteChanged => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << draw.below(8)),
        Damage::Zeroed => bytes.fill(0),
        Damage::Longer => bytes.extend_from_slice(b"more"),
        Damage::NewestLost => return lose_newest(folder),
    }
    std::fs::write(path, bytes).map(|()| true)
}

/// An incarnation under way.
struct Cluster<'a> {
    folder: &'a Path,
    number: usize,
    incarnation: &'a Incarnation,
    plan: &'a Plan,
    processes: Vec<Process>,
    looks: &'a mut Vec<Look>,
}

impl Cluster<'_> {
    fn run(mut self, source: &mut Source, store: &mut Store) -> Result<(), String> {
        let Incarnation { steps, end, .. } = self.incarnation;
        if *end == End::OfInput {
            source.append(1_000);
        }
        self.start()?;
        if self.number == 0 {
            // Killed before the first checkpoint, which nothing is read before, it would be as if it had not been.
            self.wait_while_running(PATIENCE, |processes| processes[0].is_up())?;
        }
        for (place, step) in steps.iter().enumerate() {
            let process = place % self.processes.len();
            self.looks.extend(live::look(&mut self.processes[process]));
            match *step {
                Step::Wait(ms) => self.wait_while_running(Duration::from_millis(ms), |_| false)?,
                Step::Read(records) => {
                    let mut first = None;
                    self.wait_while_running(READING, |processes| {
                        let read: u64 = processes.iter_mut().filter_map(Process::records).sum();
                        read >= *first.get_or_insert(read) + records
                    })?;
                }
                Step::Append(thousandths) => source.append(thousandths),
                Step::PauseStore(ms) => store.pause(Duration::from_millis(ms)),
                Step::PauseSource(ms) => source.pause(Duration::from_millis(ms)),
                Step::FailStore(requests) => store.fail(requests),
                Step::Redrive => self.redrive()?,
            }
        }
        if *end == End::Audit {
            source.append(1_000);
            // Documents and dead letters do not depend on marks, but for records that no mark covers.
            let expected = expected(self.plan, source, BTreeMap::new(), self.folder)?;
            self.audit(&expected)?;
            self.looks.extend(live::look(&mut self.processes[0]));
        }
        self.end()
    }

    /// Waits until the audit accounts for everything that is to come of the input.
    fn audit(&mut self, expected: &Outcome) -> Result<(), String> {
        let mut wanted: BTreeMap<i64, (u64, BTreeMap<String, u64>)> = BTreeMap::new();
        for (partition, _) in expected.documents.keys() {
            wanted.entry(i64::from(*partition)).or_default().0 += 1;
        }
        for ((partition, _), (reason, _)) in &expected.dead {
            *wanted.entry(i64::from(*partition)).or_default().1.entry(reason.clone()).or_default() += 1;
        }
        let mut answer = Value::Null;
        let mut is_right = false;
        self.wait_while_running(PATIENCE, |processes| {
            let text = processes[0].get("/audit").unwrap_or_default();
            answer = serde_json::from_str(&text).unwrap_or_default();
            let accounts = answer["partitions"].as_array().into_iter().flatten().map(|account| {
                let dead = account["dead_letters"].as_object().into_iter().flatten();
                let dead = dead.map(|(reason, n)| (reason.clone(), n.as_u64().unwrap_or(0))).collect();
                let partition = account["partition"].as_i64().unwrap_or(-1) as i32;
                let number = number_of(account["topic"].as_str().unwrap_or_default(), partition);
                (i64::from(number), (account["indexed"].as_u64().unwrap_or(0), dead))
            });
            let is: BTreeMap<_, _> = accounts.collect();
            is_right = is == wanted && answer["balanced"] == true && answer["lost"] == 0 && answer["pending"] == 0;
            is_right &= answer["partitions"].as_array().into_iter().flatten().all(|account| account["no_record"] == 0);
            is_right
        })?;
        if is_right {
            return Ok(());
        }
        Err(self.failure(0, &format!("the audit says {answer}, expected (indexed, dead letters) {wanted:?}")))
    }

    /// Has the dead letters redriven that are there and were not before.
    fn redrive(&self) -> Result<(), String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_floodmark"));
        command.args(["dead-letters", "redrive", "--with", FIXED]).current_dir(self.folder).env_clear();
        let output = command.output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() || said.contains("nothing to redrive") {
            true => Ok(()),
            false => Err(self.failure(0, &format!("dead letters cannot be redriven: {said}"))),
        }
    }

    fn log(&self, process: usize) -> PathBuf {
        self.folder.join(format!("messages-{}-{process}.txt", self.number))
    }

    fn start(&mut self) -> Result<(), String> {
        let Incarnation { workers, processes, end, .. } = self.incarnation;
        let hosts: String = free_ports(*processes).iter().map(|port| format!("127.0.0.1:{port}\n")).collect();
        std::fs::write(self.folder.join("hosts"), hosts).map_err(|e| e.to_string())?;
        for process in 0..*processes {
            let mut arguments = vec!["run".to_owned(), "-w".to_owned(), workers.to_string()];
            if *end == End::OfInput {
                arguments.push("--until-end".to_owned());
            }
            if *processes > 1 {
                let flags = ["-n", &processes.to_string(), "-p", &process.to_string(), "-h", "hosts"];
                arguments.extend(flags.map(str::to_owned));
            }
            self.processes.push(Process::start(self.folder, &arguments, self.log(process)));
        }
        Ok(())
    }

    /// Waits for something, but no longer than this; a process that ends meanwhile is a failure, unless all have come
    /// to the end of the input.
    fn wait_while_running(
        &mut self,
        patience: Duration,
        mut is_there: impl FnMut(&mut [Process]) -> bool,
    ) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && !is_there(&mut self.processes) {
            for number in 0..self.processes.len() {
                match self.processes[number].ended() {
                    Some(0) if self.incarnation.end == End::OfInput => return Ok(()),
                    Some(code) => return Err(self.failure(number, &format!("ended by itself with code {code}"))),
                    None => {}
                }
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(())
    }

    fn end(mut self) -> Result<(), String> {
        match self.incarnation.end {
            End::OfInput => {}
            End::Terminate | End::Audit => self.processes.iter().for_each(|process| process.signal(Signal::Terminate)),
            End::Kill(victim) => {
                self.processes[victim].signal(Signal::Kill);
                for number in 0..self.processes.len() {
                    if self.processes[number].wait(ALONE).is_none() {
                        return Err(self.failure(number, &format!("outlives process {victim}, which was killed")));
                    }
                }
                return Ok(());
            }
        }
        for number in 0..self.processes.len() {
            match self.processes[number].wait(PATIENCE) {
                Some(0) => {}
                // SIGTERM came before anything had begun.
                Some(-1) if self.incarnation.end == End::Terminate && !self.processes[number].is_up() => {}
                Some(code) => return Err(self.failure(number, &format!("ended with code {code}"))),
                None => return Err(self.failure(number, "did not end")),
            }
        }
        Ok(())
    }

    fn failure(&self, process: usize, what: &str) -> String {
        let messages = std::fs::read_to_string(self.log(process)).unwrap_or_default();
        let last: Vec<_> = messages.lines().rev().take(8).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        format!("incarnation {}, process {process}: {what}\n{}", self.number, last.join("\n"))
    }
}

/// Ports that nobody listens on, and that no other plan was given: its processes may not have come to theirs yet.
fn free_ports(count: usize) -> Vec<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let (mut given, mut taken, mut ports) = (GIVEN.lock(), Vec::new(), Vec::new());
    while ports.len() < count {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        // Else it may be found again.
        taken.push(listener);
        if given.insert(port) {
            ports.push(port);
        }
    }
    ports
}

fn compare(is: &Outcome, expected: &Outcome, bytes: bool) -> Result<(), String> {
    let mut text = String::new();
    if bytes {
        differences(&mut text, "document", &is.documents, &expected.documents);
    } else {
        let parsed = |line: &String| canonical(&serde_json::from_str(line).expect("the reference writes JSON"));
        let documents = expected.documents.iter().map(|(place, line)| (*place, parsed(line))).collect();
        differences(&mut text, "document", &is.documents, &documents);
    }
    differences(&mut text, "dead letter", &readable(&is.dead), &readable(&expected.dead));
    differences(&mut text, "window", &is.windows, &expected.windows);
    differences(&mut text, "alert", &is.alerts, &expected.alerts);
    if text.is_empty() { Ok(()) } else { Err(text) }
}

fn readable<K: Ord + Clone>(dead: &BTreeMap<K, (String, Vec<u8>)>) -> BTreeMap<K, String> {
    let text = |(reason, raw): &(String, Vec<u8>)| format!("{reason}: {}", raw.escape_ascii());
    dead.iter().map(|(place, letter)| (place.clone(), text(letter))).collect()
}

/// Adds the first differences of a kind, and how many there are.
fn differences<K: Ord + Debug>(
    text: &mut String,
    what: &str,
    is: &BTreeMap<K, String>,
    expected: &BTreeMap<K, String>,
) {
    let mut count = 0;
    let mut differs = |place: &K, is: Option<&String>, expected: Option<&String>| {
        count += 1;
        if count <= SHOWN {
            let shown = |line: Option<&String>| {
                line.map_or("nothing".to_owned(), |line| line.chars().take(SHOWN_CHARACTERS).collect())
            };
            let _ = writeln!(text, "{what} {place:?}:\n  is       {}\n  expected {}", shown(is), shown(expected));
        }
    };
    for (place, line) in expected {
        if is.get(place) != Some(line) {
            differs(place, is.get(place), Some(line));
        }
    }
    for (place, line) in is.iter().filter(|(place, _)| !expected.contains_key(place)) {
        differs(place, Some(line), None);
    }
    if count > 0 {
        let _ = writeln!(text, "{count} {what}s differ, of {} expected and {} there", expected.len(), is.len());
    }
}
