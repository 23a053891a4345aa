//! What the documentation shows must hold.

use std::path::Path;

use crate::support::Dir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

#[test]
fn sample_configurations_are_right() {
    let samples: Vec<_> = std::fs::read_dir(root().join("examples"))
        .expect("cannot read examples")
        .map(|entry| entry.expect("cannot read examples").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    assert!(samples.len() >= 4, "{samples:?}");
    for sample in samples {
        let (text, dir) = (read(&sample), Dir::new());
        let mut command = dir.command(&["check", "-c", &sample.to_string_lossy(), "--set", "api.enabled=false"]);
        if text.contains("[source.kafka]") {
            command = command.env("FLOODMARK_SOURCE__KAFKA__CONNECT_TIMEOUT", "100ms");
        }
        // A password is not in a file.
        if text.contains("username = ") {
            command = command.env("FLOODMARK_STORE__ELASTICSEARCH__PASSWORD", "x");
        }
        let ran = command.run();
        assert_ne!(ran.code(), Some(2), "{}: {}", sample.display(), ran.stderr());
    }
}

#[test]
fn configuration_in_the_readme_is_right() {
    let readme = read(&root().join("README.md"));
    let blocks: Vec<&str> = readme.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let dir = Dir::new();
        dir.file("floodmark.toml", block);
        dir.command(&["config"]).run().expect_code(0);
    }
}

#[test]
fn files_that_the_readme_links_to_are_there() {
    let readme = read(&root().join("README.md"));
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let local: Vec<&str> = links.filter(|link| !link.is_empty() && !link.contains("://")).collect();
    assert!(local.len() > 5, "{local:?}");
    for link in local {
        assert!(root().join(link).exists(), "README.md links to {link}, which is not there");
    }
}
