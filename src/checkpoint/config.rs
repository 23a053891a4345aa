//! Options of checkpoints.

use floodmark_dataflows::view_config::Mistake;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Secret, Span};

/// Checkpoints: what a run goes on from after it was stopped or killed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Whether checkpoints are made and gone on from. Without them every start begins anew, and replaces the windows of
    /// earlier ones.
    pub enabled: bool,
    /// Where they are: `file:///absolute/path`, or `s3://bucket/prefix` for S3-compatible storage. Left out, the folder
    /// `checkpoints` in the data directory. All processes of a cluster must reach the same place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// How often one is begun, by the wall clock. After a crash, what was read since the last one is read again.
    pub every: Span,
    /// How many are kept. Older ones are deleted, with the files that only they need.
    pub keep: u8,
    /// How many times each file is written, up to 4. With 2, any one file may be damaged.
    pub copies: u8,
    /// How long marks (the wall clock as the run saw it) are kept beyond the last checkpoint.
    pub marks_retention: Span,
    /// With S3: the address of the service, if it is not Amazon's. `AWS_ENDPOINT` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// With S3: the region. `AWS_REGION` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// With S3: the key's id. `AWS_ACCESS_KEY_ID` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// With S3: the key. `AWS_SECRET_ACCESS_KEY` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Secret>,
    /// With S3: allows an `endpoint` that is not encrypted.
    pub allow_http: bool,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            url: None,
            every: Span::from_secs(10),
            keep: 2,
            copies: 2,
            marks_retention: Span::from_secs(7 * 24 * 3_600),
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            allow_http: false,
        }
    }
}

impl CheckpointConfig {
    /// What is wrong with it.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.every.as_millis() == 0 {
            mistakes.push(Mistake::new("every", "expected more than 0, such as 10s"));
        }
        if self.keep == 0 {
            mistakes.push(Mistake::new("keep", "expected at least 1, got 0"));
        }
        if !(1..=4).contains(&self.copies) {
            mistakes.push(Mistake::new("copies", format!("expected 1 to 4, got {}", self.copies)));
        }
        if let Some(url) = &self.url
            && !url.starts_with("file:///")
            && !url.strip_prefix("s3://").is_some_and(|bucket| !bucket.is_empty() && !bucket.starts_with('/'))
        {
            let message = format!("expected file:///absolute/path or s3://bucket/prefix, got \"{url}\"");
            mistakes.push(Mistake::new("url", message));
        }
        mistakes
    }
}
