//! The body of a webhook from a template: `{name}` stands for a field of the notification, escaped as within a JSON
//! string. Braces around anything else are left alone, since JSON is full of them.

use serde_json::Value;

use super::groups::Batch;
use super::notice::Notice;

/// What can stand in a template.
const FIELDS: [&str; 20] = [
    "title",
    "kind",
    "id",
    "thread",
    "as_of",
    "alert",
    "view",
    "severity",
    "state",
    "summary",
    "key",
    "value",
    "start",
    "end",
    "windows",
    "key_count",
    "link",
    "group",
    "count",
    "titles",
];

/// Those of them that are numbers, and need no quotes around them.
const NUMBERS: [&str; 5] = ["value", "windows", "key_count", "count", "as_of"];

/// Replaces the fields of a template.
fn replace<'a>(template: &'a str, mut field: impl FnMut(&'a str) -> Option<String>) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let name = rest[1..].find('}').map(|end| &rest[1..=end]);
        match name.and_then(|name| Some((name.len(), field(name)?))) {
            Some((length, value)) => {
                let quoted = Value::String(value).to_string();
                out.push_str(&quoted[1..quoted.len() - 1]);
                rest = &rest[length + 2..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Finds out whether a template can be used: it names nothing that is not there, and gives JSON.
pub(super) fn check(template: &str) -> Result<(), String> {
    let mut unknown = None;
    let body = replace(template, |name| {
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if is_name && !FIELDS.contains(&name) {
            unknown = Some(name);
        }
        is_name.then(|| if NUMBERS.contains(&name) { "1" } else { "text" }.to_owned())
    });
    if let Some(name) = unknown {
        return Err(format!("expected fields among {}, got {{{name}}}", FIELDS.join(", ")));
    }
    match serde_json::from_str::<Value>(&body) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("expected JSON once the fields are filled in: {error}")),
    }
}

/// The body for a batch of notifications.
pub(super) fn fill(template: &str, batch: &Batch, link: &str) -> String {
    let Some(notice) = batch.strongest() else { return String::new() };
    let alert = &notice.event.alert;
    replace(template, |name| {
        Some(match name {
            "title" => batch.title(),
            "group" => batch.group(),
            "count" => batch.notices.len().to_string(),
            "titles" => batch.notices.iter().map(Notice::title).collect::<Vec<_>>().join("\n"),
            "kind" => notice.kind().to_owned(),
            "id" => alert.id.clone(),
            "thread" => notice.thread.to_string(),
            "as_of" => alert.as_of.to_string(),
            "alert" => alert.alert.to_string(),
            "view" => alert.view.to_string(),
            "severity" => alert.severity.to_string(),
            "state" => notice.state().to_owned(),
            "summary" => alert.summary.clone(),
            "key" => notice.key(),
            "value" => alert.strongest.value.to_string(),
            "start" => super::notice::rfc3339(alert.start),
            "end" => super::notice::rfc3339(alert.end),
            "windows" => alert.windows.to_string(),
            "key_count" => alert.key_count.to_string(),
            "link" => link.to_owned(),
            _ => return None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::config::RouteConfig;
    use crate::alerts::testing::notice;

    #[test]
    fn fields_are_escaped_and_other_braces_stay() {
        let mut notice = notice("a");
        notice.event.alert.summary = "\"quoted\"\nand {alert}".to_owned();
        let batch = Batch::new(&RouteConfig::default(), Vec::new(), vec![notice]);
        let body = fill(r#"{"text":"{alert}: {summary}","o":{"n":{windows}}}"#, &batch, "/x");
        let value: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["text"], "errors: \"quoted\"\nand {alert}");
        assert_eq!(value["o"]["n"], 1);
    }

    #[test]
    fn mistakes_are_found_before_they_are_sent() {
        assert_eq!(check(r#"{"text":"{title}"}"#), Ok(()));
        assert!(check(r#"{"text":"{tilte}"}"#).unwrap_err().contains("{tilte}"));
        assert_eq!(check(r#"{"n":{windows},"of":"{key_count}"}"#), Ok(()));
        assert!(check(r#"{"text":{title}}"#).unwrap_err().contains("JSON"), "text needs quotes");
        assert!(check(r#"{"text":{title}"#).unwrap_err().contains("JSON"));
    }
}
