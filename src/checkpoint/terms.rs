//! Terms: the numbers of starts, that stand first in the versions of documents.
//!
//! In: the place of checkpoints. Out: a term that no other start has. It is taken by making a file of its name, which only
//! one can; the files of lower terms are deleted then. What is in the file tells the attempts of one start from those of
//! another. On error: the start fails, and another one takes the next term.

use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;

use super::chain_of;
use super::store::{CopyStore, StoreError};
use crate::stores::version::Term;

/// The folder, in the folder of each copy.
const FOLDER: &str = "terms";

/// The highest term that was taken; 0 for none.
///
/// # Errors
/// When the place cannot be listed.
pub async fn last(store: &CopyStore) -> Result<Term, StoreError> {
    Ok(taken(store).await?.into_iter().max().unwrap_or(0))
}

/// Takes a term, the lowest from `least` on that nobody has and that is above all that were taken.
///
/// # Errors
/// When the place cannot be listed or written.
pub async fn take(store: &CopyStore, least: Term) -> Result<Term, StoreError> {
    let mut term = least;
    // Its keys are drawn by the system.
    let by_whom = Bytes::from(format!("{:016x}\n", RandomState::new().hash_one(term)));
    let all = loop {
        match store.create(&name(term), by_whom.clone()).await {
            Err(StoreError::Exists(_)) => {
                term += 1;
                continue;
            }
            created => created?,
        }
        // Only now: who had this term may have gone already, since a higher one was taken.
        let all = taken(store).await?;
        match all.iter().max() {
            Some(&highest) if highest > term => term = highest + 1,
            _ => break all,
        }
    };
    for earlier in all.into_iter().filter(|earlier| *earlier < term) {
        if let Err(error) = store.delete(&name(earlier)).await {
            tracing::warn!(earlier, "the file of an earlier term stays for now: {}", chain_of(&error));
        }
    }
    Ok(term)
}

async fn taken(store: &CopyStore) -> Result<Vec<Term>, StoreError> {
    let names = store.list(FOLDER).await?;
    Ok(names.iter().filter_map(|name| name.rsplit('/').next()?.parse().ok()).collect())
}

fn name(term: Term) -> String {
    format!("{FOLDER}/{term}")
}

#[cfg(test)]
mod tests {
    use super::super::testing::Place;
    use super::*;

    #[tokio::test]
    async fn no_two_starts_have_the_same_term() {
        let store = CopyStore::over(Place::new(), 2);
        assert_eq!(last(&store).await.unwrap(), 0);
        let taken = futures_util::future::join_all((0..5).map(|_| take(&store, 7))).await;
        let mut taken: Vec<Term> = taken.into_iter().map(Result::unwrap).collect();
        taken.sort_unstable();
        assert!(taken.windows(2).all(|pair| pair[0] < pair[1]) && taken[0] == 7, "{taken:?}");
        let highest = taken[4];
        assert_eq!(last(&store).await.unwrap(), highest);
        assert_eq!(take(&store, 3).await.unwrap(), highest + 1);
        assert_eq!(take(&store, 5_000).await.unwrap(), 5_000);
        assert_eq!(super::taken(&store).await.unwrap(), [5_000], "lower ones are gone");
    }
}
