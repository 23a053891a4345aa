//! An account held against the documents that are really in the store.
//!
//! In: an [`Account`] whose documents are all acknowledged, the offsets of the dead letters that are kept, and something
//! to ask for what the store holds of a range. Out: a [`Finding`]. Ranges that do not hold what they should are halved
//! until they are short enough to be listed, so the number of questions grows with the gaps, not with the account.
//!
//! What is in the way of naming every offset: of a hole (no record), of a loss and of a dropped record only the number
//! is known, not the place; and where offsets are positions in bytes, those of records that are not in the store cannot
//! be known without reading the source.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Range;

use serde::Serialize;

use super::{Account, Unit};
use crate::stores::Held;

/// Ranges of this length are listed.
const LIST: u64 = 1_000;
/// Gaps and duplicates that are named at the most.
const MAX_NAMED: usize = 1_000;

/// Answers what the store holds of a partition.
pub trait Documents {
    /// What it holds of a range; with offsets if the range is of 1,000 at the most.
    ///
    /// # Errors
    /// Why it cannot be known.
    fn held(&self, account: &Account, offsets: Range<u64>) -> impl Future<Output = anyhow::Result<Held>>;
}

/// What became of a reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The store and the dead letters hold exactly what they should.
    AddsUp,
    /// What is not there is older than all that the store holds of the partition, and the store deletes by age.
    AddsUpWithRetention,
    /// It does not add up.
    DoesNotAddUp,
}

/// What was found of a partition.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Its account.
    pub account: Account,
    /// The verdict.
    pub verdict: Verdict,
    /// Documents that the store should hold.
    pub expected: u64,
    /// Documents that it holds.
    pub documents: u64,
    /// Dead letters that are kept, each offset once.
    pub dead_letters: u64,
    /// Offsets without a document or a dead letter, as `from..to`: at most 1,000 ranges, in order. Holes, losses and
    /// dropped records are among them where there are any.
    pub gaps: Vec<Range<u64>>,
    /// Offsets with more than one document, at most 1,000.
    pub duplicates: Vec<u64>,
    /// There are more gaps or duplicates than are named.
    pub is_cut: bool,
    /// What to know to read this, in sentences.
    pub notes: Vec<String>,
}

/// Reconciles one account. `dead` are the offsets of the dead letters that are kept of it.
///
/// # Errors
/// The store cannot be asked.
pub async fn reconcile(
    account: Account,
    dead: &DeadOffsets,
    documents: &impl Documents,
    mut passed: impl FnMut(u64),
) -> anyhow::Result<Finding> {
    let range = account.first_offset.unwrap_or(account.next_offset)..account.next_offset;
    let whole = documents.held(&account, range.clone()).await?;
    let mut finding = Finding {
        verdict: Verdict::AddsUp,
        expected: account.indexed,
        documents: whole.documents,
        dead_letters: 0,
        gaps: Vec::new(),
        duplicates: Vec::new(),
        is_cut: false,
        notes: Vec::new(),
        account,
    };
    let account = &finding.account;
    let letters: BTreeSet<u64> = dead.all.range(range.clone()).copied().collect();
    finding.dead_letters = letters.len() as u64;
    // Refused after the account was taken, which it was before all was acknowledged.
    let known = account.dead_letters.get("unindexable").copied().unwrap_or(0);
    let refused = (dead.unindexable.range(range.clone()).count() as u64).saturating_sub(known);
    finding.expected -= refused.min(finding.expected);
    let should = account.dead() + refused;
    if finding.dead_letters != should {
        finding.verdict = Verdict::DoesNotAddUp;
        let text = format!(
            "{} dead letters are kept, {should} should be: were some of them moved away, or are they of an earlier run?",
            letters.len()
        );
        finding.notes.push(text);
    }
    if !finding.account.balanced {
        finding.verdict = Verdict::DoesNotAddUp;
        finding.notes.push("the account itself does not balance".to_owned());
    }
    if finding.documents == finding.expected {
        passed(range.end - range.start);
        return Ok(finding);
    }
    let is_short = finding.documents < finding.expected;
    finding.verdict = Verdict::DoesNotAddUp;
    if finding.account.unit == Unit::Records {
        finding.notes.push("offsets are positions in bytes: which ones have no document cannot be told".to_owned());
        return Ok(finding);
    }
    if finding.account.dropped > 0 {
        finding
            .notes
            .push("store.index leaves records out: which offsets should have a document is not known".to_owned());
        return Ok(finding);
    }
    let first_held = search(&mut finding, &letters, range.clone(), whole, documents, passed).await?;
    let unplaced = finding.account.lost + finding.account.no_record;
    if unplaced > 0 && !finding.gaps.is_empty() {
        finding
            .notes
            .push(format!("{unplaced} of the offsets without a document were lost upstream or never were a record"));
    }
    if is_short && first_held.has_retention {
        let kept_from = first_held.offset.max(first_held.hardly_kept);
        let older = finding.gaps.iter().all(|gap| kept_from.is_none_or(|first| gap.end <= first));
        if older && !finding.is_cut && finding.duplicates.is_empty() && finding.notes.is_empty() {
            finding.verdict = Verdict::AddsUpWithRetention;
        }
        let expired = first_held.expired.map_or(String::new(), |n| format!(", {n} of all partitions since it started"));
        let text =
            format!("the store deletes documents by their age{expired}; what is missing before its oldest may be that");
        finding.notes.push(text);
    }
    Ok(finding)
}

/// Offsets of the dead letters of a partition.
#[derive(Clone, Debug, Default)]
pub struct DeadOffsets {
    /// All.
    pub all: BTreeSet<u64>,
    /// Those that the store refused.
    pub unindexable: BTreeSet<u64>,
}

/// The oldest document, and what the store says of its retention.
struct FirstHeld {
    offset: Option<u64>,
    /// Older ones may have come behind it; before this one.
    hardly_kept: Option<u64>,
    has_retention: bool,
    expired: Option<u64>,
}

/// Halves the account, from its beginning on, until every gap is found, or as many as are named.
async fn search(
    finding: &mut Finding,
    letters: &BTreeSet<u64>,
    range: Range<u64>,
    whole: Held,
    documents: &impl Documents,
    mut passed: impl FnMut(u64),
) -> anyhow::Result<FirstHeld> {
    let Held { hardly_kept, has_retention, expired, .. } = whole;
    let mut first = FirstHeld { offset: None, hardly_kept, has_retention, expired };
    let mut waiting = vec![(range, whole)];
    while let Some((range, held)) = waiting.pop() {
        let length = range.end - range.start;
        let candidates = length - letters.range(range.clone()).count() as u64;
        if held.documents == candidates && length > LIST || held.documents == 0 {
            if held.documents > 0 {
                // As full as it can be, unless as many are missing as are there twice.
                first.offset.get_or_insert(range.start);
            }
            if held.documents < candidates {
                finding.gaps_but(range, letters);
            }
            passed(length);
        } else if let Some(offsets) = held.offsets {
            first.offset = first.offset.or(offsets.first().copied());
            let mut next = range.start;
            let mut before = None;
            for &offset in &offsets {
                if before == Some(offset) && finding.duplicates.last() != Some(&offset) {
                    match finding.duplicates.len() < MAX_NAMED {
                        true => finding.duplicates.push(offset),
                        false => finding.is_cut = true,
                    }
                }
                before = Some(offset);
                finding.gaps_but(next..offset, letters);
                next = next.max(offset + 1);
            }
            finding.gaps_but(next..range.end, letters);
            passed(length);
        } else {
            let middle = range.start + length / 2;
            let left = documents.held(&finding.account, range.start..middle).await?;
            // Asked for both: the store may have offsets to list for a short half.
            let right = documents.held(&finding.account, middle..range.end).await?;
            waiting.push((middle..range.end, right));
            waiting.push((range.start..middle, left));
        }
        if finding.is_cut {
            finding.notes.push(format!("more than {MAX_NAMED} gaps or duplicates; the rest was not looked at"));
            break;
        }
    }
    Ok(first)
}

impl Finding {
    /// The store and the dead letters hold what they should.
    pub fn adds_up(&self) -> bool {
        self.verdict != Verdict::DoesNotAddUp
    }

    fn gaps_but(&mut self, range: Range<u64>, letters: &BTreeSet<u64>) {
        let mut from = range.start;
        if range.start >= range.end {
            return;
        }
        for &letter in letters.range(range.clone()) {
            self.gap(from..letter);
            from = letter + 1;
        }
        self.gap(from..range.end);
    }

    fn gap(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        if let Some(last) = self.gaps.last_mut().filter(|last| last.end == range.start) {
            last.end = range.end;
        } else if self.gaps.len() < MAX_NAMED {
            self.gaps.push(range);
        } else {
            self.is_cut = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Documents by offset, with how many times each is there.
    struct Memory {
        documents: BTreeMap<u64, u64>,
        has_retention: bool,
        hardly_kept: Option<u64>,
        asked: Cell<u64>,
    }

    impl Documents for Memory {
        async fn held(&self, _: &Account, offsets: Range<u64>) -> anyhow::Result<Held> {
            self.asked.set(self.asked.get() + 1);
            let found = || self.documents.range(offsets.clone());
            let list = || found().flat_map(|(offset, n)| std::iter::repeat_n(*offset, *n as usize)).collect();
            Ok(Held {
                documents: found().map(|(_, n)| n).sum(),
                offsets: (offsets.end - offsets.start <= LIST).then(list),
                expired: None,
                has_retention: self.has_retention,
                hardly_kept: self.hardly_kept,
            })
        }
    }

    fn account(range: Range<u64>, dead: u64) -> Account {
        let length = range.end - range.start;
        Account {
            topic: "t".into(),
            identity: "t".into(),
            partition: 0,
            unit: Unit::Offsets,
            first_offset: Some(range.start),
            next_offset: range.end,
            acknowledged: Some(range.end),
            expected: length,
            indexed: length - dead,
            dead_letters: BTreeMap::from([("malformed".to_owned(), dead)]),
            dropped: 0,
            lost: 0,
            no_record: 0,
            sum: length,
            balanced: true,
            pending: 0,
        }
    }

    fn audit(range: Range<u64>, dead: &[u64], memory: &Memory) -> Finding {
        let letters = DeadOffsets { all: dead.iter().copied().collect(), ..DeadOffsets::default() };
        let finding = reconcile(account(range, dead.len() as u64), &letters, memory, |_| ());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(finding).unwrap()
    }

    fn full(range: Range<u64>, without: impl Fn(u64) -> bool) -> Memory {
        let documents = range.filter(|offset| !without(*offset)).map(|offset| (offset, 1)).collect();
        Memory { documents, has_retention: false, hardly_kept: None, asked: Cell::new(0) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]
        #[test]
        fn every_gap_is_named_and_nothing_else(
            first in 0..5_000_u64,
            length in 1..30_000_u64,
            missing in proptest::collection::btree_set(0..30_000_u64, 1..30),
            dead in proptest::collection::btree_set(0..30_000_u64, 0..30),
        ) {
            let range = first..first + length;
            let inside = |set: &BTreeSet<u64>| -> BTreeSet<u64> {
                set.iter().map(|offset| first + offset).filter(|offset| range.contains(offset)).collect()
            };
            let dead = inside(&dead);
            let missing: BTreeSet<u64> = inside(&missing).difference(&dead).copied().collect();
            let memory = full(range.clone(), |offset| missing.contains(&offset) || dead.contains(&offset));
            let dead: Vec<u64> = dead.into_iter().collect();
            let finding = audit(range, &dead, &memory);
            prop_assert_eq!(finding.adds_up(), missing.is_empty());
            let named: Vec<u64> = finding.gaps.iter().cloned().flatten().collect();
            prop_assert_eq!(named, missing.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_gap_takes_few_questions() {
        let memory = full(0..1_000_000, |offset| offset == 123_456);
        let finding = audit(0..1_000_000, &[], &memory);
        let gap = 123_456..123_457;
        assert_eq!((finding.gaps, finding.documents), (Vec::from([gap]), 999_999));
        assert!(memory.asked.get() < 30, "{}", memory.asked.get());
    }

    #[test]
    fn duplicates_are_named() {
        let mut memory = full(0..10_000, |_| false);
        memory.documents.insert(7_000, 3);
        let finding = audit(0..10_000, &[], &memory);
        assert_eq!((finding.duplicates.as_slice(), finding.adds_up()), (&[7_000][..], false));
    }

    #[test]
    fn what_retention_took_is_at_the_front() {
        let mut memory = full(0..10_000, |offset| offset < 2_500);
        assert!(!audit(0..10_000, &[], &memory).adds_up());
        memory.has_retention = true;
        let finding = audit(0..10_000, &[], &memory);
        let gap = 0..2_500;
        assert_eq!((finding.verdict, finding.gaps), (Verdict::AddsUpWithRetention, Vec::from([gap])));
        // Records from before the day that is kept came between those of that day.
        memory.documents.remove(&2_510);
        assert!(!audit(0..10_000, &[], &memory).adds_up());
        memory.hardly_kept = Some(2_600);
        assert_eq!(audit(0..10_000, &[], &memory).verdict, Verdict::AddsUpWithRetention);
        memory.documents.remove(&6_000);
        assert!(!audit(0..10_000, &[], &memory).adds_up());
    }

    #[test]
    fn dead_letters_that_are_gone_are_said() {
        let memory = full(0..100, |offset| offset < 10);
        let none = DeadOffsets::default();
        let finding = reconcile(account(0..100, 10), &none, &memory, |_| ());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let finding = runtime.block_on(finding).unwrap();
        assert!(!finding.adds_up() && finding.notes[0].contains("10 should be"), "{finding:?}");
    }
}
