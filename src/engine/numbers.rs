//! Numbers that outlive runs, in files of the data directory: of the last generation, and the term of the last start.
//!
//! Both only rise, and both are also beside the checkpoints, which may be elsewhere: of what is left the highest counts. Terms
//! rise by the clock too, so that also where nothing is left the next one is hardly ever too low.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use floodmark_dataflows::time::Millis;

use super::EngineError;
use crate::checkpoint::store::CopyStore;
use crate::checkpoint::{CheckpointError, restore, terms};
use crate::sources::wall_clock_ms;
use crate::stores::version::{MAX_TERM, Term};

/// Holds the number of this line of runs.
const GENERATION_FILE: &str = "generation";
/// Holds the term of the last start.
const TERM_FILE: &str = "term";

/// The number of the last start that began anew; 0 before the first.
///
/// # Errors
/// When the file that it is in cannot be read.
pub fn last_generation(data_dir: &Path) -> Result<u64, EngineError> {
    read(&data_dir.join(GENERATION_FILE))
}

/// The number for a start that continues no checkpoint: a new generation, higher than the last one and than `beside`, the
/// highest beside the checkpoints.
pub(super) fn next_generation(data_dir: &Path, beside: u64) -> Result<u64, EngineError> {
    let next = last_generation(data_dir)?.max(beside) + 1;
    write(data_dir, GENERATION_FILE, next)?;
    Ok(next)
}

/// The term of this start: higher than that of any before it that is known. With `takes` it is taken beside the checkpoints,
/// and nobody else has it.
pub(super) async fn next_term(data_dir: &Path, store: &CopyStore, takes: bool) -> Result<Term, EngineError> {
    let mut known = read(&data_dir.join(TERM_FILE))?.max(terms::last(store).await.map_err(CheckpointError::from)?);
    if known == 0 {
        // Documents of a program before terms have their generations in that place.
        let highest = restore::highest_generation(store).await.map_err(CheckpointError::from)?;
        known = last_generation(data_dir)?.max(highest);
    }
    let mut term = (known + 1).max(by_clock(wall_clock_ms()));
    if term > MAX_TERM {
        return Err(EngineError::Usage(format!(
            "term {known} was the last that versions of documents have room for: begin anew with another data_dir, another \
             checkpoint.url and another prefix of indices"
        )));
    }
    if takes {
        term = terms::take(store, term).await.map_err(CheckpointError::from)?;
    }
    write(data_dir, TERM_FILE, term)?;
    Ok(term)
}

/// Hours since 2026, so that a start has a higher term than those before it also where none of them is known, unless there
/// were several an hour for long. A clock that is far ahead leaves half of all terms.
fn by_clock(now_ms: Millis) -> Term {
    const YEAR_2026_MS: Millis = 1_767_225_600_000;
    (now_ms.saturating_sub(YEAR_2026_MS) / 3_600_000).min(MAX_TERM / 2)
}

fn write(data_dir: &Path, file: &str, number: u64) -> Result<(), EngineError> {
    std::fs::create_dir_all(data_dir).map_err(|error| cannot("make", data_dir, &error))?;
    replace(&data_dir.join(file), &number.to_string())
}

fn read(path: &Path) -> Result<u64, EngineError> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse::<u64>().map_err(|_| {
            let advice = "remove the file, or put the last number into it";
            EngineError::Process(format!("expected a number in {}, got \"{}\": {advice}", path.display(), text.trim()))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(cannot("read", path, &error)),
    }
}

/// Replaces a file by one of a line, which is on disk when this returns.
pub(super) fn replace(path: &Path, line: &str) -> Result<(), EngineError> {
    // Of its own: several processes may share the directory and start together.
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| cannot("write", path, &error))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let replaced = std::fs::rename(&new, path).and_then(|()| File::open(folder)?.sync_all());
    replaced.map_err(|error| cannot("replace", path, &error))
}

pub(super) fn cannot(what: &str, path: &Path, error: &std::io::Error) -> EngineError {
    EngineError::Process(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn numbers_rise_over_whatever_is_left_and_end_with_words() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let store = |name: &str| CopyStore::in_directory(&dir.path().join(name), 2).unwrap();
        let (here, elsewhere) = (store("here"), store("elsewhere"));
        assert_eq!(last_generation(&data).unwrap(), 0);
        assert_eq!([0, 6, 0].map(|beside| next_generation(&data, beside).unwrap()), [1, 7, 8]);
        assert_eq!(last_generation(&data).unwrap(), 8);
        let first = next_term(&data, &here, true).await.unwrap();
        let by_clock = by_clock(wall_clock_ms());
        assert!((by_clock - 1..=by_clock).contains(&first), "{first}");
        assert_eq!(next_term(&data, &here, false).await.unwrap(), first + 1);
        assert_eq!(next_term(&data, &elsewhere, true).await.unwrap(), first + 2);
        assert_eq!(next_term(&dir.path().join("other"), &elsewhere, true).await.unwrap(), first + 3);
        assert_eq!(next_term(&data, &here, true).await.unwrap(), first + 3, "of that place it knows nothing");
        std::fs::write(data.join("term"), "six").unwrap();
        let error = next_term(&data, &here, true).await.unwrap_err().to_string();
        assert!(error.contains("expected a number in") && error.contains("\"six\""), "{error}");
        std::fs::write(data.join("term"), MAX_TERM.to_string()).unwrap();
        assert!(next_term(&data, &here, true).await.unwrap_err().to_string().starts_with("term 524287 was the last"));
    }

    #[tokio::test]
    async fn the_first_term_is_above_the_generations_before_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("generation"), "300000").unwrap();
        let store = CopyStore::in_directory(&dir.path().join("checkpoints"), 2).unwrap();
        assert_eq!(next_term(dir.path(), &store, true).await.unwrap(), 300_001);
    }

    #[test]
    fn a_wrong_clock_leaves_terms() {
        assert_eq!([0, 1_767_225_600_000 + 7_200_000, u64::MAX].map(by_clock), [0, 2, MAX_TERM / 2]);
    }
}
