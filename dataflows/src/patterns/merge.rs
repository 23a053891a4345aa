//! From first cuts to patterns: what the first cut could not know to be a value shows in how the cuts differ.
//!
//! In: a set of first cuts. Out: the patterns, each with its cuts; every cut is in one pattern. The result is a function
//! of the set: neither the order nor how often a message came counts. Cuts of different [groups](group_of) never share
//! a pattern, so that a new cut concerns its group alone.
//!
//! Within a group all cuts have the same punctuation and number of words. The set is divided at the place that is most
//! likely to hold words of the program (few different ones, compared with what its kind allows) until the
//! places that differ all look like values: so many different words that they cannot be part of the text, few such
//! places, and enough words that agree.

use std::collections::BTreeMap;

use super::admission::OTHER_CUT;
use super::classes::{STOP, class};
use super::cut::WILDCARD;
use super::hash::stable_hash;

/// A pattern: a set of first cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The hash of the template; where nothing was merged, the same as that of its first cut.
    pub id: u64,
    /// The words that all its messages share, with `<*>` for values.
    pub template: String,
    /// The ids of its first cuts, ascending.
    pub cuts: Vec<u64>,
}

/// The group of a first cut: a hash of its punctuation and number of words.
pub fn group_of(template: &str) -> u64 {
    let mut skeleton = Vec::new();
    for element in elements(template) {
        skeleton.push(match element.is_word {
            true => b'w',
            false => element.text.as_bytes()[0],
        });
    }
    stable_hash(&skeleton)
}

/// The patterns of a set of first cuts, each an id and a template, in ascending order of their templates.
pub fn merge<'a>(cuts: impl IntoIterator<Item = (u64, &'a str)>) -> Vec<Pattern> {
    let mut groups: BTreeMap<u64, Vec<(u64, &str)>> = BTreeMap::new();
    for (id, template) in cuts {
        groups.entry(group_of(template)).or_default().push((id, template));
    }
    let mut patterns: Vec<_> = groups.into_values().flat_map(merge_group).collect();
    patterns.sort_unstable_by(|a, b| a.template.cmp(&b.template));
    patterns
}

/// The patterns of the first cuts of one group.
pub fn merge_group(mut cuts: Vec<(u64, &str)>) -> Vec<Pattern> {
    cuts.sort_unstable_by_key(|(id, template)| (*template, *id));
    cuts.dedup();
    let mut patterns = Vec::new();
    // What was folded away is a pattern of its own.
    if let Some(other) = cuts.iter().position(|(id, _)| *id == OTHER_CUT) {
        let (id, template) = cuts.remove(other);
        patterns.push(Pattern { id, template: template.to_owned(), cuts: vec![id] });
    }
    if cuts.is_empty() {
        return patterns;
    }
    if let [(id, template)] = cuts[..] {
        patterns.push(Pattern { id, template: template.to_owned(), cuts: vec![id] });
        return patterns;
    }
    let group = Group::new(&cuts);
    group.divide((0..cuts.len()).collect(), &mut |members, varying| {
        patterns.push(group.pattern(&cuts, &members, varying));
    });
    patterns
}

/// A word or a punctuation mark of a template.
#[derive(Clone, Copy)]
struct Element<'a> {
    text: &'a str,
    /// Where it begins in the template.
    at: usize,
    is_word: bool,
}

fn elements(template: &str) -> impl Iterator<Item = Element<'_>> {
    let bytes = template.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while bytes.get(at) == Some(&b' ') {
            at += 1;
        }
        let start = at;
        while at < bytes.len() {
            if bytes[at..].starts_with(WILDCARD.as_bytes()) {
                at += WILDCARD.len();
            } else if class(bytes[at]) & STOP == 0 {
                at += 1;
            } else {
                break;
            }
        }
        let mut end = at;
        while end > start && bytes[end - 1] == b'.' {
            end -= 1;
        }
        if end > start {
            at = end;
            return Some(Element { text: &template[start..end], at: start, is_word: true });
        }
        at = start + 1;
        (start < bytes.len()).then(|| Element { text: &template[start..at], at: start, is_word: false })
    })
}

/// The words of a group's cuts, as numbers.
struct Group<'a> {
    /// By cut and place of a word.
    words: Vec<Vec<u32>>,
    /// Each word and its kind, in alphabetical order.
    dictionary: Vec<(&'a str, Kind)>,
    /// By place: whether it stands alone in quotation marks.
    is_quoted: Vec<bool>,
}

/// What a word may be, by its looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A wildcard.
    Wild,
    /// A numbered thing: `task_<*>`.
    Numbered,
    /// A word with a wildcard, with dots or other marks in it: a name rather than a word.
    Name,
    /// A word of a language.
    Plain,
}

fn kind(word: &str) -> Kind {
    if word == WILDCARD {
        Kind::Wild
    } else if word.ends_with("_<*>") || word.ends_with("-<*>") {
        Kind::Numbered
    } else if word.contains(['<', '.', '_', '/', '\\', '@', '-', '$']) {
        Kind::Name
    } else {
        Kind::Plain
    }
}

/// Words that introduce a name.
const INTRODUCING: [&str; 6] = ["user", "username", "host", "hostname", "file", "directory"];

impl<'a> Group<'a> {
    fn new(cuts: &[(u64, &'a str)]) -> Self {
        let texts: Vec<Vec<&str>> = cuts
            .iter()
            .map(|(_, template)| elements(template).filter(|element| element.is_word).map(|e| e.text).collect())
            .collect();
        let mut dictionary: Vec<&str> = texts.iter().flatten().copied().collect();
        dictionary.sort_unstable();
        dictionary.dedup();
        let number = |word: &&str| dictionary.binary_search(word).unwrap_or_default() as u32;
        let words: Vec<Vec<u32>> = texts.iter().map(|words| words.iter().map(number).collect()).collect();
        let first: Vec<_> = cuts.first().into_iter().flat_map(|(_, template)| elements(template)).collect();
        let is_mark = |at: usize| first.get(at).is_some_and(|element| matches!(element.text, "\"" | "'" | "`"));
        let is_quoted = (0..first.len())
            .filter(|at| first[*at].is_word)
            .map(|at| at > 0 && is_mark(at - 1) && is_mark(at + 1))
            .collect();
        let dictionary = dictionary.into_iter().map(|word| (word, kind(word))).collect();
        Self { words, dictionary, is_quoted }
    }

    /// Divides members into patterns, and hands each out with the places that differ.
    fn divide(&self, members: Vec<usize>, emit: &mut impl FnMut(Vec<usize>, &[usize])) {
        let mut pending = vec![members];
        while let Some(members) = pending.pop() {
            if members.len() == 1 {
                emit(members, &[]);
                continue;
            }
            let places: Vec<_> = (0..self.is_quoted.len()).map(|place| self.look(&members, place)).collect();
            let varying: Vec<_> = (0..self.is_quoted.len()).filter(|place| places[*place].distinct > 1).collect();
            match self.where_to_divide(&places, &varying) {
                None => emit(members, &varying),
                Some(place) => {
                    let mut parts: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
                    for member in members {
                        parts.entry(self.words[member][place]).or_default().push(member);
                    }
                    pending.extend(parts.into_values());
                }
            }
        }
    }

    fn look(&self, members: &[usize], place: usize) -> Place {
        let mut seen: Vec<u32> = members.iter().map(|member| self.words[*member][place]).collect();
        seen.sort_unstable();
        seen.dedup();
        let count = |wanted| seen.iter().filter(|word| self.dictionary[**word as usize].1 == wanted).count();
        let (wild, numbered, names) = (count(Kind::Wild), count(Kind::Numbered), count(Kind::Name));
        let is_introduced = || {
            let before = |member: &usize| self.dictionary[self.words[*member][place - 1] as usize].0;
            let introduces = |member| INTRODUCING.iter().any(|word| word.eq_ignore_ascii_case(before(member)));
            place > 0 && members.iter().all(introduces)
        };
        let looks = if seen.len() == 1 {
            if wild == 0 { Looks::Text } else { Looks::Value }
        } else if place > 0 && (wild > 0 || is_introduced()) || numbered == seen.len() {
            Looks::Value
        } else if 2 * (wild + names + numbered) >= seen.len() {
            Looks::Names
        } else if self.is_quoted[place] {
            Looks::Quoted
        } else {
            Looks::Words
        };
        Place { distinct: seen.len(), looks }
    }

    /// The place to divide at, or none if all that differs is a value.
    fn where_to_divide(&self, places: &[Place], varying: &[usize]) -> Option<usize> {
        let texts = places.iter().filter(|place| place.looks == Looks::Text).count();
        let words = varying.iter().filter(|place| places[**place].looks == Looks::Words).count();
        let enough = |place: usize| match places[place].looks {
            Looks::Text | Looks::Value => 2,
            Looks::Quoted => 3,
            Looks::Names => 4,
            Looks::Words if place == 0 => 16,
            // The more of the text agrees, the fewer different words are needed.
            Looks::Words => {
                words
                    * match texts {
                        0 | 1 => 16,
                        2 => 8,
                        3..8 => 6,
                        8.. => 4,
                    }
            }
        };
        let all_values = varying.iter().all(|place| places[*place].distinct >= enough(*place));
        if all_values && varying.len() + words <= texts.max(1) + usize::from(words == 1) {
            return None;
        }
        // The leftmost of those with the fewest different words, by what their kind allows.
        let share = |place: &&usize| places[**place].distinct * 1000 / enough(**place);
        varying.iter().min_by_key(share).copied()
    }

    fn pattern(&self, cuts: &[(u64, &str)], members: &[usize], varying: &[usize]) -> Pattern {
        let (id, text) = cuts[members[0]];
        if members.len() == 1 {
            return Pattern { id, template: text.to_owned(), cuts: vec![id] };
        }
        let mut template = String::with_capacity(text.len());
        let mut written = 0;
        for (place, element) in elements(text).filter(|element| element.is_word).enumerate() {
            if varying.contains(&place) {
                template.push_str(&text[written..element.at]);
                template.push_str(WILDCARD);
                written = element.at + element.text.len();
            }
        }
        template.push_str(&text[written..]);
        let mut cuts: Vec<u64> = members.iter().map(|member| cuts[*member].0).collect();
        cuts.sort_unstable();
        Pattern { id: stable_hash(template.as_bytes()), template, cuts }
    }
}

/// What stands at a place in some cuts.
struct Place {
    /// Different words.
    distinct: usize,
    looks: Looks,
}

/// What the words at a place look like together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    /// All the same word, which is no wildcard.
    Text,
    /// A wildcard is among them, all are numbered things, or a word before them introduces a name.
    Value,
    /// Words, each in quotation marks.
    Quoted,
    /// Names rather than words of a language, by half at least.
    Names,
    /// Words of a language.
    Words,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::patterns::cut::Cutter;

    fn cuts(messages: &[&str]) -> Vec<(u64, String)> {
        let mut cutter = Cutter::default();
        let owned = |message: &&str| {
            let cut = cutter.cut(message);
            (cut.id, cut.template.to_owned())
        };
        messages.iter().map(owned).collect()
    }

    fn merged(cuts: &[(u64, String)]) -> Vec<Pattern> {
        merge(cuts.iter().map(|(id, template)| (*id, template.as_str())))
    }

    fn templates(messages: &[&str]) -> Vec<String> {
        merged(&cuts(messages)).into_iter().map(|pattern| pattern.template).collect()
    }

    #[test]
    fn what_takes_many_values_is_a_value() {
        let names = ["root", "alice", "bob", "carol", "dave", "eve"];
        let lines: Vec<String> = names.iter().map(|name| format!("session of {name} was closed by peer")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(templates(&lines), ["session of <*> was closed by peer"]);
        assert_eq!(templates(&lines[..3]).len(), 3);
    }

    #[test]
    fn a_number_in_the_same_place_shows_that_words_are_values() {
        assert_eq!(templates(&["job of unit main is done", "job of unit 17 is done"]), ["job of unit <*> is done"]);
        assert_eq!(
            templates(&["login of user root failed", "login of user guest failed"]),
            ["login of user <*> failed"]
        );
    }

    #[test]
    fn states_and_verbs_stay_apart() {
        let lines = ["link up on port 1", "link down on port 1", "cache is full", "cache is empty"];
        assert_eq!(templates(&lines).len(), 4);
        let verbs = ["starting", "running", "blocked", "closing", "normal", "warning", "critical", "active", "idle"];
        assert_eq!(templates(&verbs).len(), verbs.len());
    }

    #[test]
    fn one_cut_is_its_own_pattern() {
        let cuts = cuts(&["disk 5 failed"]);
        let patterns = merged(&cuts);
        assert_eq!((patterns[0].id, &patterns[0].template), (cuts[0].0, &cuts[0].1));
    }

    #[test]
    fn what_was_folded_away_is_a_pattern_of_its_own() {
        let mut cuts = cuts(&["alpha", "beta"]);
        cuts.push((OTHER_CUT, crate::view::OTHER.to_owned()));
        let patterns = merged(&cuts);
        assert_eq!(patterns.len(), 3);
        assert!(patterns.iter().any(|pattern| pattern.id == OTHER_CUT && pattern.cuts == [OTHER_CUT]));
    }

    fn messages() -> impl Strategy<Value = Vec<String>> {
        let word = prop::sample::select(vec![
            "open",
            "close",
            "user",
            "root",
            "alice",
            "bob",
            "carol",
            "dave",
            "eve",
            "host.example.org",
            "a.b.c",
            "x_1",
            "y_2",
            "17",
            "on",
            "of",
            "(",
            ")",
            "\"",
            ":",
            "failed",
            "is",
        ]);
        let message = prop::collection::vec(word, 1..6).prop_map(|words| words.join(" "));
        prop::collection::vec(message, 1..80)
    }

    proptest! {
        #[test]
        fn neither_order_nor_repetition_nor_parts_show(messages in messages(), seed in any::<u64>()) {
            let messages: Vec<&str> = messages.iter().map(String::as_str).collect();
            let cuts = cuts(&messages);
            let patterns = merged(&cuts);

            let mut shuffled = cuts.clone();
            shuffled.sort_by_key(|(id, template)| stable_hash(format!("{seed}{id}{template}").as_bytes()));
            shuffled.extend_from_slice(&cuts[..cuts.len() / 2]);
            prop_assert_eq!(&merged(&shuffled), &patterns);

            // Group by group, as it is done when few groups change.
            let mut by_group: BTreeMap<u64, Vec<(u64, &str)>> = BTreeMap::new();
            for (id, template) in &shuffled {
                by_group.entry(group_of(template)).or_default().push((*id, template));
            }
            let mut parts: Vec<_> = by_group.into_values().flat_map(merge_group).collect();
            parts.sort_by(|a, b| a.template.cmp(&b.template));
            prop_assert_eq!(&parts, &patterns);
        }

        #[test]
        fn every_cut_is_in_one_pattern_and_templates_differ(messages in messages()) {
            let messages: Vec<&str> = messages.iter().map(String::as_str).collect();
            let cuts = cuts(&messages);
            let patterns = merged(&cuts);
            let ids: BTreeSet<u64> = cuts.iter().map(|(id, _)| *id).collect();
            let mut found: Vec<u64> = patterns.iter().flat_map(|pattern| pattern.cuts.clone()).collect();
            found.sort_unstable();
            prop_assert_eq!(found, ids.into_iter().collect::<Vec<_>>());
            let templates: BTreeSet<_> = patterns.iter().map(|pattern| &pattern.template).collect();
            prop_assert_eq!(templates.len(), patterns.len());
        }
    }
}
