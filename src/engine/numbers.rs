//! Numbers that outlive runs, in files of the data directory: of the last generation, and of the last start (its term).
//!
//! Both only rise, and both are also beside the checkpoints, which may be elsewhere: of what is left the highest counts.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::EngineError;
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
    std::fs::create_dir_all(data_dir).map_err(|error| cannot("make", data_dir, &error))?;
    replace(&data_dir.join(GENERATION_FILE), &next.to_string())?;
    Ok(next)
}

/// The term of this start: higher than the last one and than `beside`, what is known beside the checkpoints.
pub(super) fn next_term(data_dir: &Path, beside: Term) -> Result<Term, EngineError> {
    let path = data_dir.join(TERM_FILE);
    let next = read(&path)?.max(beside) + 1;
    if next > MAX_TERM {
        return Err(EngineError::Usage(format!(
            "{} starts are the most that versions of documents have room for, and this is one more: begin anew with another \
             data_dir and another prefix of indices",
            MAX_TERM
        )));
    }
    std::fs::create_dir_all(data_dir).map_err(|error| cannot("make", data_dir, &error))?;
    replace(&path, &next.to_string())?;
    Ok(next)
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

    #[test]
    fn numbers_rise_over_whatever_is_left_and_end_with_words() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        assert_eq!(last_generation(&data).unwrap(), 0);
        assert_eq!([next_generation(&data, 0).unwrap(), next_term(&data, 0).unwrap()], [1, 1]);
        assert_eq!([next_generation(&data, 6).unwrap(), next_term(&data, 4).unwrap()], [7, 5]);
        assert_eq!([next_generation(&data, 0).unwrap(), next_term(&data, 0).unwrap()], [8, 6]);
        assert_eq!(last_generation(&data).unwrap(), 8);
        std::fs::write(data.join("term"), "six").unwrap();
        let error = next_term(&data, 0).unwrap_err().to_string();
        assert!(error.contains("expected a number in") && error.contains("\"six\""), "{error}");
        std::fs::write(data.join("term"), MAX_TERM.to_string()).unwrap();
        assert!(next_term(&data, 0).unwrap_err().to_string().starts_with("524287 starts"));
    }
}
