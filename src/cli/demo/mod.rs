//! `floodmark demo`: made-up logs in files, followed, scored, windowed, stored in the embedded store and served on
//! loopback.
//!
//! It is nothing but a configuration and [`engine::run`], with a thread beside it that writes the files.

mod logs;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use floodmark_dataflows::view_config::ViewConfig;

use super::scratch::Scratch;
use super::{Failure, run, signals};
use crate::config::Config;
use crate::engine::{self, RunOptions, Shutdown};
use crate::sources::files::FilesConfig;
use crate::sources::generator::{Generator, GeneratorConfig};
use crate::sources::wall_clock_ms;
use logs::Writing;

const AFTER_HELP: &str = "\
Everything is below one folder, removed at the end unless --dir names it. At the default rate it grows by some \
100 MB an hour. Only addresses of this machine are listened on.";

/// Watch it work: made-up logs, followed, scored, stored and served on this machine.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DemoArgs {
    /// Port of the HTTP API on 127.0.0.1; 0 takes any free one
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Folder to keep everything in, new or empty [default: one of its own, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Log records a second
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
}

pub(super) fn start(args: &DemoArgs) -> Result<(), Failure> {
    let folder = Folder::open(args.dir.as_deref()).map_err(Failure::Usage)?;
    let logs = folder.path().join("logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make the folder {}", logs.display()))?;

    let config = configuration(folder.path(), &logs, args.port);
    let generated = GeneratorConfig { rate: args.rate, ..GeneratorConfig::default() };
    let (services, generator) = (generated.services, Generator::new(generated, wall_clock_ms())?);
    let writing = Writing::start(generator, &logs)?;

    let shutdown = Shutdown::default();
    let stop = shutdown.clone();
    signals::on_stop(move || stop.trigger())?;
    let (rate, shown) = (args.rate, folder.path().to_owned());
    let on_ready = move |address: SocketAddr| println!("{}", welcome(address, services, rate, &shown));
    let options = RunOptions { on_ready: Some(Box::new(on_ready)), shutdown, ..RunOptions::default() };

    let result = engine::run(&config, options);
    let written = writing.stop();
    let report = result.map_err(run::failure)?;
    written?;
    tracing::info!("done: {}", run::summary(&report));
    Ok(())
}

/// What the demo runs.
fn configuration(dir: &Path, logs: &Path, port: u16) -> Config {
    let mut config = Config { data_dir: dir.join("data"), ..Config::default() };
    let pattern = logs.join("*.log*").to_string_lossy().into_owned();
    config.source.files = Some(FilesConfig { paths: vec![pattern], topic: "demo".into(), ..FilesConfig::default() });
    // The logs are gone with the demo.
    config.checkpoint.enabled = false;
    config.view.push(ViewConfig::per_pattern());
    config.api.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    config
}

fn welcome(address: SocketAddr, services: u32, rate: u64, dir: &Path) -> String {
    format!(
        "\
Floodmark demo: {rate} records a second from {services} services, until Ctrl-C.

  http://{address}/        what is going on, in a browser
  http://{address}/docs    every request, to try

  curl -s 'http://{address}/logs/stats'
  curl -s 'http://{address}/views/per_service?size=5'
  curl -s 'http://{address}/views/per_pattern?size=5'
  curl -s 'http://{address}/logs/anomalies?size=3'
  curl -s 'http://{address}/logs?service_name=auth-service&level=ERROR'
  curl -s 'http://{address}/progress'

The logs are in {}: add a line of JSON to one and search for it.
",
        dir.join("logs").display()
    )
}

/// The demo's folder.
enum Folder {
    Given(PathBuf),
    Temporary(Scratch),
}

impl Folder {
    fn open(dir: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = dir else { return Ok(Self::Temporary(Scratch::new("demo")?)) };
        std::fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        let is_empty =
            std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?.next().is_none();
        if !is_empty {
            bail!("expected a new or empty folder for the demo, got {} with files in it", path.display());
        }
        Ok(Self::Given(path.to_owned()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(scratch) => scratch.path(),
        }
    }
}
