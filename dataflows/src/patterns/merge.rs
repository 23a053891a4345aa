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
    /// By place: whether a word that introduces a name stands before it, by cut.
    places: usize,
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
        let places = words.first().map_or(0, Vec::len);
        let dictionary = dictionary.into_iter().map(|word| (word, kind(word))).collect();
        Self { words, dictionary, places }
    }

    /// Divides members into patterns, and hands each out with the places that differ.
    fn divide(&self, members: Vec<usize>, emit: &mut impl FnMut(Vec<usize>, &[usize])) {
        let mut pending = vec![members];
        while let Some(members) = pending.pop() {
            if members.len() == 1 {
                emit(members, &[]);
                continue;
            }
            let places: Vec<_> = (0..self.places).map(|place| self.look(&members, place)).collect();
            let varying: Vec<_> = (0..self.places).filter(|place| places[*place].distinct > 1).collect();
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
        let introduced = place > 0
            && members
                .iter()
                .all(|member| INTRODUCING.contains(&self.dictionary[self.words[*member][place - 1] as usize].0));
        let (wild, numbered, names) = (count(Kind::Wild), count(Kind::Numbered), count(Kind::Name));
        let enough = if place == 0 && 2 * (names + numbered) < seen.len() {
            FIRST
        } else if wild > 0 || introduced || numbered == seen.len() {
            2
        } else if 2 * (names + numbered) >= seen.len() {
            NAMES
        } else {
            PLAIN
        };
        Place { distinct: seen.len(), enough, is_text: seen.len() == 1 && wild == 0 }
    }

    fn where_to_divide(&self, places: &[Place], varying: &[usize]) -> Option<usize> {
        let texts = places.iter().filter(|place| place.is_text).count();
        let all_values = varying.iter().all(|place| places[*place].distinct >= places[*place].enough);
        if all_values && varying.len() <= texts {
            return None;
        }
        // The leftmost of those with the fewest different words, by what their kind allows.
        let share = |place: &&usize| places[**place].distinct * 1000 / places[**place].enough;
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

/// So many different words at the first place are values.
const FIRST: usize = 16;
/// So many different names at a place are values.
const NAMES: usize = 4;
/// So many different words at a place are values.
const PLAIN: usize = 6;

/// What stands at a place in some cuts.
struct Place {
    /// Different words.
    distinct: usize,
    /// So many different ones are values.
    enough: usize,
    /// Whether all have the same word, which is no wildcard.
    is_text: bool,
}
