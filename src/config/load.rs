//! From layers of settings to a checked [`Config`], or to all mistakes in them.

use std::path::Path;

use floodmark_dataflows::view_config::Mistake;
use serde::Deserialize;
use toml::{Table, Value};

use super::Config;
use super::keys::{Kind, nearest};
use super::layers::{Layers, join};
use super::mistakes::ConfigError;

/// What a configuration is made of, weakest first. Defaults are below all of them.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    /// The TOML file.
    pub file: Option<&'a Path>,
    /// Environment variables, of which those with the prefix `FLOODMARK_` count.
    pub environment: Vec<(String, String)>,
    /// `key=value` flags.
    pub flags: Vec<String>,
}

impl Config {
    /// Reads a configuration from its sources and checks it. All mistakes are reported at once.
    pub fn load(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let (config, mut layers) = Self::read(sources)?;
        let failed: Vec<String> = layers.mistakes.iter().map(|located| located.mistake.key.clone()).collect();
        for mistake in config.mistakes() {
            // What could not be read stands at its default meanwhile: no mistake of the user's follows from that.
            if !failed.iter().any(|failed| depends(&mistake.key, failed)) {
                layers.mistake(mistake);
            }
        }
        layers.finish(config)
    }

    /// Reads a configuration without asking whether it can run. Unknown keys and wrong types are mistakes here too.
    pub fn load_unchecked(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let (config, layers) = Self::read(sources)?;
        layers.finish(config)
    }

    fn read(sources: &Sources<'_>) -> Result<(Self, Layers<'static>), ConfigError> {
        let keys = super::known_keys();
        let mut layers = Layers::new(keys);
        if let Some(path) = sources.file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
            layers.add_file(path, &text);
        }
        layers.add_environment(sources.environment.iter().cloned());
        for flag in &sources.flags {
            layers.add_flag(flag);
        }
        let mut table = std::mem::take(&mut layers.table);
        let mut mistakes = Vec::new();
        remove_unknown(&mut table, keys, "", &mut mistakes);
        if Config::deserialize(Value::Table(table.clone())).is_err() {
            remove_unreadable(&mut table, keys, &mut mistakes);
        }
        for mistake in mistakes {
            layers.mistake(mistake);
        }
        // What is left was readable part by part. Should it not be as a whole, that is a mistake like any other.
        let mut config = Config::deserialize(Value::Table(table)).unwrap_or_else(|error| {
            if layers.mistakes.is_empty() {
                layers.mistake(Mistake::new("", error.message()));
            }
            Config::default()
        });
        let source = config.source.kafka.clone().unwrap_or_default();
        config.dead_letters.kafka.inherit(&source);
        Ok((config, layers))
    }
}

/// Whether a check of `key` says nothing once `failed` could not be read: one contains the other, they are neighbours,
/// or the check needs the tick.
fn depends(key: &str, failed: &str) -> bool {
    let parent = |key: &'_ str| key.rfind('.').map_or(0, |at| at);
    let (section, failed_section) = (&key[..parent(key)], &failed[..parent(failed)]);
    failed.is_empty()
        || contains(key, failed)
        || contains(failed, key)
        || (!section.is_empty() && section == failed_section)
        || (failed == "time.tick" && key.starts_with("view"))
}

fn contains(outer: &str, inner: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn remove_unknown(table: &mut Table, keys: &Kind, path: &str, mistakes: &mut Vec<Mistake>) {
    let fields = match keys {
        Kind::Section(fields) => fields,
        Kind::Map(_) => return flatten(table),
        _ => return,
    };
    table.retain(|name, value| {
        let path = join(path, name);
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            mistakes.push(Mistake::new(path, unknown_key(name, keys)));
            return false;
        };
        match (value, &field.kind) {
            (Value::Table(inner), kind) => remove_unknown(inner, kind, &path, mistakes),
            (Value::Array(items), Kind::List(kind)) => {
                for (i, item) in items.iter_mut().enumerate() {
                    if let Value::Table(inner) = item {
                        remove_unknown(inner, kind, &format!("{path}[{i}]"), mistakes);
                    }
                }
            }
            _ => {}
        }
        true
    });
}

/// Makes `security.protocol = "SSL"` without quotes, which is a table in TOML, the free key that was meant.
fn flatten(table: &mut Table) {
    while let Some(name) = table.iter().find(|(_, value)| value.is_table()).map(|(name, _)| name.clone()) {
        if let Some(Value::Table(inner)) = table.remove(&name) {
            table.extend(inner.into_iter().map(|(rest, value)| (format!("{name}.{rest}"), value)));
        }
    }
}

/// The message for a key that is not among `keys`: the nearest one here or elsewhere, or all there are.
fn unknown_key(name: &str, keys: &Kind) -> String {
    let Kind::Section(fields) = keys else { return "unknown key".to_owned() };
    let here = || fields.iter().map(|field| field.name.as_str());
    if let Some(near) = nearest(name, here()) {
        return format!("unknown key; did you mean \"{near}\"?");
    }
    let mut elsewhere = Vec::new();
    find_key(super::known_keys(), "", name, &mut elsewhere);
    if let [only] = &elsewhere[..] {
        return format!("unknown key here; did you mean {only}?");
    }
    format!("unknown key; expected one of {}", here().collect::<Vec<_>>().join(", "))
}

fn find_key(keys: &Kind, path: &str, name: &str, found: &mut Vec<String>) {
    match keys {
        Kind::Section(fields) => {
            for field in fields {
                let path = join(path, &field.name);
                if field.name == name {
                    found.push(path.clone());
                }
                find_key(&field.kind, &path, name, found);
            }
        }
        Kind::List(item) => find_key(item, path, name, found),
        _ => {}
    }
}

/// Finds what cannot be read by reading each part alone, deeper and deeper, and removes it.
fn remove_unreadable(table: &mut Table, keys: &Kind, mistakes: &mut Vec<Mistake>) {
    let mut places = Vec::new();
    for name in table.keys() {
        Place { steps: vec![Step::Key(name.clone())] }.check(table, keys, &mut places);
    }
    for (place, mistake) in places {
        place.remove(table);
        mistakes.push(mistake);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Item(usize),
}

/// A place in the settings.
#[derive(Clone, Debug)]
struct Place {
    steps: Vec<Step>,
}

impl Place {
    fn then(&self, step: Step) -> Self {
        let mut steps = self.steps.clone();
        steps.push(step);
        Self { steps }
    }

    fn key(&self) -> String {
        self.steps.iter().fold(String::new(), |key, step| match step {
            Step::Key(name) => join(&key, name),
            Step::Item(i) => format!("{key}[{i}]"),
        })
    }

    fn value<'t>(&self, table: &'t Table) -> Option<&'t Value> {
        let mut steps = self.steps.iter();
        let mut value = match steps.next()? {
            Step::Key(name) => table.get(name)?,
            Step::Item(_) => return None,
        };
        for step in steps {
            value = match step {
                Step::Key(name) => value.get(name)?,
                Step::Item(i) => value.get(*i)?,
            };
        }
        Some(value)
    }

    fn kind<'k>(&self, keys: &'k Kind) -> Option<&'k Kind> {
        self.steps.iter().try_fold(keys, |kind, step| match (kind, step) {
            (_, Step::Key(name)) => kind.at(&[name]),
            (Kind::List(item), Step::Item(_)) => Some(&**item),
            (_, Step::Item(_)) => None,
        })
    }

    /// Settings with nothing but the value at this place.
    fn alone(&self, value: Value) -> Value {
        self.steps.iter().rev().fold(value, |value, step| match step {
            Step::Key(name) => Value::Table(Table::from_iter([(name.clone(), value)])),
            Step::Item(_) => Value::Array(vec![value]),
        })
    }

    /// Whether an error at this place read alone only says that a neighbour of it, or of what contains it, is not there.
    fn lacks_only_neighbours(&self, table: &Table, error: &str) -> bool {
        let Some(missing) = error.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) else {
            return false;
        };
        let has_fields = match self.value(table) {
            Some(Value::Array(items)) => items.iter().any(Value::is_table),
            value => value.is_some_and(Value::is_table),
        };
        !has_fields
            || (1..self.steps.len()).any(|length| {
                let outer = Self { steps: self.steps[..length].to_vec() };
                outer.value(table).and_then(Value::as_table).is_some_and(|outer| outer.contains_key(missing))
            })
    }

    fn remove(&self, table: &mut Table) {
        let Some((last, steps)) = self.steps.split_last() else { return };
        let mut root = Value::Table(std::mem::take(table));
        let mut inner = Some(&mut root);
        for step in steps {
            inner = match step {
                Step::Key(name) => inner.and_then(|value| value.get_mut(name)),
                Step::Item(i) => inner.and_then(|value| value.get_mut(*i)),
            };
        }
        match (inner, last) {
            (Some(Value::Table(table)), Step::Key(name)) => {
                table.remove(name);
            }
            // Items keep their numbers: a list with an unreadable item goes as a whole.
            (Some(list @ Value::Array(_)), Step::Item(_)) => *list = Value::Array(Vec::new()),
            _ => {}
        }
        if let Value::Table(whole) = root {
            *table = whole;
        }
    }

    /// Reads this place alone; if that fails, finds the parts of it that fail, or else is itself what fails.
    fn check(&self, table: &Table, keys: &Kind, failed: &mut Vec<(Place, Mistake)>) {
        let Some(value) = self.value(table) else { return };
        let Err(error) = Config::deserialize(self.alone(value.clone())) else { return };
        if self.lacks_only_neighbours(table, error.message()) {
            return;
        }
        let steps: Vec<Step> = match value {
            Value::Table(inner) => inner.keys().cloned().map(Step::Key).collect(),
            Value::Array(items) => (0..items.len()).map(Step::Item).collect(),
            _ => Vec::new(),
        };
        let before = failed.len();
        for step in steps {
            self.then(step).check(table, keys, failed);
        }
        if failed.len() == before {
            let message = message(value, self.kind(keys), error.message());
            failed.push((self.clone(), Mistake::new(self.key(), message)));
        }
    }
}

/// What was expected and what came, in our words where the schema tells, else in those of the reader.
fn message(value: &Value, kind: Option<&Kind>, error: &str) -> String {
    let Some(kind) = kind else { return error.to_owned() };
    let matches = match (kind, value) {
        (Kind::Section(_) | Kind::Map(_), Value::Table(_)) | (Kind::List(_), Value::Array(_)) | (Kind::Any, _) => true,
        (Kind::Text(_), Value::String(_)) | (Kind::Bool, Value::Boolean(_)) => true,
        (Kind::Integer | Kind::Number, Value::Integer(_)) | (Kind::Number, Value::Float(_)) => true,
        (Kind::Choice(words), Value::String(text)) => {
            if let Some(near) = nearest(text, words.iter().map(|(word, _)| word.as_str())) {
                return format!("expected {}, got \"{text}\"; did you mean \"{near}\"?", kind.expected());
            }
            false
        }
        _ => false,
    };
    match kind {
        Kind::Text("secret") => "expected a string in quotes".to_owned(),
        _ if matches => error.to_owned(),
        _ => format!("expected {}, got {value}", kind.expected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::writer::Indexed;
    use crate::units::Span;

    struct Given {
        file: &'static str,
        environment: &'static [(&'static str, &'static str)],
        flags: &'static [&'static str],
    }

    impl Given {
        fn load(&self) -> Result<Config, Vec<String>> {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("floodmark.toml");
            std::fs::write(&path, self.file).unwrap();
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let sources = Sources {
                file: Some(&path),
                environment: self.environment.iter().map(own).collect(),
                flags: self.flags.iter().map(|flag| (*flag).to_owned()).collect(),
            };
            Config::load(&sources).map_err(|error| match error {
                ConfigError::Mistakes(mistakes) => {
                    let prefix = format!("{}/", dir.path().display());
                    mistakes.iter().map(|mistake| mistake.to_string().replace(&prefix, "")).collect()
                }
                error => vec![error.to_string()],
            })
        }
    }

    const SOURCE: &str = "[source.generator]\n";

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let given = Given {
            file: "source.generator = {}\nstore.none = {}\n[time]\ntick = \"2s\"\nidle_after = \"7s\"\nmax_ahead = \"30s\"\n\
                [[view]]\nname = \"v\"\n",
            environment: &[
                ("FLOODMARK_TIME__TICK", "5s"),
                ("FLOODMARK_TIME__IDLE_AFTER", "8s"),
                ("FLOODMARK_CLUSTER__HOSTS", "a:1, b:2"),
                ("FLOODMARK_CLUSTER__PROCESSES", "2"),
                ("FLOODMARK_CLUSTER__SECRET", "0123456789abcdef"),
                ("FLOODMARK_CLUSTER__SHARED_FILES", "true"),
                ("FLOODMARK_LOG", "debug"),
                ("FLOODMARK_TEST_SERVICES", "1"),
                ("PATH", "/bin"),
            ],
            flags: &["time.tick=10s", "store.index = \"windows\"", "publish.every=20s"],
        };
        let config = given.load().unwrap();
        assert_eq!(config.time.tick, Span::from_secs(10));
        assert_eq!(config.time.idle_after, Span::from_secs(8));
        assert_eq!(config.time.max_ahead, Span::from_secs(30));
        assert_eq!(config.time.stall_after, Span::from_secs(300));
        assert_eq!(config.cluster.hosts, ["a:1", "b:2"]);
        assert_eq!(config.store.index, Indexed::Windows);
        assert_eq!(config.view[0].name, "v");
    }

    #[test]
    fn a_topic_of_dead_letters_is_where_the_records_are_unless_it_has_brokers_of_its_own() {
        let load = |flags: &'static [&'static str]| {
            let base =
                ["source.kafka.brokers=\"kafka:9093\"", "source.kafka.properties={\"security.protocol\"=\"SSL\"}"];
            let flags = base.iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
            Config::load(&Sources { flags, ..Sources::default() }).unwrap().dead_letters.kafka
        };
        let same = load(&["dead_letters.kafka.linger=1s"]);
        assert_eq!(same.brokers, "kafka:9093");
        assert!(format!("{:?}", same.properties).contains("SSL"), "{:?}", same.properties);
        let other = load(&["dead_letters.kafka.brokers=\"other:9092\""]);
        assert_eq!((&*other.brokers, &*format!("{:?}", other.properties)), ("other:9092", "{}"));
    }

    #[test]
    fn all_mistakes_come_at_once_with_their_places() {
        let given = Given {
            file: "data_dri = \"x\"\nsource.generator = {}\n[time]\ntick = 5\nidle_after = \"5 parsecs\"\n\n[[view]]\nname = \"a\"\n\
                [[view]]\nname = \"a\"\nwindow = \"1h\"\nmaxkeys = 3\n[store]\nindex = \"anomaly\"\n",
            environment: &[("FLOODMARK_CLUSTER__WORKERS", "many"), ("FLOODMARK_CLUSTER__PROCESS", "3")],
            flags: &["cluster.hosts=[\"a:1\", 7]", "tick=1s", "nonsense"],
        };
        let mistakes = given.load().unwrap_err();
        let expected = [
            "--set nonsense: expected key=value",
            "floodmark.toml:1: data_dri: unknown key; did you mean \"data_dir\"?",
            "floodmark.toml:12: view[1].maxkeys: unknown key; did you mean \"max_keys\"?",
            "--set tick: tick: unknown key here; did you mean time.tick?",
            "FLOODMARK_CLUSTER__WORKERS: cluster.workers: expected a whole number, got \"many\"",
            "--set cluster.hosts: cluster.hosts[1]: expected a string, got 7",
            "floodmark.toml:4: time.tick: expected a duration, got 5",
            "floodmark.toml:5: time.idle_after: expected a whole number with a unit",
            "floodmark.toml:14: store.index: expected \"all\" or \"anomalies\" or \"windows\", got \"anomaly\"; did you \
             mean \"anomalies\"?",
        ];
        for expected in expected {
            assert!(mistakes.iter().any(|mistake| mistake.starts_with(expected)), "{expected}\nnot in {mistakes:#?}");
        }
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
    }

    #[test]
    fn values_that_do_not_fit_are_found_with_their_lines() {
        let given = Given {
            file: "source.generator = {}\n[[view]]\nname = \"a\"\n[[view]]\nname = \"a\"\nwindow = \"1500ms\"\n",
            environment: &[],
            flags: &["cluster.process=1"],
        };
        let mistakes = given.load().unwrap_err();
        assert_eq!(mistakes.len(), 3, "{mistakes:#?}");
        assert!(mistakes[1].starts_with("floodmark.toml:6: view[1].window: expected a multiple of time.tick (1s)"));
        assert!(mistakes[0].starts_with("floodmark.toml:5: view[1].name: two views are named \"a\""));
        assert!(mistakes[2].starts_with("--set cluster.process: cluster.process: expected less than"));
    }

    #[test]
    fn a_list_of_tables_is_read_item_by_item() {
        let given = Given {
            file: "source.generator = {}\n[[rules.rule]]\nname = \"a\"\nwhen = [\"level = ERROR\"]\nscore = 90\n\
                [[rules.rule]]\nname = \"b\"\nwhen = \"level = ERROR\"\nscore = 90\n\
                [[rules.rule]]\nname = \"c\"\nscore = 10\n",
            environment: &[],
            flags: &[],
        };
        let mistakes = given.load().unwrap_err();
        assert_eq!(mistakes.len(), 2, "{mistakes:#?}");
        assert!(
            mistakes[0].starts_with("floodmark.toml:8: rules.rule[1].when: expected a list of strings, got \"level")
        );
        assert!(mistakes[1].starts_with("floodmark.toml:10: rules.rule[2]: missing field `when`"), "{mistakes:#?}");
    }

    #[test]
    fn fields_rules_and_conditions_are_checked() {
        let given = Given {
            file: "[records.fields]\nservise = \"app\"\n[[rules.rule]]\nname = \"a b\"\nwhen = [\"level = LOUD\"]\n\
                score = 1\n[[rules.rule]]\nname = \"b\"\nwhen = [\"path ~ x\"]\nscore = 1\n\
                [[view]]\nname = \"v\"\nwhere = [\"path\"]\n",
            environment: &[],
            flags: &["rules.anomaly_threshold=101"],
        };
        let mistakes = given.load().unwrap_err();
        let expected = [
            "floodmark.toml:1: records.fields: \"servise\" is none of our fields",
            "floodmark.toml:3: rules.rule[0]: rule \"a b\": expected a name",
            "floodmark.toml:7: rules.rule[1]: rule \"b\": condition 'path ~ x'",
            "floodmark.toml:13: view[0].where[0]: condition 'path'",
            "--set rules.anomaly_threshold: rules.anomaly_threshold: expected 0 to 100, got 101",
        ];
        for expected in expected {
            assert!(mistakes.iter().any(|mistake| mistake.starts_with(expected)), "{expected}\nnot in {mistakes:#?}");
        }
    }

    #[test]
    fn settings_of_kafka_are_written_with_dots_or_in_the_environment() {
        let given = Given {
            file: "[source.kafka.properties]\nsecurity.protocol = \"SASL_SSL\"\n\"sasl.mechanism\" = \"PLAIN\"\n",
            environment: &[("FLOODMARK_SOURCE__KAFKA__PROPERTIES__SASL_PASSWORD", "123")],
            flags: &["source.kafka.properties.\"sasl.username\"=me"],
        };
        let shown = format!("{:?}", given.load().unwrap().source);
        for expected in
            ["\"security.protocol\": \"SASL_SSL\"", "\"sasl.username\": \"me\"", "\"sasl.password\": \"***\""]
        {
            assert!(shown.contains(expected), "{expected} not in {shown}");
        }
        let wrong = Given { flags: &["source.kafka.properties.auto.offset.reset=latest"], ..given };
        let mistakes = wrong.load().unwrap_err();
        assert!(mistakes[0].contains("source.kafka.properties: \"auto.offset.reset\" is always"), "{mistakes:#?}");
    }

    #[test]
    fn broken_toml_names_its_line() {
        let given = Given { file: "[time]\ntick = \n", environment: &[], flags: &[] };
        let mistakes = given.load().unwrap_err();
        assert!(mistakes[0].starts_with("floodmark.toml:2: "), "{mistakes:#?}");
    }

    #[test]
    fn what_is_printed_reads_back() {
        let given = Given { file: SOURCE, environment: &[], flags: &["view=[{name=\"a\"},{name=\"b\",slide=\"5s\"}]"] };
        let config = given.load().unwrap();
        for all in [false, true] {
            let text = crate::config::render::toml(&config, all).unwrap();
            let again: Config = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(again.hash(), config.hash(), "{text}");
        }
    }

    #[test]
    fn the_hash_follows_the_values() {
        let of = |flags| Given { file: SOURCE, environment: &[], flags }.load().unwrap().hash();
        assert_eq!(of(&[]), of(&["time.tick=1000ms"]));
        assert_ne!(of(&[]), of(&["time.tick=2s"]));
    }
}
