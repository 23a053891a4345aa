//! From the configuration to what is computed.

use std::sync::Arc;

use floodmark_dataflows::alerts::config::Alert;
use floodmark_dataflows::decode::{Decoder, RecordsConfig};
use floodmark_dataflows::ingest::ClockConfig;
use floodmark_dataflows::input::ReadAs;
use floodmark_dataflows::record::FieldRef;
use floodmark_dataflows::rules::Rules;
use floodmark_dataflows::view::{View, ViewId};
use floodmark_dataflows::view_config::{Mistake, TimeConfig, ViewConfig};

use crate::config::{self, Config};

/// The view that is added when no configured one has the key `service_name` alone and takes every record: it supplies
/// the totals by service. It is hidden: it has no documents, and is in no list.
const SERVICES_VIEW: &str = "__services";

/// What a configuration computes.
pub(super) struct Compiled {
    pub decoder: Decoder,
    pub rules: Arc<Rules>,
    /// The views, with [`SERVICES_VIEW`] last if it is needed.
    pub views: Vec<Arc<View>>,
    /// The alerts over them.
    pub alerts: Vec<Arc<Alert>>,
    /// The view that supplies the totals by service.
    pub service_view: ViewId,
    pub clock: ClockConfig,
}

/// Compiles a configuration, or finds all mistakes in it.
pub(super) fn compile(config: &Config) -> Result<Compiled, Vec<Mistake>> {
    let config::Compiled { mut schema, rules, mut views, alerts } = config.compile()?;
    let service_view = match views.iter().position(counts_services) {
        Some(place) => place,
        None => {
            let view = services_view(&config.time).compile(config.time.tick, &mut schema)?;
            views.push(View { name: SERVICES_VIEW.into(), ..view });
            views.len() - 1
        }
    };
    let time = &config.time;
    let clock = ClockConfig {
        tick_ms: time.tick.as_millis(),
        max_future_ms: time.max_future.as_millis(),
        idle_after_ms: time.idle_after.as_millis(),
        stall_after_ms: time.stall_after.as_millis(),
        max_ahead_ms: time.max_ahead.as_millis(),
        arrived_by_ms: None,
    };
    Ok(Compiled {
        decoder: Decoder::new(schema),
        rules: Arc::new(rules),
        views: views.into_iter().map(Arc::new).collect(),
        alerts: alerts.into_iter().map(Arc::new).collect(),
        service_view: service_view as ViewId,
        clock,
    })
}

/// How records of another form are read by a configuration: its rules and views, compiled for the fields of these.
///
/// # Errors
/// What does not go with it, in a sentence.
pub fn read_as(config: &Config, records: &RecordsConfig) -> Result<ReadAs, String> {
    let config = Config { records: records.clone(), ..config.clone() };
    let Compiled { decoder, rules, views, .. } = compile(&config).map_err(|mistakes| {
        let texts: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        texts.join("; ")
    })?;
    Ok(ReadAs { decoder, rules, views })
}

fn counts_services(view: &View) -> bool {
    view.key_fields == [FieldRef::ServiceName] && view.conditions.is_empty()
}

/// Windows of one tick that are gone at once: only the totals are of interest.
fn services_view(time: &TimeConfig) -> ViewConfig {
    ViewConfig {
        window: time.tick,
        allowed_lateness: time.tick,
        retention: time.tick,
        score: Vec::new(),
        ..ViewConfig::default()
    }
}
