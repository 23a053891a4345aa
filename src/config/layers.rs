//! Layers of settings, merged: the file, then the environment, then flags; the later one wins, key by key.
//!
//! In: text. Out: one table, and for each key where its value was written. Mistakes are collected, not returned at the
//! first.

use std::collections::BTreeMap;
use std::path::Path;

use floodmark_dataflows::view_config::Mistake;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::keys::{Kind, nearest};
use super::mistakes::{ConfigError, Located, Origin};

/// What the environment variables that stand for configuration keys begin with.
pub const PREFIX: &str = "FLOODMARK_";

/// Variables with the prefix that are no configuration keys.
const OTHER_VARIABLES: [&str; 4] =
    ["FLOODMARK_CONFIG", "FLOODMARK_LOG", "FLOODMARK_LOG_FORMAT", "FLOODMARK_SUPERVISED"];

/// A key as it is shown: dotted, list items as `[0]`, names with other characters in quotes.
pub fn join(parent: &str, name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    let name = if plain { name.to_owned() } else { format!("\"{}\"", name.escape_default()) };
    if parent.is_empty() { name } else { format!("{parent}.{name}") }
}

/// Settings being collected.
#[derive(Debug)]
pub struct Layers<'k> {
    keys: &'k Kind,
    /// The merged settings.
    pub table: Table,
    origins: BTreeMap<String, Origin>,
    /// What was wrong so far.
    pub mistakes: Vec<Located>,
}

impl<'k> Layers<'k> {
    /// No settings yet; `keys` are those that are known.
    pub fn new(keys: &'k Kind) -> Self {
        Self { keys, table: Table::new(), origins: BTreeMap::new(), mistakes: Vec::new() }
    }

    /// Where the value of a key was written: its own place, or that of the nearest part around it.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        let mut key = key;
        loop {
            if let Some(origin) = self.origins.get(key) {
                return Some(origin);
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }

    /// Notes a mistake at a key, with where that was written.
    pub fn mistake(&mut self, mistake: Mistake) {
        let origin = self.origin(&mistake.key).cloned();
        self.mistakes.push(Located { origin, mistake });
    }

    /// The result, if there were no mistakes; else all of them, in the order of where they were written.
    pub fn finish<T>(mut self, result: T) -> Result<T, ConfigError> {
        if self.mistakes.is_empty() {
            return Ok(result);
        }
        self.mistakes.sort_by_key(|located| match &located.origin {
            Some(Origin::File { line, .. }) => (0, *line),
            Some(Origin::Environment(_)) => (1, 0),
            Some(Origin::Flag(_)) => (2, 0),
            None => (3, 0),
        });
        Err(ConfigError::Mistakes(self.mistakes))
    }

    /// Adds a file's text.
    pub fn add_file(&mut self, path: &Path, text: &str) {
        let line_of = |at: usize| 1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count();
        let origin = |at| Origin::File { path: path.to_owned(), line: line_of(at) };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let origin = error.span().map(|span| origin(span.start));
            self.mistakes.push(Located { origin, mistake: Mistake::new("", first_line(error.message())) });
        }
        if !errors.is_empty() {
            return;
        }
        let mut origins = BTreeMap::new();
        note_origins(table.get_ref(), "", &origin, &mut origins);
        match toml::from_str::<Table>(text) {
            Ok(table) => self.merge(table, origins),
            Err(error) => {
                let origin = error.span().map(|span| origin(span.start));
                self.mistakes.push(Located { origin, mistake: Mistake::new("", first_line(error.message())) });
            }
        }
    }

    /// Adds environment variables: `FLOODMARK_SOURCE__KAFKA__BROKERS` is `source.kafka.brokers`. Under a key named
    /// `properties`, `_` stands for `.`. Lists may be written with commas.
    pub fn add_environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        for (variable, text) in variables {
            let Some(key) = variable.strip_prefix(PREFIX) else { continue };
            if OTHER_VARIABLES.contains(&variable.as_str()) {
                continue;
            }
            let mut path: Vec<String> = key.split("__").map(str::to_ascii_lowercase).collect();
            if let Some(at) = path.iter().position(|part| part == "properties") {
                let property = path.split_off(at + 1).join("__").replace('_', ".");
                path.push(property);
            }
            // A variable of one word that is no key may belong to something else, unless it is nearly one.
            if let ([word], Kind::Section(fields)) = (&path[..], self.keys) {
                let known = |name: &str| fields.iter().any(|field| field.name == name);
                if !known(word) && nearest(word, fields.iter().map(|field| field.name.as_str())).is_none() {
                    continue;
                }
            }
            self.set(&path, &text, Origin::Environment(variable.clone()));
        }
    }

    /// Adds a `key=value` of the command line. The key is written as in TOML; the value too, or as plain text.
    pub fn add_flag(&mut self, assignment: &str) {
        // Without the value, which may be a secret.
        let origin = Origin::Flag(format!("--set {}", split_assignment(assignment).map_or(assignment, |(key, _)| key)));
        let Some((key, text)) = split_assignment(assignment) else {
            let message = "expected key=value, such as source.kafka.topics=[\"logs_raw\"]";
            self.mistakes.push(Located { origin: Some(origin), mistake: Mistake::new("", message) });
            return;
        };
        match key_path(key) {
            Some(path) => self.set(&path, text, origin),
            None => {
                let message = format!("expected a dotted key before '=', got \"{key}\"");
                self.mistakes.push(Located { origin: Some(origin), mistake: Mistake::new("", message) });
            }
        }
    }

    /// Sets one key from text.
    pub fn set(&mut self, path: &[String], text: &str, origin: Origin) {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        let value = value_of(text, self.keys.at(&names));
        let mut key = String::new();
        let mut origins = BTreeMap::new();
        for name in path {
            key = join(&key, name);
            origins.insert(key.clone(), origin.clone());
        }
        let nested =
            path.iter().rev().fold(value, |value, name| Value::Table(Table::from_iter([(name.clone(), value)])));
        if let Value::Table(table) = nested {
            self.merge(table, origins);
        }
    }

    fn merge(&mut self, table: Table, origins: BTreeMap<String, Origin>) {
        merge(&mut self.table, table);
        self.origins.extend(origins);
    }
}

fn merge(into: &mut Table, from: Table) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}

fn note_origins(
    table: &DeTable<'_>,
    key: &str,
    origin: &dyn Fn(usize) -> Origin,
    origins: &mut BTreeMap<String, Origin>,
) {
    for (name, value) in table {
        let key = join(key, name.get_ref());
        note_value(value, &key, origin, origins);
        origins.insert(key, origin(name.span().start));
    }
}

fn note_value(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    origin: &dyn Fn(usize) -> Origin,
    origins: &mut BTreeMap<String, Origin>,
) {
    origins.insert(key.to_owned(), origin(value.span().start));
    match value.get_ref() {
        DeValue::Table(table) => note_origins(table, key, origin, origins),
        DeValue::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                note_value(item, &format!("{key}[{i}]"), origin, origins);
            }
        }
        _ => {}
    }
}

/// What a text means where `kind` is expected.
fn value_of(text: &str, kind: Option<&Kind>) -> Value {
    let as_toml = || toml::from_str::<Table>(&format!("value = {text}")).ok()?.remove("value");
    let plain = || Value::String(text.to_owned());
    match kind {
        Some(Kind::Text(_) | Kind::Choice(_)) => match as_toml() {
            Some(Value::String(quoted)) if text.trim_start().starts_with(['"', '\'']) => Value::String(quoted),
            _ => plain(),
        },
        Some(Kind::List(item)) => match as_toml() {
            Some(Value::Array(items)) => Value::Array(items),
            _ if text.trim().is_empty() => Value::Array(Vec::new()),
            _ => Value::Array(text.split(',').map(|part| value_of(part.trim(), Some(item))).collect()),
        },
        _ => as_toml().unwrap_or_else(plain),
    }
}

/// Splits at the first `=` outside quotes.
fn split_assignment(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '=') => return Some((text[..at].trim(), text[at + 1..].trim())),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
    }
    None
}

/// The parts of a dotted key.
fn key_path(key: &str) -> Option<Vec<String>> {
    let mut value = Value::Table(toml::from_str(&format!("{key} = 0")).ok()?);
    let mut path = Vec::new();
    while let Value::Table(table) = value {
        let (name, inner) = table.into_iter().next()?;
        path.push(name);
        value = inner;
    }
    Some(path)
}

fn first_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(", ")
}
