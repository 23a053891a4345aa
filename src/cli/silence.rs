//! `floodmark silence`: for a time, nobody is told of alerts that match.
//!
//! In: the API of process 0, which sends notifications. Out: a table, one line, or JSON. On error: what the API said is
//! passed on as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::detect::parse_time;
use super::{ConfigArgs, Failure, table, time_text};
use crate::alerts::silences::Silence;
use crate::units::Span;

/// A request has this long to be answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// For a time, tell nobody of alerts that match; they are recorded all the same.
#[derive(Clone, Debug, Args)]
pub struct SilenceArgs {
    #[command(subcommand)]
    command: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Make a silence
    Add(AddArgs),
    /// List the silences that are not over
    List(ListArgs),
    /// End a silence before its time
    End(EndArgs),
}

/// Which process is asked.
#[derive(Clone, Debug, Args)]
struct Asked {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where the API of process 0 is, if not where the configuration says
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  floodmark silence add --alert 'errors*' --for 2h --comment \"move of the database\"
  floodmark silence add --key service_name=checkout --until 2026-02-01T06:00:00Z --comment \"ticket 4711\"
  floodmark silence add --url http://a:8080 --all --for 30m --comment \"game day\"")]
struct AddArgs {
    #[command(flatten)]
    asked: Asked,
    /// The name of the alert; one that ends in * stands for all that begin so
    #[arg(long, value_name = "NAME", required_unless_present_any = ["key", "all"])]
    alert: Option<String>,
    /// A key field and its value, which may end in *; as often as needed: all of an alert's keys must match all of them
    #[arg(long, value_name = "FIELD=VALUE", value_parser = field)]
    key: Vec<(String, String)>,
    /// Silence every alert
    #[arg(long, conflicts_with_all = ["alert", "key"])]
    all: bool,
    /// How long from now, such as 2h
    #[arg(long = "for", value_name = "TIME", value_parser = span, required_unless_present = "until")]
    lasts: Option<Span>,
    /// Until when: RFC 3339, or milliseconds since the epoch
    #[arg(long, value_name = "TIME", value_parser = until, conflicts_with = "lasts")]
    until: Option<u64>,
    /// Why, for those who find it
    #[arg(long, value_name = "TEXT")]
    comment: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  floodmark silence list -c floodmark.toml
  floodmark silence list --url http://a:8080 --json | jq '.[].comment'")]
struct ListArgs {
    #[command(flatten)]
    asked: Asked,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  floodmark silence end 3")]
struct EndArgs {
    #[command(flatten)]
    asked: Asked,
    /// The number of the silence, as listed
    id: u64,
}

fn field(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = parts.ok_or_else(|| "expected FIELD=VALUE, such as service_name=checkout".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}

fn span(text: &str) -> Result<Span, String> {
    let span: Span = serde_json::from_value(json!(text)).map_err(|error| error.to_string())?;
    if span.as_millis() > 0 { Ok(span) } else { Err("expected more than 0s".to_owned()) }
}

fn until(text: &str) -> Result<u64, String> {
    parse_time(text).ok_or_else(|| "expected RFC 3339 or milliseconds since the epoch".to_owned())
}

#[derive(Deserialize)]
struct Listed {
    silences: Vec<Silence>,
}

pub(super) fn run(args: &SilenceArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &args.command {
        What::Add(args) => {
            let keys: BTreeMap<_, _> = args.key.iter().cloned().collect();
            let mut body = json!({ "keys": keys, "comment": args.comment, "all": args.all });
            if let Some(alert) = &args.alert {
                body["alert"] = json!(alert);
            }
            match (args.lasts, args.until) {
                (Some(span), _) => body["for"] = json!(span),
                (None, until) => body["until"] = json!(until.map(|until| until.to_string())),
            }
            let answer = runtime.block_on(args.asked.ask(Method::POST, "/silences", Some(body)))?;
            let silence: Silence = serde_json::from_value(answer).context("the answer is no silence")?;
            if args.json {
                println!("{}", serde_json::to_string_pretty(&silence)?);
            } else {
                println!("silence {} until {}: {}", silence.id, time_text(silence.until), what(&silence));
            }
        }
        What::List(args) => {
            let answer = runtime.block_on(args.asked.ask(Method::GET, "/silences", None))?;
            let Listed { silences } = serde_json::from_value(answer).context("the answer lists no silences")?;
            if args.json {
                println!("{}", serde_json::to_string_pretty(&silences)?);
            } else if silences.is_empty() {
                eprintln!("floodmark: there are no silences");
            } else {
                let row = |of: &Silence| vec![of.id.to_string(), time_text(of.until), what(of), of.comment.clone()];
                table(&["id", "until", "what", "comment"], silences.iter().map(row));
            }
        }
        What::End(args) => {
            runtime.block_on(args.asked.ask(Method::DELETE, &format!("/silences/{}", args.id), None))?;
            println!("silence {} is over", args.id);
        }
    }
    Ok(())
}

/// What a silence matches.
fn what(silence: &Silence) -> String {
    let keys = silence.keys.iter().map(|(field, value)| format!("{field}={value}"));
    let all: Vec<String> = silence.alert.iter().cloned().chain(keys).collect();
    if all.is_empty() { "every alert".to_owned() } else { all.join(" ") }
}

impl Asked {
    /// Asks the API; `null` where it answers nothing.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let base = match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", self.config.load(&[])?.own_api().listen),
        };
        let url = reqwest::Url::parse(&format!("{base}{path}")).map_err(|_| {
            Failure::usage(anyhow!("expected the address of an API, such as http://127.0.0.1:8080, got \"{base}\""))
        })?;
        // Another part may have installed one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let mut request = client.request(method, url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let unreachable = || format!("cannot ask {base}; is it running, and is --url right?");
        let answer = request.send().await.with_context(unreachable)?;
        let status = answer.status();
        let text = answer.text().await.with_context(unreachable)?;
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(value);
        }
        let detail = value["detail"].as_str().unwrap_or(text.trim());
        Err(Failure::Running(anyhow!("{base} answered {status}: {detail}")))
    }
}
