//! Which fields are looked for, where they stand, and what types they may have.

use std::sync::Arc;

use crate::decode::DecodeError;
use crate::decode::access_log::{PARTS, field_names};
use crate::decode::config::{Format, NumericLevels, Preset, RecordsConfig};
use crate::decode::names::{MAX_STEPS, Names};
use crate::decode::numbers::TimeUnit;
use crate::document::COMPUTED_NAMES;
use crate::numbers::{NUMBER_EXPECTED, millionths};
use crate::record::{FIELD_NAMES, FieldRef, Kind, MAX_FIELDS, Record, Span, slot};

/// A mistake in the configuration of records, or a field that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The field map names a field that we do not have.
    #[error("records.fields: \"{0}\" is none of our fields; expected one of {names}", names = FIELD_NAMES.join(", "))]
    UnknownField(String),
    /// A path that is empty, has an empty step or too many.
    #[error("\"{0}\" is not a path; expected up to {MAX_STEPS} names joined by dots, such as \"http.response.status\"")]
    BadPath(String),
    /// Two fields at the same place.
    #[error("records.fields: \"{path}\" is the place of both {first} and {second}; give each its own")]
    SamePath {
        /// The path.
        path: String,
        /// A field.
        first: &'static str,
        /// Another.
        second: &'static str,
    },
    /// Not a part of an access log line.
    #[error("\"{0}\" is no field of an access log; expected one of {names}", names = field_names().collect::<Vec<_>>().join(", "))]
    NoPart(String),
    /// The field map does not apply.
    #[error(
        "records.fields and records.preset are for format = \"json\"; the parts of an access log have their places"
    )]
    MapOfAccessLog,
    /// No room for another field.
    #[error(
        "\"{0}\" is one field too many: views, rules and conditions can use {max} fields beside {names}",
        max = MAX_FIELDS - FIELD_NAMES.len(),
        names = FIELD_NAMES.join(", ")
    )]
    TooManyFields(String),
    /// A rule that there is not.
    #[error("there is no rule named \"{0}\", there are {1}; own rules replace the default ones")]
    NoRule(String, String),
    /// A field that has no numbers.
    #[error("\"{0}\" is not a field of numbers")]
    NoNumber(String),
    /// Patterns are not looked for.
    #[error("\"{0}\" is the pattern of the message, and patterns are turned off; set patterns.enabled = true")]
    NoPatterns(String),
    /// A size out of range.
    #[error("records.max_record_bytes: expected 1 B to 256 MiB, got {0}")]
    BadMaxRecordBytes(crate::units::ByteSize),
}

/// The fields that are looked for in records.
#[derive(Clone, Debug)]
pub struct Schema {
    pub(crate) format: Format,
    pub(crate) names: Names,
    /// Paths with the number of the field that stands there.
    paths: Vec<(String, usize)>,
    next_slot: usize,
    /// Default fields with the number of the field that counts where they are missing or 0.
    pub(crate) fallbacks: Vec<(usize, usize)>,
    /// Default fields, by bit, that stand at the top level under our own name.
    pub(crate) in_place: u16,
    pub(crate) timestamp_unit: TimeUnit,
    pub(crate) response_time_unit: TimeUnit,
    pub(crate) numeric_levels: Option<NumericLevels>,
    /// Values are wrapped by their type, as in `{"stringValue":"x"}`, and attributes may be an array.
    pub(crate) otel_values: bool,
    pub(crate) default_service: &'static str,
    pub(crate) max_record_bytes: usize,
    has_patterns: bool,
    /// Fields, by bit, that are numbers because a view says so.
    numbers: u32,
    /// The names of the rules, in their order.
    rules: Vec<Arc<str>>,
}

impl Schema {
    /// The schema of a configuration, with the default fields only.
    pub fn new(config: &RecordsConfig) -> Result<Self, SchemaError> {
        let max_record_bytes = config.max_record_bytes.0 as usize;
        if max_record_bytes == 0 || max_record_bytes > Span::MAX_BYTES + 1 {
            return Err(SchemaError::BadMaxRecordBytes(config.max_record_bytes));
        }
        if let Some(name) = config.fields.keys().find(|name| !FIELD_NAMES.contains(&name.as_str())) {
            return Err(SchemaError::UnknownField(name.clone()));
        }
        let preset = config.preset;
        let is_log = config.format == Format::AccessLog;
        if is_log && (preset != Preset::Default || !config.fields.is_empty()) {
            return Err(SchemaError::MapOfAccessLog);
        }
        let unnamed = if is_log { "web" } else { "unknown" };
        let mut schema = Self {
            format: config.format,
            names: Names::new(),
            paths: Vec::new(),
            next_slot: slot::EXTRA,
            fallbacks: Vec::new(),
            in_place: 0,
            timestamp_unit: config.timestamp_unit.unwrap_or(preset.timestamp_unit()),
            response_time_unit: config.response_time_unit.unwrap_or(preset.response_time_unit()),
            numeric_levels: config.numeric_levels.or(preset.numeric_levels()),
            otel_values: preset == Preset::Otel,
            default_service: config.default_service.as_deref().map_or(unnamed, |name| match name {
                "" => unnamed,
                // Records borrow it, so it must outlive them all; a process makes a handful of schemas.
                name => name.to_owned().leak(),
            }),
            max_record_bytes,
            has_patterns: false,
            numbers: 0,
            rules: Vec::new(),
        };
        if is_log {
            schema.paths = field_names().enumerate().map(|(number, name)| (name.to_owned(), number)).collect();
            schema.next_slot += PARTS.len();
            return Ok(schema);
        }
        for name in COMPUTED_NAMES {
            schema.names.reserve(name);
        }
        for (number, name) in FIELD_NAMES.into_iter().enumerate() {
            let by_preset = preset.paths().iter().find(|(field, _)| *field == name).map(|(_, paths)| *paths);
            match config.fields.get(name) {
                Some(path) => schema.add_path(path, number)?,
                None => {
                    for path in by_preset.unwrap_or(&[name]) {
                        schema.add_path(path, number)?;
                    }
                }
            }
            let mut own = schema.paths.iter().filter(|(_, at)| *at == number);
            if own.all(|(path, _)| path == name) {
                schema.in_place |= 1 << number;
            } else {
                schema.names.reserve(name);
            }
        }
        for (name, path) in preset.fallbacks() {
            let number = FIELD_NAMES.iter().position(|known| known == name);
            if let Some(number) = number.filter(|_| !config.fields.contains_key(*name))
                && !schema.paths.iter().any(|(known, _)| known == path)
            {
                schema.add_path(path, schema.next_slot)?;
                schema.fallbacks.push((number, schema.next_slot));
                schema.next_slot += 1;
            }
        }
        Ok(schema)
    }

    fn add_path(&mut self, path: &str, number: usize) -> Result<(), SchemaError> {
        if path.split('.').any(str::is_empty) || path.split('.').count() > MAX_STEPS {
            return Err(SchemaError::BadPath(path.to_owned()));
        }
        if let Some((_, other)) = self.paths.iter().find(|(known, _)| known == path) {
            let (first, second) = (FIELD_NAMES[*other], FIELD_NAMES[number]);
            return Err(SchemaError::SamePath { path: path.to_owned(), first, second });
        }
        self.names.add_path(path, number);
        self.paths.push((path.to_owned(), number));
        Ok(())
    }

    /// The schema of records whose messages get patterns: `pattern` and `pattern_id` are fields of theirs.
    pub fn with_patterns(mut self) -> Self {
        self.has_patterns = true;
        self
    }

    fn names_of_rules(&self) -> String {
        if self.rules.is_empty() { "none".to_owned() } else { self.rules.join(", ") }
    }

    /// Records are judged by rules of these names.
    pub(crate) fn name_rules(&mut self, names: impl IntoIterator<Item = Arc<str>>) {
        self.rules = names.into_iter().collect();
    }

    /// Resolves a rule by its name: its place among the rules that were compiled last.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn rule(&self, name: &str) -> Result<u8, SchemaError> {
        let place = self.rules.iter().position(|rule| **rule == *name);
        place.map(|place| place as u8).ok_or_else(|| SchemaError::NoRule(name.to_owned(), self.names_of_rules()))
    }

    /// Resolves a field as [`Schema::field`] does: one that has numbers and nothing else. Records where it is something else
    /// are refused from now on.
    pub fn number(&mut self, name: &str) -> Result<FieldRef, SchemaError> {
        let field = self.field(name)?;
        match field {
            FieldRef::StatusCode | FieldRef::ResponseTime => {}
            FieldRef::Extra(number)
                if usize::from(number) >= slot::EXTRA && (self.format == Format::Json || name == "bytes") =>
            {
                self.numbers |= 1 << number;
            }
            _ => return Err(SchemaError::NoNumber(name.to_owned())),
        }
        Ok(field)
    }

    /// What is wrong with the first field that is to be a number and is something else or out of range.
    fn no_number(&self, record: &Record<'_>) -> Option<DecodeError> {
        (slot::EXTRA..MAX_FIELDS).filter(|number| self.numbers >> number & 1 == 1).find_map(|number| {
            let span = record.fields.spans[number];
            let is_right = match span.kind() {
                Kind::Missing | Kind::Null => true,
                Kind::Number => millionths(record.at(span)).is_some(),
                _ => false,
            };
            let name = || self.paths.iter().find(|(_, at)| *at == number).map_or("", |(path, _)| path);
            (!is_right).then(|| DecodeError::wrong_type(name(), NUMBER_EXPECTED, span.kind(), record.at(span)))
        })
    }

    /// Refuses a record where a field that is to be a number is something else.
    #[inline]
    pub(crate) fn check_numbers(&self, record: &Record<'_>) -> Result<(), DecodeError> {
        match self.numbers {
            0 => Ok(()),
            _ => self.no_number(record).map_or(Ok(()), Err),
        }
    }

    /// Resolves a field by its name among our own, or by its dotted path in the record, and looks for it from now on.
    /// Up to 20 fields beside the default ones.
    pub fn field(&mut self, name: &str) -> Result<FieldRef, SchemaError> {
        match name {
            "pattern" if self.has_patterns => return Ok(FieldRef::Pattern),
            "pattern_id" if self.has_patterns => return Ok(FieldRef::PatternId),
            "pattern" | "pattern_id" => return Err(SchemaError::NoPatterns(name.to_owned())),
            _ => {}
        }
        let known = FIELD_NAMES.iter().position(|known| *known == name);
        let number = match known.or_else(|| self.paths.iter().find(|(path, _)| path == name).map(|(_, at)| *at)) {
            Some(number) => number,
            None if self.format == Format::AccessLog => return Err(SchemaError::NoPart(name.to_owned())),
            None if self.next_slot == MAX_FIELDS => return Err(SchemaError::TooManyFields(name.to_owned())),
            None => {
                self.add_path(name, self.next_slot)?;
                self.next_slot += 1;
                self.next_slot - 1
            }
        };
        Ok(match number {
            slot::TIMESTAMP => FieldRef::Timestamp,
            slot::SERVICE_NAME => FieldRef::ServiceName,
            slot::LEVEL => FieldRef::Level,
            slot::STATUS_CODE => FieldRef::StatusCode,
            slot::RESPONSE_TIME => FieldRef::ResponseTime,
            slot::ERROR_CODE => FieldRef::ErrorCode,
            number => FieldRef::Extra(number as u8),
        })
    }
}

/// The kinds that a default field may have, by bit, with their names for people.
pub(crate) const ALLOWED: [(u16, &str); FIELD_NAMES.len()] = {
    const TEXT: u16 = 1 << Kind::Text as u16 | 1 << Kind::Escaped as u16 | 1 << Kind::LogEscaped as u16;
    const NUMBER: u16 = 1 << Kind::Number as u16;
    const NONE: u16 = 1 << Kind::Missing as u16 | 1 << Kind::Null as u16;
    const ARRAY: u16 = 1 << Kind::Array as u16;
    let mut allowed = [(TEXT | NONE, "text"); FIELD_NAMES.len()];
    // Which numbers, texts and objects these may be is looked at where their values are read.
    allowed[slot::TIMESTAMP] = (u16::MAX, "");
    allowed[slot::LEVEL] = (u16::MAX, "");
    allowed[slot::STATUS_CODE] = (u16::MAX, "");
    allowed[slot::RESPONSE_TIME] = (u16::MAX, "");
    allowed[slot::REQUEST_ID] = (TEXT | NUMBER | NONE, "text or a number");
    allowed[slot::USER_ID] = (TEXT | NUMBER | NONE, "text or a number");
    allowed[slot::ERROR_CODE] = (TEXT | NUMBER | NONE, "text or a number");
    allowed[slot::TAGS] = (TEXT | ARRAY | NONE, "text or an array of texts");
    allowed
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Decoder;

    #[test]
    fn fields_resolve_once() {
        let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
        assert_eq!(schema.field("service_name"), Ok(FieldRef::ServiceName));
        assert_eq!(schema.field("message"), Ok(FieldRef::Extra(slot::MESSAGE as u8)));
        let region = schema.field("cloud.region").unwrap();
        assert_eq!(schema.field("cloud.region"), Ok(region));
        assert_ne!(schema.field("host"), Ok(region));
    }

    #[test]
    fn a_preset_resolves_its_own_paths() {
        let mut schema = Schema::new(&RecordsConfig { preset: Preset::Ecs, ..Default::default() }).unwrap();
        assert_eq!(schema.field("service.name"), Ok(FieldRef::ServiceName));
        assert_eq!(schema.field("service_name"), Ok(FieldRef::ServiceName));
    }

    #[test]
    fn mistakes_are_named() {
        let config = |name: &str, path: &str| RecordsConfig {
            fields: [(name.to_owned(), path.to_owned())].into(),
            ..Default::default()
        };
        let message = |config| Schema::new(&config).unwrap_err().to_string();
        assert!(message(config("servise_name", "a")).contains("\"servise_name\" is none of our fields"));
        assert!(message(config("path", "a..b")).contains("\"a..b\" is not a path"));
        assert!(message(config("path", "message")).contains("\"message\" is the place of both message and path"));
        let too_long = RecordsConfig { max_record_bytes: crate::units::ByteSize::from_mib(512), ..Default::default() };
        assert!(message(too_long).contains("256 MiB"));

        let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
        let room = MAX_FIELDS - FIELD_NAMES.len();
        assert!((0..room).all(|i| schema.field(&format!("field{i}")).is_ok()));
        assert!(schema.field("more").unwrap_err().to_string().contains("\"more\" is one field too many"));
        assert!(schema.field("field3").is_ok());
    }

    #[test]
    fn what_a_view_names_as_a_number_must_be_one() {
        let mut schema = Schema::new(&RecordsConfig::default()).unwrap();
        let (bytes, depth) = (schema.number("bytes").unwrap(), schema.number("queue.depth").unwrap());
        for name in ["message", "level", "user_id", "timestamp"] {
            assert_eq!(schema.number(name), Err(SchemaError::NoNumber(name.to_owned())));
        }
        schema.field("region").unwrap();
        let mut decoder = Decoder::new(schema);
        let mut read = |members: &str| {
            let raw = format!(r#"{{"timestamp":1,{members}}}"#);
            let record = decoder.decode(raw.as_bytes());
            record.map(|record| [bytes, depth].map(|field| record.millionths(field))).map_err(|error| error.to_string())
        };
        assert_eq!(read(r#""bytes":7,"queue":{"depth":-1.5}"#), Ok([Some(7_000_000), Some(-1_500_000)]));
        assert_eq!(read(r#""bytes":null,"region":"eu""#), Ok([None, None]), "not there, and no number that is wanted");
        for members in [r#""bytes":"7""#, r#""bytes":true"#, r#""queue":{"depth":[1]}"#, r#""bytes":9000000000001"#] {
            let error = read(members).unwrap_err();
            assert!(
                error.starts_with("wrong_type: ") && error.contains("expected a number from"),
                "{members}: {error}"
            );
        }
    }

    #[test]
    fn only_the_bytes_of_an_access_log_are_numbers() {
        let mut schema = Schema::new(&RecordsConfig { format: Format::AccessLog, ..Default::default() }).unwrap();
        assert!(schema.number("bytes").is_ok());
        assert_eq!(schema.number("client"), Err(SchemaError::NoNumber("client".to_owned())));
    }

    #[test]
    fn a_pattern_is_a_field_where_patterns_are_looked_for() {
        let schema = || Schema::new(&RecordsConfig::default()).unwrap();
        assert_eq!(schema().with_patterns().field("pattern"), Ok(FieldRef::Pattern));
        assert_eq!(schema().with_patterns().field("pattern_id"), Ok(FieldRef::PatternId));
        let error = schema().field("pattern_id").unwrap_err().to_string();
        assert!(error.contains("patterns.enabled = true"), "{error}");
    }

    #[test]
    fn every_preset_is_consistent() {
        use Preset::*;
        for preset in [Default, Ecs, Otel, Pino, Zerolog, Logrus, Log4j] {
            Schema::new(&RecordsConfig { preset, ..std::default::Default::default() }).unwrap();
            assert!(preset.paths().iter().all(|(field, _)| FIELD_NAMES.contains(field)));
        }
    }
}
