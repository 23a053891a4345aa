//! The cluster as a whole: what it is, its health, templates, refresh, and the deletion of old indices.

use elasticsearch::http::Method;
use serde_json::Value;

use super::client::{Client, Payload, Reply, Unreachable};
use super::config::{ElasticsearchConfig, Kind};
use super::index::Day;
use super::templates;
use crate::stores::StoreError;

/// Oldest version with the templates that are used here.
const OLDEST: (u64, u64) = (7, 8);

impl From<Unreachable> for StoreError {
    fn from(unreachable: Unreachable) -> Self {
        StoreError::Unavailable(format!("elasticsearch does not answer: {unreachable}"))
    }
}

/// What an unexpected answer means at the start, where an operator looks on.
fn failure(what: &str, reply: &Reply) -> StoreError {
    let detail = reply.describe();
    match reply.status {
        401 => StoreError::Fatal(format!(
            "elasticsearch refuses the credentials ({what}): {detail}; check username and password, or api_key"
        )),
        403 => StoreError::Fatal(format!(
            "elasticsearch: the credentials lack a privilege ({what}): {detail}; see \"privileges\" in the documentation \
             of the store"
        )),
        408 | 429 | 500..=599 => StoreError::Unavailable(format!("elasticsearch: {what} failed: {detail}")),
        _ => StoreError::Fatal(format!("elasticsearch: {what} failed: {detail}; is this address an Elasticsearch?")),
    }
}

async fn get(client: &Client, path: &str, query: &[(&str, &str)]) -> Result<Reply, StoreError> {
    Ok(client.send(Method::Get, path, query, Payload::Empty, None).await?)
}

/// What the cluster is: `elasticsearch 8.19.0`, or `opensearch 2.19.5`.
///
/// `GET /` says so on most clusters; where it is not to be had, the nodes are asked. Without the privilege for either
/// the version stays unknown, and the templates decide whether the cluster will do.
pub(super) async fn identify(client: &Client) -> Result<String, StoreError> {
    let root = match client.send(Method::Get, "/", &[], Payload::Empty, None).await {
        // Waiting does not change whom this host trusts.
        Err(Unreachable(detail)) if detail.contains("certificate") => {
            return Err(StoreError::Fatal(format!(
                "elasticsearch: {detail}; name the authority that signed the certificate in ca_file"
            )));
        }
        answer => answer?,
    };
    let (distribution, version) = match root.status {
        200 => {
            let body: Value = serde_json::from_slice(&root.body).unwrap_or_default();
            let text = |pointer| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            let distribution = text("/version/distribution").unwrap_or_else(|| "elasticsearch".into());
            let not_one = || failure("asking for the version", &root);
            (distribution, Some(text("/version/number").ok_or_else(not_one)?))
        }
        403..=405 => ("elasticsearch".into(), version_of_nodes(client).await?),
        _ => return Err(failure("asking for the version", &root)),
    };
    let Some(version) = version else { return Ok(format!("{distribution} of unknown version")) };
    if distribution == "elasticsearch" && is_too_old(&version) {
        return Err(StoreError::Fatal(format!(
            "expected Elasticsearch 7.17, 8 or 9, or OpenSearch; this is Elasticsearch {version}"
        )));
    }
    Ok(format!("{distribution} {version}"))
}

/// The lowest version among the nodes, or `None` without the privilege to ask.
async fn version_of_nodes(client: &Client) -> Result<Option<String>, StoreError> {
    let reply = get(client, "/_nodes", &[("filter_path", "nodes.*.version")]).await?;
    match reply.status {
        200 => {}
        403 | 404 | 405 | 410 => return Ok(None),
        _ => return Err(failure("asking the nodes for their version", &reply)),
    }
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let versions = body["nodes"].as_object().into_iter().flatten().filter_map(|(_, node)| node["version"].as_str());
    Ok(versions.min_by_key(|version| number(version)).map(str::to_owned))
}

/// Major and minor number.
fn number(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// OpenSearch without `GET /` passes for Elasticsearch 1 to 3 here, which nobody runs: only 5 to 7.7 are told off.
fn is_too_old(version: &str) -> bool {
    number(version).is_some_and(|number| number >= (5, 0) && number < OLDEST)
}

/// Puts the index templates. Putting the same again changes nothing.
pub(super) async fn put_templates(client: &Client, config: &ElasticsearchConfig) -> Result<(), StoreError> {
    for kind in Kind::ALL {
        let path = format!("/_index_template/{}", templates::name(config, kind));
        let reply = client.send(Method::Put, &path, &[], Payload::Json(templates::body(config, kind)), None).await?;
        if !reply.is_success() {
            return Err(failure(&format!("putting the index template for {}", kind.name()), &reply));
        }
    }
    Ok(())
}

/// The health of the indices of this store, in one line.
pub(super) async fn health(
    client: &Client,
    config: &ElasticsearchConfig,
    version: Option<&str>,
) -> Result<String, StoreError> {
    let path = format!("/_cluster/health/{}-*", config.prefix);
    let query = [("filter_path", "cluster_name,status,number_of_nodes,timed_out")];
    let reply = get(client, &path, &query).await?;
    let version = version.unwrap_or("elasticsearch");
    let unverified = if config.verify_certificates { "" } else { ", CERTIFICATES NOT VERIFIED" };
    if reply.status == 403 {
        return Ok(format!("{version}, answers; no privilege to see its health{unverified}"));
    }
    if !reply.is_success() {
        let detail = reply.describe();
        return Err(StoreError::Unavailable(format!("{version}: asking for its health failed: {detail}")));
    }
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let (name, status) = (body["cluster_name"].as_str().unwrap_or("?"), body["status"].as_str().unwrap_or("?"));
    let nodes = body["number_of_nodes"].as_u64().unwrap_or(0);
    let line = format!("{version}, cluster \"{name}\" {status}, {nodes} node(s){unverified}");
    if status == "red" { Err(StoreError::Unavailable(line)) } else { Ok(line) }
}

/// Makes everything written visible to searches.
pub(super) async fn refresh(client: &Client, config: &ElasticsearchConfig) -> Result<(), StoreError> {
    let path = format!("/{}-*/_refresh", config.prefix);
    let query = [("ignore_unavailable", "true"), ("allow_no_indices", "true")];
    let reply = client.send(Method::Post, &path, &query, Payload::Empty, None).await?;
    // 404: there is no index yet, so nothing to make visible.
    if reply.is_success() || reply.status == 404 {
        return Ok(());
    }
    Err(StoreError::Unavailable(format!("elasticsearch: refresh failed: {}", reply.describe())))
}

/// Deletes the log and window indices of days before `keep_from`, by name, and returns their names.
pub(super) async fn delete_before(
    client: &Client,
    config: &ElasticsearchConfig,
    keep_from: Day,
) -> Result<Vec<String>, StoreError> {
    let mut deleted = Vec::new();
    for kind in [Kind::Logs, Kind::Windows] {
        let prefix = config.index_prefix(kind);
        let query = [("filter_path", "*.settings.index.creation_date"), ("allow_no_indices", "true")];
        let reply = get(client, &format!("/{prefix}*/_settings"), &query).await?;
        if reply.status == 404 {
            continue;
        }
        if !reply.is_success() {
            return Err(StoreError::Unavailable(format!(
                "elasticsearch: listing indices failed: {}",
                reply.describe()
            )));
        }
        let indices: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        for name in indices.as_object().into_iter().flatten().map(|(name, _)| name) {
            if Day::of_index(name, &prefix).is_none_or(|day| day >= keep_from) {
                continue;
            }
            let reply = client.send(Method::Delete, &format!("/{name}"), &[], Payload::Empty, None).await?;
            if !reply.is_success() && reply.status != 404 {
                let detail = reply.describe();
                return Err(StoreError::Unavailable(format!("elasticsearch: deleting {name} failed: {detail}")));
            }
            deleted.push(name.clone());
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_without_composable_templates_are_too_old() {
        for (version, too_old) in
            [("6.8.23", true), ("7.7.1", true), ("7.17.29", false), ("8.19.0", false), ("9.1.0-SNAPSHOT", false)]
        {
            assert_eq!(is_too_old(version), too_old, "{version}");
        }
        assert!(!is_too_old("2.19.5") && !is_too_old("unknown"));
    }

    #[test]
    fn answers_at_the_start_are_told_apart() {
        let reply = |status| Reply { status, body: Default::default() };
        assert!(matches!(failure("x", &reply(401)), StoreError::Fatal(m) if m.contains("credentials")));
        assert!(matches!(failure("x", &reply(403)), StoreError::Fatal(m) if m.contains("privilege")));
        assert!(matches!(failure("x", &reply(503)), StoreError::Unavailable(_)));
        assert!(matches!(failure("x", &reply(400)), StoreError::Fatal(_)));
    }
}
