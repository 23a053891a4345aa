//! `floodmark audit`: does the store hold what was read?
//!
//! In: the accounts of the running process (or of a file that holds its answer at `/audit`), the store, the dead letters.
//! Out: a table or JSON; exit code 1 when something does not add up, with the offsets that have no document.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use floodmark_dataflows::output::Reason;
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;

use super::{ConfigArgs, Failure, is_terminal, table};
use crate::api::AuditAnswer;
use crate::audit::Account;
use crate::audit::reconcile::{DeadOffsets, Documents, Finding, Verdict, reconcile};
use crate::config::{Config, StoreChoice};
use crate::dead_letters::each;
use crate::stores::elasticsearch::ElasticsearchStore;
use crate::stores::embedded::EmbeddedStore;
use crate::stores::{Held, Store, ndjson};

/// What was read by the time of the question has this long to be stored.
const PATIENCE: Duration = Duration::from_secs(60);
/// A request has this long to be answered.
const REQUEST_PATIENCE: Duration = Duration::from_secs(120);
/// How often the process is asked whether all is stored.
const EVERY: Duration = Duration::from_millis(250);
/// Offsets that are listed at once.
const LIST: usize = 1_000;
/// Gaps printed of each partition; `--json` has all that are named.
const PRINTED: usize = 20;

/// Hold what was read against what the store has, and name every offset that is missing.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  floodmark audit -c floodmark.toml                    of the process that serves the API of this configuration
  floodmark audit --url http://a:8080                  of the one there: any process of a cluster answers for all
  curl -s localhost:8080/audit > account.json          later, with the process ended:
  floodmark audit -c floodmark.toml --account account.json

Exit codes:
  0  everything adds up
  1  something does not, or could not be asked
  2  the configuration is wrong")]
pub struct AuditArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where the API of the process is, if not where the configuration says; any process of a cluster answers for all
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Take the accounts from this file, an answer of /audit, and ask the store itself: for a process that has ended
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    account: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &AuditArgs) -> Result<(), Failure> {
    let config = args.config.load(&[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let findings = runtime.block_on(findings(args, &config))?;
    let bad = findings.iter().filter(|finding| !finding.adds_up()).count();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print(&findings);
    }
    match bad {
        0 => Ok(()),
        bad => Err(Failure::Running(anyhow!("{bad} of {} partitions do not add up", findings.len()))),
    }
}

async fn findings(args: &AuditArgs, config: &Config) -> anyhow::Result<Vec<Finding>> {
    let (asked, accounts) = if let Some(path) = &args.account {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let answer: AuditAnswer =
            serde_json::from_str(&text).with_context(|| format!("{} is no answer of /audit", path.display()))?;
        (open_store(config)?, answer.partitions)
    } else {
        let url = args.url.clone().unwrap_or_else(|| format!("http://{}", config.own_api().listen));
        let api = Api::new(url.trim_end_matches('/').to_owned())?;
        let accounts = api.accounts().await?;
        (Asked::Api(api), accounts)
    };
    let kept = config.clone();
    let letters = tokio::task::spawn_blocking(move || dead_offsets(&kept)).await??;
    let bar = progress(&accounts);
    let none = DeadOffsets::default();
    let mut findings = Vec::new();
    for account in accounts {
        bar.set_message(format!("{}:{}", account.topic, account.partition));
        let of = (account.identity.clone(), account.partition);
        let dead = letters.get(&of).unwrap_or(&none);
        findings.push(reconcile(account, dead, &asked, |offsets| bar.inc(offsets)).await?);
    }
    bar.finish_and_clear();
    Ok(findings)
}

fn progress(accounts: &[Account]) -> ProgressBar {
    if !is_terminal() {
        return ProgressBar::hidden();
    }
    let length = accounts.iter().map(|a| a.next_offset - a.first_offset.unwrap_or(a.next_offset)).sum();
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} offsets  {msg}") {
        bar.set_style(style);
    }
    bar
}

/// Who is asked what the store holds.
enum Asked {
    Api(Api),
    Store(Arc<dyn Store>),
    /// The files of this name, of all processes.
    Files(PathBuf),
}

impl Documents for Asked {
    async fn held(&self, account: &Account, offsets: Range<u64>) -> anyhow::Result<Held> {
        match self {
            Asked::Store(store) => Ok(store.held(&account.info(), offsets, LIST).await?),
            Asked::Files(logs) => Ok(ndjson::held(logs, &account.info(), offsets, LIST).await?),
            Asked::Api(api) => {
                let query = [
                    ("topic", account.topic.clone()),
                    ("identity", account.identity.clone()),
                    ("partition", account.partition.to_string()),
                    ("from", offsets.start.to_string()),
                    ("to", offsets.end.to_string()),
                ];
                api.get("/audit/documents", &query).await
            }
        }
    }
}

/// The API of a process.
struct Api {
    url: String,
    client: reqwest::Client,
}

impl Api {
    fn new(url: String) -> anyhow::Result<Self> {
        // Fails only if there is one already, which will do as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(REQUEST_PATIENCE).build()?;
        Ok(Self { url, client })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<T> {
        let mut url = reqwest::Url::parse(&format!("{}{path}", self.url)).with_context(|| {
            format!("expected the address of an API, such as http://127.0.0.1:8080, got \"{}\"", self.url)
        })?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let answer = self.client.get(url).send().await;
        let answer = answer.with_context(|| format!("{} does not answer; does it run, with its API on?", self.url))?;
        let status = answer.status();
        let body = answer.text().await?;
        if !status.is_success() {
            bail!("{}{path} answers {status}: {body}", self.url);
        }
        serde_json::from_str(&body).with_context(|| format!("{}{path} answers what is not expected", self.url))
    }

    /// The accounts, once all that they contain is stored.
    async fn accounts(&self) -> anyhow::Result<Vec<Account>> {
        let asked: AuditAnswer = self.get("/audit", &[]).await?;
        let deadline = Instant::now() + PATIENCE;
        let mut latest = asked.partitions.clone();
        loop {
            let waits_for = asked.partitions.iter().find(|account| {
                let same =
                    |other: &&Account| other.identity == account.identity && other.partition == account.partition;
                account.first_offset.is_some()
                    && latest.iter().find(same).and_then(|a| a.acknowledged).is_none_or(|a| a < account.next_offset)
            });
            let Some(account) = waits_for else { return Ok(asked.partitions) };
            if Instant::now() >= deadline {
                bail!(
                    "{}:{} was read to {} and is not stored to there after {} s; is the store slow or away? See /health",
                    account.topic,
                    account.partition,
                    account.next_offset,
                    PATIENCE.as_secs()
                );
            }
            tokio::time::sleep(EVERY).await;
            latest = self.get::<AuditAnswer>("/audit", &[]).await?.partitions;
        }
    }
}

/// The store, to be read only.
fn open_store(config: &Config) -> anyhow::Result<Asked> {
    Ok(Asked::Store(match config.store.chosen().map_err(|mistake| anyhow!("{mistake}"))? {
        StoreChoice::Ndjson(store) => return Ok(Asked::Files(store.logs.clone())),
        StoreChoice::Elasticsearch(store) => Arc::new(ElasticsearchStore::new(store)?),
        StoreChoice::Embedded(store) => Arc::new(EmbeddedStore::open(store, &config.data_dir.join("store"))?),
        StoreChoice::None => bail!("nothing is stored (store.none), so there is nothing to hold the account against"),
    }))
}

/// The offsets of the dead letters that are kept, by identity and partition.
fn dead_offsets(config: &Config) -> anyhow::Result<BTreeMap<(String, i32), DeadOffsets>> {
    let mut offsets: BTreeMap<(String, i32), DeadOffsets> = BTreeMap::new();
    each(config, &mut |letter| {
        let dead = offsets.entry((letter.identity.into_owned(), letter.partition)).or_default();
        dead.all.insert(letter.offset);
        if letter.reason == Reason::Unindexable {
            dead.unindexable.insert(letter.offset);
        }
        Ok(())
    })?;
    Ok(offsets)
}

fn print(findings: &[Finding]) {
    let row = |finding: &Finding| {
        let account = &finding.account;
        let verdict = match finding.verdict {
            Verdict::AddsUp => "adds up",
            Verdict::AddsUpWithRetention => "adds up, with what the retention removed",
            Verdict::DoesNotAddUp => "DOES NOT ADD UP",
        };
        vec![
            format!("{}:{}", account.topic, account.partition),
            format!("{}..{}", account.first_offset.unwrap_or(account.next_offset), account.next_offset),
            finding.expected.to_string(),
            finding.documents.to_string(),
            account.dead().to_string(),
            account.dropped.to_string(),
            account.lost.to_string(),
            account.no_record.to_string(),
            verdict.to_owned(),
        ]
    };
    let headings = ["PARTITION", "OFFSETS", "INDEXED", "IN STORE", "DEAD", "DROPPED", "LOST", "NO RECORD", ""];
    table(&headings, findings.iter().map(row));
    for finding in findings {
        let name = format!("{}:{}", finding.account.topic, finding.account.partition);
        for gap in finding.gaps.iter().take(PRINTED) {
            match gap.end - gap.start {
                1 => println!("{name}: no document of offset {}", gap.start),
                _ => println!("{name}: no document of offsets {} to {}", gap.start, gap.end - 1),
            }
        }
        for offset in finding.duplicates.iter().take(PRINTED) {
            println!("{name}: more than one document of offset {offset}");
        }
        let named = finding.gaps.len().saturating_sub(PRINTED) + finding.duplicates.len().saturating_sub(PRINTED);
        if named > 0 {
            println!("{name}: and {named} more; --json names them");
        }
        for note in &finding.notes {
            println!("{name}: {note}");
        }
    }
}
