//! What was read of patterns while plans ran, and what checkpoints hold of them: each exact for a time that it names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use floodmark::checkpoint::contents::PatternRow;
use floodmark::checkpoint::restore;
use floodmark::checkpoint::store::CopyStore;
use floodmark_dataflows::patterns::hash::stable_hash;
use serde_json::Value;
use tokio::runtime::Handle;

use crate::naive::REDRIVES;
use crate::naive::patterns::{Counted, Counts, counts_before};
use crate::process::Process;

/// An answer of `GET /patterns`.
#[derive(Clone, Debug)]
pub struct Look {
    as_of: u64,
    answer: Value,
}

/// Asks a process.
pub fn look(process: &mut Process) -> Option<Look> {
    let answer: Value = serde_json::from_str(&process.get("/patterns?size=1000")?).ok()?;
    Some(Look { as_of: answer["as_of"].as_u64()?, answer })
}

/// Compares an answer with the reference: by first cut, by service, by level, and in all. Redrives that were not read yet are
/// dated by the next start, perhaps before what this one had reached: so the answer has the first of them, or all.
pub fn check_look(look: &Look, counted: &[Counted], tick: u64) -> Result<(), String> {
    let redrives = counted.iter().map(|record| record.partition).filter(|partition| *partition >= REDRIVES);
    let limits: BTreeSet<i32> = redrives.chain([i32::MAX]).collect();
    let with = |limit: i32| {
        let counted: Vec<Counted> = counted.iter().filter(|record| record.partition < limit).cloned().collect();
        check_with(look, &counted, tick)
    };
    limits.into_iter().rev().map(with).reduce(Result::or).unwrap_or(Ok(()))
}

/// At the end of the input the time is that of the last record, and everything is in.
fn check_with(look: &Look, counted: &[Counted], tick: u64) -> Result<(), String> {
    let at = look.as_of / tick;
    let is_end = counted.iter().map(|record| record.time).max() == Some(at);
    let before = check_counts(look, &counts_before(counted, at));
    if before.is_err() && is_end { check_counts(look, &counts_before(counted, at + 1)) } else { before }
}

fn check_counts(look: &Look, counts: &Counts) -> Result<(), String> {
    let expected = sums(counts.iter().map(|((cut, service, level), (count, ..))| {
        let id = format!("{:016x}", stable_hash(cut.as_bytes()));
        ([format!("cut {id}"), format!("service {service}"), format!("level {level}")], *count)
    }));
    let mut is: BTreeMap<String, i64> = BTreeMap::new();
    for pattern in look.answer["patterns"].as_array().into_iter().flatten() {
        let number = |value: &Value| value.as_i64().unwrap_or(0);
        let cuts = pattern["cuts"].as_array().into_iter().flatten();
        let cuts = cuts.map(|cut| (format!("cut {}", cut["id"].as_str().unwrap_or_default()), number(&cut["count"])));
        let of = |what: &'static str| {
            let members = pattern[format!("{what}s")].as_object().into_iter().flatten();
            members.map(move |(name, count)| (format!("{what} {name}"), number(count)))
        };
        for (name, count) in cuts.chain(of("service")).chain(of("level")) {
            *is.entry(name).or_default() += count;
        }
        *is.entry("all".to_owned()).or_default() += number(&pattern["count"]);
    }
    is.retain(|_, count| *count != 0);
    if is == expected && look.answer["count"].as_i64() == Some(expected.get("all").copied().unwrap_or(0)) {
        return Ok(());
    }
    Err(format!(
        "GET /patterns as of {}: {}\n  is       {is:?}\n  expected {expected:?}\n",
        look.as_of, look.answer["count"]
    ))
}

fn sums(counts: impl Iterator<Item = ([String; 3], i64)>) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for (places, count) in counts {
        for place in places.into_iter().chain(["all".to_owned()]) {
            *sums.entry(place).or_default() += count;
        }
    }
    sums
}

/// Compares the counts of the newest checkpoint. Says whether there was one.
pub fn check_checkpoint(folder: &Path, runtime: &Handle, counted: &[Counted]) -> Result<bool, String> {
    let store = CopyStore::in_directory(&folder.join("data/checkpoints"), 2).map_err(|e| e.to_string())?;
    let loaded = runtime.block_on(async {
        match restore::choose(&store).await {
            Ok(Some(id)) => restore::load(&store, id).await.map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        }
    });
    let Some(loaded) = loaded.map_err(|e| format!("the last checkpoint: {e}"))? else { return Ok(false) };
    let (mut templates, mut is) = (BTreeMap::new(), Counts::new());
    for row in &loaded.standing.live.patterns {
        match row {
            PatternRow::Cut { id, template, .. } => _ = templates.insert(*id, template.to_string()),
            PatternRow::Count { cut, service, level, count } => {
                let template = templates.get(cut).ok_or(format!("the checkpoint has no cut {cut:016x}"))?;
                let place = (template.clone(), service.to_string(), level.name().to_owned());
                is.insert(place, (count.count, count.first_ms, count.last_ms));
            }
        }
    }
    let expected = counts_before(counted, loaded.manifest.at);
    if is == expected {
        return Ok(loaded.manifest.at > 0);
    }
    let at = loaded.manifest.at;
    Err(format!("counts of patterns in the checkpoint at {at}:\n  is       {is:?}\n  expected {expected:?}\n"))
}
