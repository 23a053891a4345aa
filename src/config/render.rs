//! The configuration as text: commented TOML of what is in effect, and the reference of every key as Markdown. The
//! comments are the documentation of the fields.

use std::fmt::Write;

use serde_json::Value as Json;
use toml::{Table, Value};

use super::keys::{Field, Kind};
use super::layers::join;
use super::{Config, known_keys};

/// Columns of the comments.
const WIDTH: usize = 100;

/// Commented TOML of a configuration. Reading it gives the same configuration, but for secrets, which are `***`. With
/// `all`, parts that are not in use stand there too, commented out.
pub fn toml(config: &Config, all: bool) -> Result<String, toml::ser::Error> {
    let mut out = String::new();
    let table = Table::try_from(config)?;
    let Kind::Section(fields) = known_keys() else { return Ok(out) };
    Renderer { all }.section(&mut out, "", fields, &table, true);
    Ok(out.trim_start().to_owned())
}

struct Renderer {
    all: bool,
}

impl Renderer {
    fn section(&self, out: &mut String, path: &str, fields: &[Field], table: &Table, comments: bool) {
        let (inner, plain): (Vec<_>, Vec<_>) = fields.iter().partition(|field| has_header(field, table));
        for field in plain {
            let value = table.get(&field.name);
            if matches!(field.kind, Kind::Section(_)) || (value.is_none() && !self.all) {
                continue;
            }
            if comments {
                out.push('\n');
                comment(out, &field.doc);
            }
            let name = join("", &field.name);
            match value {
                Some(value) => pair(out, &name, value),
                None => _ = writeln!(out, "# {name} is not set: {}", field.kind.expected()),
            }
        }
        for field in inner {
            self.part(out, &join(path, &field.name), field, table.get(&field.name), comments);
        }
        if self.all {
            for field in fields {
                if let (Kind::Section(inner), None) = (&field.kind, table.get(&field.name)) {
                    self.unused(out, &join(path, &field.name), field, inner);
                }
            }
        }
    }

    fn part(&self, out: &mut String, path: &str, field: &Field, value: Option<&Value>, comments: bool) {
        let header = |out: &mut String, brackets: (&str, &str), comments: bool| {
            out.push('\n');
            if comments {
                comment(out, &field.doc);
            }
            let _ = writeln!(out, "{}{path}{}", brackets.0, brackets.1);
        };
        match (&field.kind, value) {
            (Kind::Section(fields), Some(Value::Table(table))) => {
                header(out, ("[", "]"), comments);
                self.section(out, path, fields, table, comments);
            }
            (Kind::List(kind), Some(Value::Array(items))) => {
                for (i, item) in items.iter().enumerate() {
                    if let (Kind::Section(fields), Value::Table(table)) = (&**kind, item) {
                        header(out, ("[[", "]]"), comments && i == 0);
                        self.section(out, path, fields, table, comments && i == 0);
                    }
                }
            }
            (_, Some(Value::Table(table))) => {
                header(out, ("[", "]"), comments);
                table.iter().for_each(|(name, value)| pair(out, &join("", name), value));
            }
            _ => {}
        }
    }

    fn unused(&self, out: &mut String, path: &str, field: &Field, fields: &[Field]) {
        let mut text = String::new();
        comment(&mut text, &field.doc);
        let _ = writeln!(text, "[{path}]");
        self.section(&mut text, path, fields, &defaults(fields), true);
        out.push('\n');
        for line in text.lines() {
            let _ = match line {
                "" => writeln!(out, "#"),
                line if line.starts_with('#') => writeln!(out, "{line}"),
                line => writeln!(out, "#{line}"),
            };
        }
    }
}

/// Whether a field with this value is written under a `[header]` of its own.
fn has_header(field: &Field, table: &Table) -> bool {
    match (&field.kind, table.get(&field.name)) {
        (Kind::Section(_) | Kind::Map(_), Some(Value::Table(_))) => true,
        (Kind::List(kind), Some(Value::Array(items))) => matches!(**kind, Kind::Section(_)) && !items.is_empty(),
        _ => false,
    }
}

fn defaults(fields: &[Field]) -> Table {
    let value = |field: &Field| Some((field.name.clone(), Value::try_from(field.default.as_ref()?).ok()?));
    fields.iter().filter_map(value).collect()
}

fn pair(out: &mut String, name: &str, value: &Value) {
    match value {
        Value::Array(items) if items.iter().any(Value::is_table) => {
            let _ = writeln!(out, "{name} = [");
            items.iter().for_each(|item| _ = writeln!(out, "  {item},"));
            let _ = writeln!(out, "]");
        }
        value => _ = writeln!(out, "{name} = {value}"),
    }
}

fn comment(out: &mut String, text: &str) {
    for paragraph in text.split("\n\n") {
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.len() + 1 + word.len() > WIDTH {
                let _ = writeln!(out, "{line}");
                line.truncate(1);
            }
            line.push(' ');
            line.push_str(word);
        }
        let _ = writeln!(out, "{line}");
    }
}

/// The reference of every key, as Markdown.
pub fn reference() -> String {
    let mut out = String::from(
        "# Configuration\n\nEvery key of `floodmark.toml`, generated by `floodmark config --reference`. Durations are \
         whole numbers with a unit (`250ms`, `10s`, `5m`, `1h`, `7d`), sizes likewise (`512KiB`, `64MiB`, `1GiB`).\n\n\
         The same keys can be set in the environment (`FLOODMARK_STORE__ELASTICSEARCH__PASSWORD`: prefix `FLOODMARK_`, \
         parts joined by two underscores; under `properties`, one underscore stands for a dot) and by `--set \
         key=value`. Flags win over the environment, the environment over the file. An unknown key is an error.\n\n\
         `floodmark config` prints what is in effect, `floodmark config --defaults` all there is.\n",
    );
    if let Kind::Section(fields) = known_keys() {
        let _ = write!(out, "\n## Top level\n\n");
        reference_of(&mut out, "", fields);
    }
    out
}

fn reference_of(out: &mut String, path: &str, fields: &[Field]) {
    for field in fields.iter().filter(|field| inner_fields(field).is_none()) {
        let default = match &field.default {
            None => String::new(),
            Some(Json::String(text)) if text.is_empty() || field.kind == Kind::Text("secret") => String::new(),
            Some(default) => format!(", default `{}`", toml_text(default)),
        };
        let kind = match &field.kind {
            Kind::Choice(_) => "one word".to_owned(),
            kind => kind.expected().trim_start_matches("a ").to_owned(),
        };
        let _ = writeln!(out, "- **`{}`** ({kind}{default}): {}", field.name, flowing(&field.doc));
        if let Kind::Choice(words) = &field.kind {
            words.iter().for_each(|(word, doc)| _ = writeln!(out, "  - `\"{word}\"`: {}", flowing(doc)));
        }
    }
    for field in fields {
        let Some((fields, is_list)) = inner_fields(field) else { continue };
        let path = join(path, &field.name);
        let header = if is_list { format!("[[{path}]]") } else { format!("[{path}]") };
        let _ = write!(out, "\n## `{header}`\n\n{}\n\n", flowing(&field.doc));
        reference_of(out, &path, fields);
        if let (true, Some(Json::Array(items))) = (is_list, &field.default)
            && !items.is_empty()
        {
            let _ = write!(out, "\nBy default:\n\n```toml\n");
            for item in items {
                let _ = writeln!(out, "{header}");
                for (name, value) in item.as_object().into_iter().flatten() {
                    let _ = writeln!(out, "{name} = {}", toml_text(value));
                }
            }
            let _ = writeln!(out, "```");
        }
    }
}

fn inner_fields(field: &Field) -> Option<(&[Field], bool)> {
    match &field.kind {
        Kind::Section(fields) => Some((fields, false)),
        Kind::List(kind) => match &**kind {
            Kind::Section(fields) => Some((fields, true)),
            _ => None,
        },
        _ => None,
    }
}

fn toml_text(value: &Json) -> String {
    Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string())
}

fn flowing(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
