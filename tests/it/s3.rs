//! A stub of S3-compatible storage: one bucket, whose objects are put, also only where there is none, got, listed page by
//! page, and deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State as Extract;
use axum::http::{HeaderMap, Method, Response, Uri};
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// Keys listed in one answer: few, so that there are several.
const PAGE: usize = 3;

/// What it holds, by key.
pub type Objects = Arc<Mutex<BTreeMap<String, Bytes>>>;

/// Starts a stub on a free port that holds one bucket, `bucket`. It ends with the runtime of the test.
pub async fn start() -> (String, Objects) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let objects = Objects::default();
    let router = Router::new().fallback(answer);
    let router = router.layer(axum::extract::DefaultBodyLimit::disable()).with_state(objects.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, objects)
}

async fn answer(
    Extract(objects): Extract<Objects>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let reply = |status: u16, body: Bytes| {
        let reply = Response::builder().status(status).header("etag", "\"1\"");
        reply.header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT").body(Body::from(body)).unwrap()
    };
    if !headers.contains_key("authorization") {
        return reply(403, error("AccessDenied"));
    }
    let mut objects = objects.lock();
    let query = uri.query().unwrap_or_default();
    let key = uri.path().strip_prefix("/bucket").unwrap_or_default().trim_start_matches('/').to_owned();
    match method {
        Method::PUT if headers.get("if-none-match").is_some_and(|tag| tag == "*") && objects.contains_key(&key) => {
            reply(412, error("PreconditionFailed"))
        }
        Method::PUT => {
            objects.insert(key, body);
            reply(200, Bytes::new())
        }
        Method::GET if key.is_empty() => reply(200, list(&objects, query).into()),
        Method::GET | Method::HEAD => match objects.get(&key) {
            Some(object) => reply(200, object.clone()),
            None => reply(404, error("NoSuchKey")),
        },
        Method::POST if query == "delete" => {
            let asked = String::from_utf8(body.to_vec()).unwrap();
            let mut deleted = String::new();
            for key in asked.split("<Key>").skip(1).filter_map(|rest| rest.split('<').next()) {
                objects.remove(key);
                deleted += &format!("<Deleted><Key>{key}</Key></Deleted>");
            }
            reply(200, format!("<DeleteResult>{deleted}</DeleteResult>").into())
        }
        _ => reply(501, error("NotImplemented")),
    }
}

fn error(code: &str) -> Bytes {
    format!("<Error><Code>{code}</Code></Error>").into()
}

/// A page of the keys with a prefix, behind the last one of the page before.
fn list(objects: &BTreeMap<String, Bytes>, query: &str) -> String {
    let parameter = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.replace("%2F", "/"));
        value.unwrap_or_default()
    };
    let (prefix, after) = (parameter("prefix"), parameter("continuation-token"));
    let mut found = objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let mut answer = String::from("<ListBucketResult>");
    let mut last = "";
    for (key, object) in found.by_ref().take(PAGE) {
        let (size, when) = (object.len(), "2026-01-01T00:00:00Z");
        answer +=
            &format!("<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{when}</LastModified></Contents>");
        last = key;
    }
    if found.next().is_some() {
        answer += &format!("<NextContinuationToken>{last}</NextContinuationToken>");
    }
    answer + "</ListBucketResult>"
}
