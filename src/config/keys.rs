//! The keys that the configuration knows, read from its JSON schema: for suggestions, for the reference text, and to
//! tell how the text of an environment variable is meant.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

/// What a value may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A table with known keys.
    Section(Vec<Field>),
    /// A table whose keys are free.
    Map(Box<Kind>),
    /// A list.
    List(Box<Kind>),
    /// A string, with what it is called in the reference.
    Text(&'static str),
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// One of some words, with what each means.
    Choice(Vec<(String, String)>),
    /// Something that only the part itself can tell.
    Any,
}

/// A known key.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name within its section.
    pub name: String,
    /// What it does.
    pub doc: String,
    /// What it may be.
    pub kind: Kind,
    /// Its value when nothing is said; absent when it may be left out and then stands for nothing.
    pub default: Option<Value>,
}

impl Kind {
    /// Everything that `T` accepts.
    pub fn of<T: JsonSchema>() -> Self {
        let schema = SchemaGenerator::default().into_root_schema_for::<T>();
        let root = schema.as_value();
        let empty = Map::new();
        let definitions = root.get("$defs").and_then(Value::as_object).unwrap_or(&empty);
        Reader { definitions, inside: Vec::new() }.kind(root)
    }

    /// What stands at a path within this, if it is known.
    pub fn at(&self, path: &[&str]) -> Option<&Kind> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        match self {
            Kind::Section(fields) => fields.iter().find(|field| field.name == *first)?.kind.at(rest),
            Kind::Map(value) => value.at(rest),
            Kind::List(item) => item.at(path),
            Kind::Any => Some(self),
            _ => None,
        }
    }

    /// How to write one, in the words of the reference.
    pub fn expected(&self) -> String {
        match self {
            Kind::Section(_) | Kind::Map(_) => "a table".to_owned(),
            Kind::List(item) => match &**item {
                Kind::Section(_) | Kind::Map(_) => "a list of tables".to_owned(),
                Kind::Text(name) => format!("a list of {name}s"),
                _ => "a list".to_owned(),
            },
            Kind::Text(name) => format!("a {name}"),
            Kind::Bool => "true or false".to_owned(),
            Kind::Integer => "a whole number".to_owned(),
            Kind::Number => "a number".to_owned(),
            Kind::Choice(words) => words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or "),
            Kind::Any => "a value".to_owned(),
        }
    }
}

struct Reader<'a> {
    definitions: &'a Map<String, Value>,
    /// Definitions being read, to stop at one that contains itself.
    inside: Vec<String>,
}

impl Reader<'_> {
    fn kind(&mut self, schema: &Value) -> Kind {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix("#/$defs/")) {
            match name {
                "Span" => return Kind::Text("duration"),
                "ByteSize" => return Kind::Text("size"),
                "Secret" => return Kind::Text("secret"),
                _ => {}
            }
            let Some(definition) = self.definitions.get(name) else { return Kind::Any };
            if self.inside.iter().any(|outer| outer == name) {
                return Kind::Any;
            }
            self.inside.push(name.to_owned());
            let kind = self.kind(definition);
            self.inside.pop();
            return kind;
        }
        for several in ["anyOf", "oneOf"] {
            if let Some(choices) = schema.get(several).and_then(Value::as_array) {
                return self.one_of(choices);
            }
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array) {
            let words = words.iter().filter_map(Value::as_str).map(|word| (word.to_owned(), String::new()));
            return Kind::Choice(words.collect());
        }
        match self.type_of(schema) {
            Some("object") => self.table(schema),
            Some("array") => Kind::List(Box::new(schema.get("items").map_or(Kind::Any, |item| self.kind(item)))),
            Some("string") => Kind::Text("string"),
            Some("boolean") => Kind::Bool,
            Some("integer") => Kind::Integer,
            Some("number") => Kind::Number,
            _ => Kind::Any,
        }
    }

    /// The type, with an option's `null` left out.
    fn type_of<'s>(&self, schema: &'s Value) -> Option<&'s str> {
        match schema.get("type")? {
            Value::String(name) => Some(name),
            Value::Array(names) => {
                let mut names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
                names.next().filter(|_| names.next().is_none())
            }
            _ => None,
        }
    }

    fn one_of(&mut self, choices: &[Value]) -> Kind {
        let is_null = |choice: &&Value| choice.get("type").and_then(Value::as_str) == Some("null");
        let choices: Vec<_> = choices.iter().filter(|choice| !is_null(choice)).collect();
        if let [only] = choices[..] {
            return self.kind(only);
        }
        let words = choices.iter().flat_map(|choice| match (choice.get("const"), choice.get("enum")) {
            (Some(Value::String(word)), _) => vec![Some((word.clone(), doc(choice)))],
            (_, Some(Value::Array(words))) => {
                words.iter().map(|word| word.as_str().map(|word| (word.to_owned(), String::new()))).collect()
            }
            _ => vec![None],
        });
        words.collect::<Option<Vec<_>>>().map_or(Kind::Any, Kind::Choice)
    }

    fn table(&mut self, schema: &Value) -> Kind {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let fields = properties.iter().map(|(name, field)| Field {
                name: name.clone(),
                doc: doc(field),
                kind: self.kind(field),
                default: field.get("default").filter(|value| !value.is_null()).cloned(),
            });
            return Kind::Section(fields.collect());
        }
        match schema.get("additionalProperties") {
            Some(Value::Bool(false)) => Kind::Section(Vec::new()),
            Some(value) => Kind::Map(Box::new(self.kind(value))),
            None => Kind::Any,
        }
    }
}

fn doc(schema: &Value) -> String {
    schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The known word that is nearest to `word`, if one is near.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&word, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_schema_is_understood() {
        let keys = Kind::of::<Config>();
        assert_eq!(keys.at(&["time", "tick"]), Some(&Kind::Text("duration")));
        assert_eq!(keys.at(&["view", "key"]), Some(&Kind::List(Box::new(Kind::Text("string")))));
        assert_eq!(keys.at(&["view", "max_keys"]), Some(&Kind::Integer));
        assert_eq!(keys.at(&["time", "tock"]), None);
        let Some(Kind::Choice(words)) = keys.at(&["store", "index"]) else { panic!("store.index is not a choice") };
        assert_eq!(words.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>(), ["all", "anomalies", "windows"]);
    }

    #[test]
    fn every_key_is_documented() {
        fn check(path: &str, kind: &Kind) {
            match kind {
                Kind::Section(fields) => {
                    for field in fields {
                        let path = format!("{path}.{}", field.name);
                        assert!(!field.doc.is_empty(), "{path} has no documentation");
                        check(&path, &field.kind);
                    }
                }
                Kind::Map(kind) | Kind::List(kind) => check(path, kind),
                _ => {}
            }
        }
        check("", &Kind::of::<Config>());
    }

    #[test]
    fn near_words_are_found() {
        assert_eq!(nearest("brokrs", ["topic", "brokers"]), Some("brokers"));
        assert_eq!(nearest("max-keys", ["max_keys", "window"]), Some("max_keys"));
        assert_eq!(nearest("zzz", ["topic", "brokers"]), None);
    }
}
