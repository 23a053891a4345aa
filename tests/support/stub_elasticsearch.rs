//! A stub of Elasticsearch: it keeps documents by index, id and version like the real one, answers what a test tells it
//! to, and remembers what it got.
//!
//! In: requests over HTTP or TLS on a free port, and [`Fault`]s for the next bulk requests. Out: its [`State`].

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State as Extract;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The certificate of the authority that the stub's own certificate is signed by.
pub const CA_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls/ca.pem");

/// What happens to one bulk request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing is stored; this status is the answer.
    Status(u16, &'static str),
    /// Nothing is stored, and the connection ends within the answer.
    #[allow(dead_code, reason = "not every test binary that shares this cuts")]
    Cut,
    /// Everything is stored, and the connection ends within the answer.
    StoredThenCut,
    /// Everything is stored; the answer comes this late.
    StoredThenSlow(Duration),
}

/// What is answered for one document, in place of storing it.
pub type ItemFault = Box<dyn FnMut(&Line) -> Option<(u16, Value)> + Send>;

/// A document of a bulk request.
#[derive(Clone, Debug)]
pub struct Line {
    pub index: String,
    pub id: String,
    pub version: Option<u64>,
    pub document: Value,
}

/// A request.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub body: Value,
}

/// What the stub holds and was told.
pub struct State {
    /// Index and id to version and document.
    pub documents: BTreeMap<(String, String), (u64, Value)>,
    /// Every request but bulk requests, in order.
    pub requests: Vec<Request>,
    /// The ids of the documents of each bulk request, in order.
    pub bulks: Vec<Vec<String>>,
    /// For the next bulk requests, one each.
    pub faults: VecDeque<Fault>,
    /// Asked about each document.
    pub item_fault: Option<ItemFault>,
    /// Nothing is answered meanwhile.
    pub paused: bool,
    /// Larger bodies are refused with 413.
    pub max_body: usize,
    /// The only value of `Authorization` that is let in.
    pub authorization: Option<String>,
    /// The answer to `GET /`.
    pub root: (u16, Value),
    /// The answer to a search.
    pub search: (u16, Value),
    /// Put templates are refused with this.
    pub refuse_templates: Option<u16>,
}

/// A running stub.
pub struct Stub {
    pub url: String,
    pub state: Arc<Mutex<State>>,
    /// The most bulk requests that were under way at the same time.
    pub most_in_flight: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    in_flight: Arc<AtomicUsize>,
    most_in_flight: Arc<AtomicUsize>,
}

impl Stub {
    /// Starts one on a free port. It ends with the runtime of the test.
    pub async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// Starts one on a listener.
    pub fn on(listener: TcpListener) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stub, router) = Self::new(url);
        tokio::spawn(async move { axum::serve(listener, router).await });
        stub
    }

    /// Starts one on a free port, with a certificate signed by [`CA_FILE`].
    pub async fn start_tls() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stub, router) = Self::new(format!("https://{}", listener.local_addr().unwrap()));
        tokio::spawn(async move { axum::serve(Tls { listener, acceptor: acceptor() }, router).await });
        stub
    }

    fn new(url: String) -> (Self, Router) {
        let version = json!({ "number": "9.1.0", "build_flavor": "default" });
        let state = Arc::new(Mutex::new(State {
            documents: BTreeMap::new(),
            requests: Vec::new(),
            bulks: Vec::new(),
            faults: VecDeque::new(),
            item_fault: None,
            paused: false,
            max_body: usize::MAX,
            authorization: None,
            root: (200, json!({ "cluster_name": "stub", "version": version, "tagline": "You Know, for Search" })),
            search: (200, json!({ "timed_out": false, "hits": { "total": { "value": 0 }, "hits": [] } })),
            refuse_templates: None,
        }));
        let most_in_flight = Arc::new(AtomicUsize::new(0));
        let shared = Shared { state: state.clone(), in_flight: Arc::default(), most_in_flight: most_in_flight.clone() };
        let router =
            Router::new().fallback(answer).layer(axum::extract::DefaultBodyLimit::disable()).with_state(shared);
        (Self { url, state, most_in_flight }, router)
    }

    /// Fails the next bulk requests, one each.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().faults.extend(faults);
    }

    /// The ids that an index holds.
    pub fn ids(&self, index: &str) -> Vec<String> {
        self.state.lock().documents.keys().filter(|(of, _)| of == index).map(|(_, id)| id.clone()).collect()
    }

    /// How many documents are held in all.
    pub fn held(&self) -> usize {
        self.state.lock().documents.len()
    }
}

async fn answer(
    Extract(shared): Extract<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    while shared.state.lock().paused {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let path = uri.path().to_owned();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if shared
        .state
        .lock()
        .authorization
        .as_ref()
        .is_some_and(|expected| text("authorization").as_ref() != Some(expected))
    {
        return reply(401, error("security_exception", "unable to authenticate"));
    }
    // What Elasticsearch 9 takes; it answers 400 to the media types of clients before 8.
    let content_type = text("content-type").unwrap_or_default();
    if !body.is_empty() && !["application/json", "application/x-ndjson"].contains(&content_type.as_str()) {
        return reply(400, error("media_type_header_exception", &content_type));
    }
    let body = match text("content-encoding").as_deref() {
        Some("gzip") => {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
            plain
        }
        _ => body.to_vec(),
    };
    if path.ends_with("/_bulk") {
        let in_flight = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_in_flight.fetch_max(in_flight, Ordering::SeqCst);
        // Lets requests that are sent together be seen together.
        tokio::task::yield_now().await;
        let answer = bulk(&shared, &path, &body).await;
        shared.in_flight.fetch_sub(1, Ordering::SeqCst);
        return answer;
    }
    let mut state = shared.state.lock();
    let query = uri.query().unwrap_or_default().to_owned();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    state.requests.push(Request { method: method.clone(), path: path.clone(), query, body });
    other(&mut state, &method, &path)
}

async fn bulk(shared: &Shared, path: &str, body: &[u8]) -> Response<Body> {
    let default_index = path.trim_matches('/').split('/').next().unwrap_or_default();
    let lines = match parse(default_index, body) {
        Ok(lines) => lines,
        Err(reason) => return reply(400, error("illegal_argument_exception", &reason)),
    };
    let (fault, answer) = {
        let mut state = shared.state.lock();
        state.bulks.push(lines.iter().map(|line| line.id.clone()).collect());
        let fault = state.faults.pop_front();
        match fault {
            Some(Fault::Status(status, body)) => return raw(status, Body::from(body)),
            Some(Fault::Cut) => return cut(""),
            _ => {}
        }
        if body.len() > state.max_body {
            return raw(413, Body::from("<html>Request Entity Too Large</html>"));
        }
        let items: Vec<Value> = lines.into_iter().map(|line| json!({ "index": store(&mut state, line) })).collect();
        let errors = items.iter().any(|item| item["index"].get("error").is_some());
        (fault, json!({ "errors": errors, "items": items }))
    };
    match fault {
        Some(Fault::StoredThenCut) => cut(&answer.to_string()[..10]),
        Some(Fault::StoredThenSlow(delay)) => {
            tokio::time::sleep(delay).await;
            reply(200, answer)
        }
        _ => reply(200, answer),
    }
}

/// An answer that ends with the connection, behind these first bytes.
fn cut(first: &str) -> Response<Body> {
    let parts = [Ok(Bytes::from(first.to_owned())), Err(std::io::Error::other("cut"))];
    raw(200, Body::from_stream(futures_util::stream::iter(parts)))
}

fn parse(default_index: &str, body: &[u8]) -> Result<Vec<Line>, String> {
    let text = std::str::from_utf8(body).map_err(|e| e.to_string())?;
    let mut lines =
        text.strip_suffix('\n').ok_or("The bulk request must be terminated by a newline [\\n]")?.split('\n');
    let mut found = Vec::new();
    while let Some(action) = lines.next() {
        let action: Value = serde_json::from_str(action).map_err(|e| format!("Malformed action/metadata line: {e}"))?;
        let action = action.get("index").ok_or("Malformed action/metadata line")?;
        let document = lines.next().ok_or("no document")?;
        found.push(Line {
            index: action.get("_index").and_then(Value::as_str).unwrap_or(default_index).to_owned(),
            id: action["_id"].as_str().ok_or("no id")?.to_owned(),
            version: action.get("version").and_then(Value::as_u64),
            document: serde_json::from_str(document).unwrap_or(Value::Null),
        });
    }
    Ok(found)
}

fn store(state: &mut State, line: Line) -> Value {
    if let Some((status, error)) = state.item_fault.as_mut().and_then(|fault| fault(&line)) {
        return json!({ "status": status, "error": error });
    }
    if line.document.is_null() {
        return json!({ "status": 400, "error": { "type": "document_parsing_exception", "reason": "not JSON" } });
    }
    let Line { index, id, version, document } = line;
    let key = (index, id);
    let current = state.documents.get(&key).map(|(version, _)| *version);
    if let (Some(version), Some(current)) = (version, current)
        && version < current
    {
        let reason = format!(
            "[{}]: version conflict, current version [{current}] is higher than the one provided [{version}]",
            key.1
        );
        return json!({ "status": 409, "error": { "type": "version_conflict_engine_exception", "reason": reason } });
    }
    let version = version.unwrap_or(current.unwrap_or(0) + 1);
    state.documents.insert(key, (version, document));
    json!({ "status": if current.is_some() { 200 } else { 201 } })
}

fn other(state: &mut State, method: &Method, path: &str) -> Response<Body> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (method, parts.as_slice()) {
        (&Method::GET, [""]) => reply(state.root.0, state.root.1.clone()),
        (&Method::GET, ["_nodes"]) => reply(200, json!({ "nodes": { "a": { "version": "8.19.0" } } })),
        (&Method::PUT, ["_index_template", _]) => match state.refuse_templates {
            Some(status) => reply(status, error("security_exception", "action is unauthorized")),
            None => reply(200, json!({ "acknowledged": true })),
        },
        (&Method::GET, ["_cluster", "health", _]) => {
            reply(200, json!({ "cluster_name": "stub", "status": "green", "number_of_nodes": 1 }))
        }
        (&Method::POST, [_, "_refresh"]) => reply(200, json!({})),
        (&Method::POST, [_, "_search"]) => reply(state.search.0, state.search.1.clone()),
        (&Method::GET, [pattern, "_settings"]) => {
            let prefix = pattern.trim_end_matches('*');
            let names = state.documents.keys().map(|(index, _)| index).filter(|index| index.starts_with(prefix));
            let indices: serde_json::Map<String, Value> = names.map(|name| (name.clone(), json!({}))).collect();
            reply(200, Value::Object(indices))
        }
        (&Method::GET, [index, "_doc", id]) => {
            let id = id.replace("%2F", "/").replace("%40", "@");
            match state.documents.get(&((*index).to_owned(), id)) {
                Some((version, _)) => reply(200, json!({ "found": true, "_version": version })),
                None => reply(404, json!({ "found": false })),
            }
        }
        (&Method::DELETE, [name]) => {
            state.documents.retain(|(index, _), _| index != name);
            reply(200, json!({ "acknowledged": true }))
        }
        _ => reply(405, error("method_not_allowed", path)),
    }
}

/// An error in the words of Elasticsearch.
pub fn error(kind: &str, reason: &str) -> Value {
    json!({ "error": { "type": kind, "reason": reason } })
}

fn reply(status: u16, body: Value) -> Response<Body> {
    raw(status, Body::from(body.to_string()))
}

fn raw(status: u16, body: Body) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap();
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.header("x-elastic-product", "Elasticsearch").body(body).unwrap()
}

struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

fn acceptor() -> TlsAcceptor {
    let file = |name: &str| format!("{}/tests/it/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let chain = CertificateDer::pem_file_iter(file("server.pem")).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

impl axum::serve::Listener for Tls {
    type Io = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            // A client that does not trust the certificate ends the handshake.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
