//! Who is told of alerts: a receiver of webhooks that sometimes refuses, and what it must have got by the outbox.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::draw::Draw;
use crate::naive::alerts::AlertPlace;
use crate::plan::Plan;
use crate::store::add_alert;

/// What tells a notification from others: the alert, what happened, and as of when.
type Key = (String, String, u64);

/// A receiver of webhooks.
pub struct Receiver {
    address: String,
    got: Arc<Mutex<Got>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Got {
    /// How often each was taken.
    taken: BTreeMap<Key, u64>,
    /// How often each was taken, and the answer was lost.
    unanswered: BTreeMap<Key, u64>,
}

/// What the receiver does with a request.
enum Answer {
    Takes,
    TakesAndSaysNothing,
    Refuses,
}

impl Receiver {
    pub fn start(plan: &Plan, runtime: &Handle) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let got: Arc<Mutex<Got>> = Arc::default();
        let draw = Arc::new(Mutex::new(Draw::new(plan.seed, 12)));
        let to = got.clone();
        let task = runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = match draw.lock().below(12) {
                    0 => Answer::TakesAndSaysNothing,
                    1 => Answer::Refuses,
                    _ => Answer::Takes,
                };
                let to = to.clone();
                tokio::spawn(async move {
                    // A sender that goes away says what it has to say again.
                    let _ = serve(stream, answer, &to).await;
                });
            }
        });
        Self { address, got, task }
    }

    /// The route to it: each notification by itself and at once, since plans are short.
    pub fn config(&self) -> String {
        format!(
            "[alerts]\nnotify_max_age = \"36500d\"\n[[route]]\nname = \"hook\"\ngroup_wait = \"0s\"\n[route.webhook]\nurl = \"http://{}/\"\n",
            self.address
        )
    }

    /// Compares what came with the outbox in a folder after so many starts. Gives the alerts of the outbox as they are at
    /// last, and how many notifications were taken.
    pub fn check(&self, outbox: &Path, starts: u64) -> Result<(BTreeMap<AlertPlace, String>, u64), String> {
        let Outbox { last, due, done, unchanged } = read(outbox)?;
        let got = self.got.lock();
        for (key, is_done) in due.iter().map(|(number, key)| (key, done.contains(number))) {
            if is_done && !unchanged.contains(key) && !got.taken.contains_key(key) {
                return Err(format!("a notification is noted as sent and was not: {key:?}"));
            }
        }
        for (key, times) in &got.taken {
            if !due.iter().any(|(_, other)| other == key) {
                return Err(format!("a notification came that the outbox does not know: {key:?}"));
            }
            // Once, once more for each answer that was lost, and for each start that ended just then.
            let most = starts + got.unanswered.get(key).copied().unwrap_or(0);
            if *times > most {
                return Err(format!("a notification came {times} times, at most {most} expected: {key:?}"));
            }
        }
        let mut alerts = BTreeMap::new();
        last.values().try_for_each(|alert| add_alert(&mut alerts, alert))?;
        Ok((alerts, got.taken.len() as u64))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes one request.
async fn serve(mut stream: TcpStream, answer: Answer, got: &Mutex<Got>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let body = loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        let Some(head) = request.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if request.len() >= head + 4 + length.unwrap_or(0) {
            break request.split_off(head + 4);
        }
    };
    if matches!(answer, Answer::Refuses) {
        return stream.write_all(b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    }
    let event: Value = serde_json::from_slice(&body).expect("a notification is JSON");
    let key = key(&event);
    {
        let mut got = got.lock();
        *got.taken.entry(key.clone()).or_default() += 1;
        if matches!(answer, Answer::TakesAndSaysNothing) {
            *got.unanswered.entry(key).or_default() += 1;
            return Ok(());
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await
}

/// Of an event with its alert.
fn key(event: &Value) -> Key {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&event["alert"]["id"]), text(&event["kind"]), event["as_of"].as_u64().unwrap_or(0))
}

/// What an outbox says.
#[derive(Default)]
struct Outbox {
    /// What was last said of each alert.
    last: BTreeMap<String, Value>,
    /// Who is to be told, by number.
    due: Vec<(u64, Key)>,
    /// The numbers of those of which nothing more is to be done.
    done: Vec<u64>,
    /// Amendments that read as before: nobody need be told.
    unchanged: BTreeSet<Key>,
}

/// What people read of an alert.
fn read_of(alert: &Value) -> Value {
    let strongest = ["key", "start", "value"].map(|name| alert["strongest"][name].clone());
    let names = ["severity", "state", "start", "end", "keys", "key_count", "windows", "summary"];
    json!([names.map(|name| alert[name].clone()), strongest])
}

/// Reads the lines of the journal: a checksum and JSON.
fn read(outbox: &Path) -> Result<Outbox, String> {
    let mut found = Outbox::default();
    let Ok(text) = std::fs::read_to_string(outbox.join("journal")) else { return Ok(found) };
    let mut next = 1;
    for line in text.lines() {
        let (_, json) = line.split_at_checked(9).ok_or("a line of the outbox without a checksum")?;
        let record: Value = serde_json::from_str(json).map_err(|e| format!("the outbox: {e}: {line}"))?;
        if let Some(number) = record["Next"].as_u64() {
            next = number;
        } else if let Some(number) = record["Done"]["number"].as_u64() {
            found.done.push(number);
        } else if record["Said"].is_object() {
            let event = &record["Said"]["notice"]["event"];
            if record["Said"]["routes"].as_array().is_some_and(|routes| !routes.is_empty()) {
                found.due.push((next, key(event)));
                if event["kind"] == "amended" && read_of(&event["alert"]) == read_of(&event["previous"]) {
                    found.unchanged.insert(key(event));
                }
            }
            found.last.insert(event["alert"]["id"].to_string(), event["alert"].clone());
            next += 1;
        }
    }
    Ok(found)
}
