//! The audit of a run as processes: the account while it runs, and the store held against it.

use serde_json::Value;

use crate::support::{Dir, Running, Signal, eventually};

/// A generated log that goes on for as long as a test needs it: offsets are numbers of records, and some are too long.
const SOURCE: &str = "\
    [records]\nmax_record_bytes = \"370B\"\n[source.generator]\nrate = 2000\n[api]\nlisten = \"127.0.0.1:0\"\n";

/// Waits until this many offsets are read; answers the account and the address.
fn account(run: &mut Running, offsets: u64) -> (Value, String) {
    let line = run.expect_line("http://127.0.0.1:");
    let at = line.find("http://").expect("an address");
    let url = line[at..].trim_end().to_owned();
    let api = crate::support::Api::at(&line);
    let answer = eventually("enough is read", || {
        let answer = api.get("/audit")?;
        assert_eq!(answer["balanced"], true, "{answer}");
        let partitions = answer["partitions"].as_array()?;
        let full = |p: &Value| p["next_offset"].as_u64() >= Some(offsets) && p["dead_letters"]["too_long"].is_u64();
        (!partitions.is_empty() && partitions.iter().all(full)).then_some(answer)
    });
    (answer, url)
}

fn audited(stdout: &str) -> Vec<Value> {
    serde_json::from_str(stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

#[test]
fn a_document_deleted_from_the_file_is_named() {
    let dir = Dir::new();
    dir.file(
        "floodmark.toml",
        &format!("{SOURCE}[store.ndjson]\nlogs = \"logs.ndjson\"\nwindows = \"windows.ndjson\"\n"),
    );
    let mut run = dir.command(&["run"]).start();
    let (answer, url) = account(&mut run, 1_500);
    let first = &answer["partitions"][0];
    let of = |name: &str| first[name].as_u64().unwrap_or_else(|| panic!("{name}: {first}"));
    assert_eq!((of("expected"), of("sum")), (of("next_offset"), of("next_offset")));
    let adds_up = dir.command(&["audit", "--json", "--url", &url]).run().expect_code(0);
    assert!(audited(&adds_up.stdout()).iter().all(|finding| finding["verdict"] == "adds_up"));

    // Another file under the same name: the run goes on writing to the one it has open.
    let logs = dir.path().join("logs.ndjson");
    let text = std::fs::read_to_string(&logs).unwrap();
    let place = |line: &str| -> Option<(i64, u64)> {
        let document: Value = serde_json::from_str(line).ok()?;
        Some((document["partition"].as_i64()?, document["offset"].as_u64()?))
    };
    let (partition, offset) = text.lines().filter_map(place).find(|(_, offset)| *offset > 1_100).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| place(line) != Some((partition, offset))).collect();
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
    // The same accounts, now that the process is gone: they end before what came after them.
    dir.file("logs.ndjson", &(kept.join("\n") + "\n"));
    dir.file("account.json", &answer.to_string());
    let found = dir.command(&["audit", "--json", "--account", "account.json"]).run().expect_code(1);
    let findings = audited(&found.stdout());
    for finding in &findings {
        let is_it = finding["account"]["partition"] == partition;
        let gaps =
            if is_it { serde_json::json!([{ "start": offset, "end": offset + 1 }]) } else { serde_json::json!([]) };
        assert_eq!(finding["gaps"], gaps, "{finding}");
    }
    let table = dir.command(&["audit", "--account", "account.json"]).run().expect_code(1);
    assert!(table.stdout().contains(&format!("no document of offset {offset}\n")), "{}", table.stdout());
    assert!(table.stderr().contains("1 of "), "{}", table.stderr());
}

#[test]
fn the_embedded_store_adds_up_while_it_runs_and_afterwards() {
    let dir = Dir::new();
    dir.file("floodmark.toml", SOURCE);
    let mut run = dir.command(&["run"]).start();
    let (answer, url) = account(&mut run, 1_000);
    let found = dir.command(&["audit", "--json", "--url", &url]).run().expect_code(0);
    for finding in audited(&found.stdout()) {
        assert_eq!(finding["documents"], finding["account"]["indexed"], "{finding}");
        assert_eq!(finding["dead_letters"], finding["account"]["dead_letters"]["too_long"], "{finding}");
    }
    run.signal(Signal::Terminate);
    run.wait().expect_code(0);
    dir.file("account.json", &answer.to_string());
    dir.command(&["audit", "--account", "account.json"]).run().expect_code(0);
    // The dead letters are gone: neither they nor their documents are anywhere.
    std::fs::remove_file(dir.path().join("floodmark-data/dead-letters.ndjson")).unwrap();
    let found = dir.command(&["audit", "--account", "account.json"]).run().expect_code(1);
    assert!(found.stdout().contains("0 dead letters are kept"), "{}", found.stdout());
}

#[test]
fn the_account_of_files_is_in_records() {
    let dir = Dir::new();
    let lines: String =
        (0..50).map(|i| format!("{{\"timestamp\":{}}}\nno JSON\n", 1_700_000_000_000_u64 + i)).collect();
    dir.file("in.log", &lines);
    let source = "[source.files]\npaths = [\"in.log\"]\n[store.none]\n[api]\nlisten = \"127.0.0.1:0\"\n";
    dir.file("floodmark.toml", source);
    let mut run = dir.command(&["run"]).start();
    let api = run.api();
    let account = eventually("all is read", || {
        let account = api.get("/audit")?["partitions"][0].clone();
        (account["dead_letters"]["malformed"] == 50 && account["indexed"] == 50).then_some(account)
    });
    assert_eq!((&account["unit"], &account["no_record"]), (&"records".into(), &0.into()), "{account}");
    assert_eq!((&account["expected"], &account["sum"]), (&100.into(), &100.into()), "{account}");
}
