//! Which requests are for this API: a page of another site must neither read it, under a name of its own that leads to
//! this address (DNS rebinding), nor change anything.

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};

use super::ApiConfig;
use super::problem::Problem;

/// Why a request is not answered, if it is not. One without `Host` comes from no browser.
pub fn refusal(config: &ApiConfig, request: &Request) -> Option<Problem> {
    let forbidden = |detail: String| Some(Problem::new(StatusCode::FORBIDDEN, detail));
    let headers = request.headers();
    let host = match headers.get(header::HOST) {
        Some(host) => Some(host.to_str().unwrap_or_default()),
        None => request.uri().authority().map(Authority::as_str),
    };
    if let Some(host) = host
        && !config.allow_public
        && !is_own(config, host)
    {
        let names = "localhost, 127.0.0.1, [::1] or api.listen";
        return forbidden(format!(
            "expected a request to {names}, got one to another host; name it in api.public_url, or set api.allow_public"
        ));
    }
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !is_read && is_foreign(config, host, headers) {
        return forbidden("a page of another site may change nothing here; ask from a page of this address".to_owned());
    }
    None
}

fn is_own(config: &ApiConfig, host: &str) -> bool {
    let Ok(host) = host.parse::<Authority>() else { return false };
    let name = host.host();
    let public = public(config);
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|own| name.eq_ignore_ascii_case(own))
        || name.trim_matches(['[', ']']) == config.listen.ip().to_string()
        || public.is_some_and(|public| public.host().eq_ignore_ascii_case(name))
}

/// Whether a browser says that a page of another address asks.
fn is_foreign(config: &ApiConfig, host: Option<&str>, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let Some(origin) = origin.to_str().ok().and_then(authority) else { return true };
    let is_host = host.and_then(|host| host.parse::<Authority>().ok()).is_some_and(|host| host == origin);
    !is_host && public(config) != Some(origin)
}

fn public(config: &ApiConfig) -> Option<Authority> {
    config.public_url.as_deref().and_then(authority)
}

fn authority(url: &str) -> Option<Authority> {
    url.parse::<Uri>().ok().filter(|url| url.scheme().is_some())?.into_parts().authority
}
