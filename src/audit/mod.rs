//! The audit: what became of every offset that was read, and whether the store has what it should.
//!
//! In: each partition's [`Ledger`], and up to where the store has acknowledged. Out: an [`Account`] a partition, for
//! `/audit`, `/metrics` and `/health`; and, where asked, [`reconcile`]: the account held against the documents that are
//! really in the store. Nothing here changes anything.

pub mod reconcile;

use std::collections::BTreeMap;

use floodmark_dataflows::input::PartitionInfo;
use floodmark_dataflows::ledger::Ledger;
use floodmark_dataflows::output::Reason;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::live::progress::{PartitionState, ProgressBoard, ProgressSnapshot};

/// What the audit takes for granted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Offsets that the source no longer had when they were to be read, of all partitions together, that are known and
    /// accepted: `/health` is red while there are more. They stay in the account.
    pub accept_lost: u64,
}

/// What an account is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Offsets: each is a record, lost, or never was one.
    Offsets,
    /// Records: offsets are positions in bytes.
    Records,
}

/// What became of the offsets of a partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// Its topic; for files `source.files.topic`.
    pub topic: String,
    /// The stable identity of the topic.
    pub identity: String,
    /// Its number in the topic.
    pub partition: i32,
    /// What is counted: offsets, or records where offsets are positions in bytes.
    pub unit: Unit,
    /// Where the account begins; absent before anything was read.
    pub first_offset: Option<u64>,
    /// Where it ends: the offset to read next.
    pub next_offset: u64,
    /// Everything before this offset is stored, or needs no storing; absent before anything is.
    pub acknowledged: Option<u64>,
    /// What is to be accounted for.
    pub expected: u64,
    /// Records handed to the store and not refused by it.
    pub indexed: u64,
    /// Records that could not be read, indexed or trusted, by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// Records that `store.index` keeps out of the store.
    pub dropped: u64,
    /// Offsets that the source no longer had when they were to be read.
    pub lost: u64,
    /// Offsets without a record: markers of transactions, and what compaction took.
    pub no_record: u64,
    /// All these together.
    pub sum: u64,
    /// Whether the sum is what is to be accounted for.
    pub balanced: bool,
    /// Offsets read and not acknowledged yet: on their way to the store.
    pub pending: u64,
}

impl Account {
    /// The account of a partition as it stands. `refused` of the documents before the ledger's end were refused by the
    /// store in this run.
    pub fn new(partition: &PartitionInfo, mut ledger: Ledger, refused: u64, acknowledged: Option<u64>) -> Self {
        ledger.refuse(refused);
        let from = acknowledged.or(ledger.first_offset).unwrap_or(ledger.next_offset);
        Self {
            topic: partition.topic.to_string(),
            identity: partition.identity.to_string(),
            partition: partition.number,
            unit: if ledger.in_bytes { Unit::Records } else { Unit::Offsets },
            first_offset: ledger.first_offset,
            next_offset: ledger.next_offset,
            acknowledged,
            expected: ledger.span(),
            indexed: ledger.indexed,
            dead_letters: Reason::ALL
                .into_iter()
                .map(|reason| (reason.name().to_owned(), ledger.dead_letters[reason as usize]))
                .filter(|(_, letters)| *letters > 0)
                .collect(),
            dropped: ledger.dropped,
            lost: ledger.lost,
            no_record: ledger.no_record,
            sum: ledger.sum(),
            balanced: ledger.is_balanced(),
            pending: ledger.next_offset.saturating_sub(from),
        }
    }

    fn of((partition, state): (&PartitionInfo, &PartitionState)) -> Self {
        Self::new(partition, state.progress.ledger, state.refused, state.acknowledged)
    }

    /// The partition.
    pub fn info(&self) -> PartitionInfo {
        let (topic, identity) = (self.topic.as_str().into(), self.identity.as_str().into());
        PartitionInfo { topic, identity, number: self.partition }
    }

    /// All dead letters.
    pub fn dead(&self) -> u64 {
        self.dead_letters.values().sum()
    }
}

/// The accounts in a copy of the board, in its order.
pub fn accounts(snapshot: &ProgressSnapshot) -> Vec<Account> {
    snapshot.partitions.iter().map(|(partition, state)| Account::of((partition, state))).collect()
}

/// The check for `/health`.
///
/// # Errors
/// An account does not balance, or more was lost than is accepted; says where, and what to do.
pub fn check(board: &ProgressBoard, config: &AuditConfig) -> Result<String, String> {
    let accounts = accounts(&board.of_all_processes());
    let name = |account: &Account| format!("{}:{}", account.topic, account.partition);
    if let Some(account) = accounts.iter().find(|account| !account.balanced) {
        return Err(format!(
            "the account of {} does not balance: {} of {} are accounted for; see /audit, run `floodmark audit`, and \
             report it",
            name(account),
            account.sum,
            account.expected
        ));
    }
    let lost: u64 = accounts.iter().map(|account| account.lost).sum();
    if lost > config.accept_lost {
        let places: Vec<_> =
            accounts.iter().filter(|a| a.lost > 0).map(|a| format!("{} {}", name(a), a.lost)).collect();
        return Err(format!(
            "the source no longer had {lost} offsets when they were to be read ({}); keep records longer than an outage \
             lasts, and once that is looked into, set audit.accept_lost = {lost}",
            places.join(", ")
        ));
    }
    let expected: u64 = accounts.iter().map(|account| account.expected).sum();
    let pending: u64 = accounts.iter().map(|account| account.pending).sum();
    Ok(format!("{expected} offsets or records of {} partitions accounted for, {pending} pending", accounts.len()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use floodmark_dataflows::output::PartitionProgress;

    use super::*;

    fn board(change: impl FnOnce(&mut Ledger)) -> ProgressBoard {
        let board = ProgressBoard::default();
        let partition = Arc::new(PartitionInfo { topic: "logs".into(), identity: "logs".into(), number: 3 });
        let mut ledger = Ledger::default();
        for offset in [10, 11, 14] {
            ledger.read(offset, 100);
            ledger.take(true);
        }
        change(&mut ledger);
        let progress = PartitionProgress { next_offset: ledger.next_offset, ledger, ..Default::default() };
        board.update(0, &partition, progress);
        board.set_stored(&BTreeMap::from([((*partition).clone(), 12)]), |_, next| u64::from(next == 15));
        board
    }

    #[test]
    fn an_account_shows_what_is_pending_and_refused() {
        let board = board(|_| ());
        let account = &accounts(&board.snapshot())[0];
        assert_eq!((account.expected, account.sum, account.indexed, account.no_record), (5, 5, 2, 2));
        assert_eq!(account.dead_letters, BTreeMap::from([("unindexable".to_owned(), 1)]));
        assert_eq!((account.acknowledged, account.pending, account.balanced), (Some(12), 3, true));
        assert!(check(&board, &AuditConfig::default()).is_ok());
    }

    #[test]
    fn health_is_red_for_what_is_lost_until_it_is_accepted() {
        let board = board(|ledger| ledger.lose(15, 22));
        let problem = check(&board, &AuditConfig::default()).unwrap_err();
        assert!(problem.contains("logs:3 7") && problem.contains("audit.accept_lost = 7"), "{problem}");
        assert!(check(&board, &AuditConfig { accept_lost: 6 }).is_err());
        assert!(check(&board, &AuditConfig { accept_lost: 7 }).is_ok());
    }

    #[test]
    fn health_is_red_when_an_account_does_not_balance() {
        let board = board(|ledger| ledger.dropped += 1);
        assert!(check(&board, &AuditConfig { accept_lost: u64::MAX }).unwrap_err().contains("6 of 5"));
    }
}
