//! The options of a cluster, and what can be told about them without a network.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use floodmark_dataflows::view_config::Mistake;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Secret, Span};

/// The first port where processes on one host meet, if none are configured: timely's usual one.
const FIRST_PORT: usize = 2101;
/// A shorter secret can be guessed by trying.
const MIN_SECRET_BYTES: usize = 16;
/// Times below this are mistakes: a busy host does not answer sooner.
const MIN_TIMEOUT: Span = Span::from_secs(1);

/// Workers and processes. Results are the same for any number of them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Worker threads of each process. Partitions are spread over all workers, so more workers than partitions do
    /// nothing, and more than cores are slower than fewer. `-w`.
    pub workers: usize,
    /// Processes. All run with the same configuration but for `process`, and what each writes to disk for itself has
    /// its number in the name: `logs-1.ndjson` instead of `logs.ndjson`. `-n`.
    pub processes: usize,
    /// The number of this process, from 0. `-p`.
    pub process: usize,
    /// `host:port` of each process, in the order of their numbers. Left empty, processes are on this host, on ports from
    /// 2101. `-h FILE` reads them from a file, one a line. These connections are not encrypted: keep them in a private
    /// network.
    pub hosts: Vec<String>,
    /// Where this process listens for the others, as `host:port`. Left out, its entry in `hosts`: set it where that
    /// names an address that this host itself does not have, behind address translation or in a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Shared by all processes, at least 16 characters; connections that do not prove that they know it are refused.
    /// Without it only loopback addresses are allowed, where every user of the host can connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// File with the secret instead; white space around it does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// How long to wait at the start until all processes have come.
    pub connect_timeout: Span,
    /// A process that is not heard of for so long is given up for lost, and all others end. A process that dies is
    /// noticed at once.
    pub peer_timeout: Span,
    /// Says that local files are the same ones on every host, as on a network file system: those of `source.files`,
    /// and checkpoints in a directory. Only asked for when not all hosts are loopback addresses.
    pub shared_files: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            processes: 1,
            process: 0,
            hosts: Vec::new(),
            listen: None,
            secret: None,
            secret_file: None,
            connect_timeout: Span::from_secs(30),
            peer_timeout: Span::from_secs(10),
            shared_files: false,
        }
    }
}

impl ClusterConfig {
    /// Whether there are other processes.
    pub fn is_shared(&self) -> bool {
        self.processes > 1
    }

    /// `host:port` of every process.
    pub fn addresses(&self) -> Vec<String> {
        if self.hosts.is_empty() {
            return (0..self.processes).map(|process| format!("127.0.0.1:{}", FIRST_PORT + process)).collect();
        }
        self.hosts.clone()
    }

    /// Whether all processes are on this host, as far as their addresses say.
    pub fn is_on_one_host(&self) -> bool {
        self.addresses().iter().chain(&self.listen).all(|address| is_loopback(address))
    }

    /// The path under which this process writes a file or directory of its own: with several processes its number is
    /// added to the name, before the ending. Standard output (`-`), pipes and devices stay what they are.
    pub fn own_path(&self, path: &Path) -> PathBuf {
        let is_special = path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir());
        let (Some(stem), false) = (path.file_stem(), is_special || path == Path::new("-") || !self.is_shared()) else {
            return path.to_owned();
        };
        let mut name = stem.to_owned();
        name.push(format!("-{}", self.process));
        if let Some(ending) = path.extension() {
            name.push(".");
            name.push(ending);
        }
        path.with_file_name(name)
    }

    /// The files that are there under this path and that no process of this run writes: a run of another number of
    /// processes left them.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn paths_left(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let own = |process| Self { process, ..self.clone() }.own_path(path);
        let written: Vec<_> = (0..self.processes).map(own).collect();
        let mut paths = paths_of_all(path)?;
        paths.retain(|path| !written.iter().any(|own| own.file_name() == path.file_name()));
        Ok(paths)
    }

    /// The secret; empty without one.
    ///
    /// # Errors
    /// The file cannot be read, or what is in it is too short.
    pub fn read_secret(&self) -> Result<Secret, String> {
        let Some(path) = &self.secret_file else { return Ok(self.secret.clone().unwrap_or_default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read cluster.secret_file {}: {error}", path.display()))?;
        let text = text.trim();
        if text.len() < MIN_SECRET_BYTES {
            return Err(format!("{}: {}", path.display(), too_short(text.len())));
        }
        Ok(Secret::from(text.to_owned()))
    }

    /// All mistakes in it.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut wrong = |key: &str, message: String| mistakes.push(Mistake::new(key, message));
        for (key, value) in [("workers", self.workers), ("processes", self.processes)] {
            if !(1..=1_024).contains(&value) {
                wrong(key, format!("expected 1 to 1024, got {value}"));
            }
        }
        if self.process >= self.processes.max(1) {
            let message = format!("expected less than cluster.processes ({}), got {}", self.processes, self.process);
            wrong("process", message);
        }
        if !self.hosts.is_empty() && self.hosts.len() != self.processes {
            wrong("hosts", format!("expected one for each of {} processes, got {}", self.processes, self.hosts.len()));
        }
        for (i, host) in self.hosts.iter().enumerate() {
            if !is_address(host) {
                wrong(&format!("hosts[{i}]"), format!("expected host:port, got \"{host}\""));
            } else if let Some(first) = self.hosts[..i].iter().position(|other| other == host) {
                let message = format!("\"{host}\" is the address of process {first} already; each needs its own");
                wrong(&format!("hosts[{i}]"), message);
            }
        }
        if let Some(listen) = self.listen.as_ref().filter(|listen| !is_address(listen)) {
            wrong("listen", format!("expected host:port, got \"{listen}\""));
        }
        for (key, value) in [("connect_timeout", self.connect_timeout), ("peer_timeout", self.peer_timeout)] {
            if value < MIN_TIMEOUT {
                wrong(key, format!("expected at least {MIN_TIMEOUT}, got {value}"));
            }
        }
        match (&self.secret, &self.secret_file) {
            (Some(_), Some(_)) => {
                wrong("secret_file", "the secret is given twice; leave one of the two out".to_owned())
            }
            (Some(secret), None) if secret.expose().len() < MIN_SECRET_BYTES => {
                wrong("secret", too_short(secret.expose().len()));
            }
            (None, None) if self.is_shared() && !self.is_on_one_host() => {
                let advice = "set FLOODMARK_CLUSTER__SECRET or cluster.secret_file to the same secret on every host";
                wrong("secret", format!("processes on several hosts need a shared secret; {advice}"));
            }
            _ => {}
        }
        mistakes
    }
}

fn too_short(length: usize) -> String {
    let advice = "`openssl rand -hex 32` makes a good one";
    format!("expected at least {MIN_SECRET_BYTES} characters, got {length}; {advice}")
}

/// Whether a text is `host:port`, with a port other than 0.
fn is_address(text: &str) -> bool {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let host = |host: &str| !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
    text.rsplit_once(':').is_some_and(|(name, number)| host(name) && port(number))
}

/// Whether only this host can be meant. A name other than `localhost` may mean any.
fn is_loopback(address: &str) -> bool {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Digits of a process's number in the name of a file; what has more is somebody else's.
const MAX_DIGITS: usize = 3;

/// The files that are there and that any number of processes wrote under this path by [`ClusterConfig::own_path`].
///
/// # Errors
/// The folder cannot be read.
pub fn paths_of_all(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stem = path.file_stem().unwrap_or_default().as_bytes();
    let is_one = |found: &Path| {
        let rest = found.file_stem().and_then(|found| found.as_bytes().strip_prefix(stem));
        let is_numbered = |number: &[u8]| {
            let is_own = number == b"0" || matches!(number, [b'1'..=b'9', ..]) && number.len() <= MAX_DIGITS;
            is_own && number.iter().all(u8::is_ascii_digit)
        };
        found.extension() == path.extension()
            && rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix(b"-").is_some_and(is_numbered))
    };
    let mut paths = Vec::new();
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                paths.extend(Some(entry?.path()).filter(|path| is_one(path)));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(config: &ClusterConfig) -> Vec<String> {
        config.mistakes().into_iter().map(|mistake| mistake.key).collect()
    }

    fn hosts(hosts: &[&str]) -> ClusterConfig {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        ClusterConfig { processes: hosts.len(), hosts, ..ClusterConfig::default() }
    }

    #[test]
    fn a_wrong_list_of_hosts_is_found() {
        assert_eq!(keys(&ClusterConfig::default()), [""; 0]);
        assert_eq!(keys(&ClusterConfig { processes: 3, ..hosts(&["localhost:1", "[::1]:2"]) }), ["hosts"]);
        let wrong = hosts(&["127.0.0.1:1", "127.0.0.1", "127.0.0.1:0", "http://x:1", "127.0.0.1:1"]);
        let wrong = ClusterConfig { secret: Some("0123456789abcdef".to_owned().into()), ..wrong };
        assert_eq!(keys(&wrong), ["hosts[1]", "hosts[2]", "hosts[3]", "hosts[4]"]);
    }

    #[test]
    fn several_hosts_need_a_secret_and_a_long_one() {
        let on = |list: &[&str], secret: Option<&str>| {
            keys(&ClusterConfig { secret: secret.map(|text| text.to_owned().into()), ..hosts(list) })
        };
        assert_eq!(on(&["127.0.0.1:1", "localhost:2", "127.0.0.9:3", "[::1]:4"], None), [""; 0]);
        for far in ["10.0.0.1:2", "db.example:2", "0.0.0.0:2", "[::]:2", "localhost.example:2"] {
            assert_eq!(on(&["127.0.0.1:1", far], None), ["secret"], "{far}");
            assert_eq!(on(&["127.0.0.1:1", far], Some("0123456789abcdef")), [""; 0], "{far}");
        }
        assert_eq!(on(&["127.0.0.1:1", "127.0.0.1:2"], Some("short")), ["secret"]);
        let far = ClusterConfig { listen: Some("0.0.0.0:2".to_owned()), ..hosts(&["127.0.0.1:1", "127.0.0.1:2"]) };
        assert_eq!(keys(&far), ["secret"]);
    }

    #[test]
    fn a_process_of_several_has_files_of_its_own() {
        let one = ClusterConfig::default();
        let second = ClusterConfig { processes: 2, process: 1, ..ClusterConfig::default() };
        for (path, expected) in
            [("a/logs.ndjson", "a/logs-1.ndjson"), ("spool", "spool-1"), ("-", "-"), ("/dev/null", "/dev/null")]
        {
            assert_eq!(second.own_path(Path::new(path)), Path::new(expected));
            assert_eq!(one.own_path(Path::new(path)), Path::new(path));
        }
    }
}
