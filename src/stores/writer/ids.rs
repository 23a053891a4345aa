//! Ids and versions of window documents: the id is the same for the same window in every run, the version is that of its start.

use std::collections::BTreeMap;

use floodmark_dataflows::output::WindowDocument;
use floodmark_dataflows::view::Key;
use floodmark_dataflows::view_config::ViewConfig;

use crate::stores::WindowWrite;
use crate::stores::version::Versions;

/// Elasticsearch takes ids of up to 512 bytes; longer keys are cut here and told apart by a hash.
const MAX_ID_BYTES: usize = 400;

/// Gives window documents their ids and versions.
#[derive(Clone, Debug)]
pub struct WindowIds {
    /// `view@hash(definition)/` by view.
    prefixes: BTreeMap<String, String>,
    versions: Versions,
}

impl WindowIds {
    /// For these views, with these versions.
    pub fn new(views: &[ViewConfig], versions: Versions) -> Self {
        let prefix = |view: &ViewConfig| format!("{}@{:016x}/", view.name, hash(definition(view).as_bytes()) as u64);
        let prefixes = views.iter().map(|view| (view.name.clone(), prefix(view))).collect();
        Self { prefixes, versions }
    }

    /// The document with its id and version.
    pub fn identify(&self, document: WindowDocument) -> WindowWrite {
        WindowWrite { id: self.id(&document), version: self.versions.at(document.as_of), document }
    }

    fn id(&self, document: &WindowDocument) -> String {
        let values: Vec<&str> = document.key.0.iter().map(|(_, value)| value.as_str()).collect();
        let key = Key::from_values(&values);
        let prefix = self.prefixes.get(&*document.view).map_or(&*document.view, String::as_str);
        let id = format!("{prefix}{key}/{}", document.start);
        if id.len() <= MAX_ID_BYTES {
            return id;
        }
        let mut kept = prefix.len() + MAX_ID_BYTES / 4;
        while !id.is_char_boundary(kept) {
            kept -= 1;
        }
        format!("{}~{:032x}/{}", &id[..kept], hash(id.as_bytes()), document.start)
    }
}

/// What makes two views of one name different computations: everything but how long and how many of its windows are
/// kept, and what of them is scored.
pub fn definition(view: &ViewConfig) -> String {
    let value = serde_json::to_value(view).unwrap_or_default();
    let mut fields: BTreeMap<String, serde_json::Value> = serde_json::from_value(value).unwrap_or_default();
    for name in ["name", "allowed_lateness", "retention", "max_keys", "forget_after", "score"] {
        fields.remove(name);
    }
    fields.insert("slide".to_owned(), view.slide().to_string().into());
    serde_json::to_string(&fields).unwrap_or_default()
}

/// 128-bit FNV-1a: the same on every machine and in every version.
fn hash(bytes: &[u8]) -> u128 {
    const OFFSET_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET_BASIS, |hash, &byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::super::testing::window;
    use super::*;
    use crate::units::Span;

    fn ids(view: ViewConfig) -> WindowIds {
        WindowIds::new(&[view], Versions::new(1, 1_000))
    }

    #[test]
    fn the_id_tells_windows_and_definitions_apart() {
        let id = |view: ViewConfig, key: &str, start| ids(view).identify(window(key, start, 0)).id;
        let view = ViewConfig::default();
        let first = id(view.clone(), "a/b", 10_000);
        assert!(first.starts_with("per_service@") && first.ends_with("/a%2Fb/10000"), "{first}");
        assert_ne!(first, id(view.clone(), "a/b", 20_000));
        assert_ne!(first, id(ViewConfig { window: Span::from_secs(20), ..view.clone() }, "a/b", 10_000));
        let tumbling = ViewConfig { slide: Some(view.window), ..view.clone() };
        assert_eq!(first, id(tumbling, "a/b", 10_000), "the default slide, written out");
        let longer = ViewConfig { retention: Span::from_secs(7_200), ..view };
        assert_eq!(first, id(longer, "a/b", 10_000), "how long a window is kept is not what it is");
    }

    #[test]
    fn long_keys_are_hashed_and_stay_apart() {
        let id = |key: &str| ids(ViewConfig::default()).identify(window(key, 10_000, 0)).id;
        let (a, b) = (id(&format!("{}a", "ü".repeat(300))), id(&format!("{}b", "ü".repeat(300))));
        assert!(a.len() <= MAX_ID_BYTES && b.len() <= MAX_ID_BYTES);
        assert_ne!(a, b);
    }
}
