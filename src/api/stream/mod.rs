//! `/stream`: the state of the views, the alerts, and their changes, as server-sent events.
//!
//! In: changes of the live state, and of alerts. Out: to each client the state first, then what changes; applying all events
//! gives the state that `/views/{name}` and `/alerts` answer at the same `as_of`. A client that comes back with the id of its last event goes on
//! from there, if that is still kept. A client that is too slow is sent `behind` and disconnected.
//!
//! - [`step`]: events as bytes, and their ids. [`hub`]: the steps kept, and who is connected. [`client`]: what one
//!   client is sent.

mod client;
mod hub;
mod step;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, Response, Uri, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;

use super::Context;
use super::params::Params;
use super::problem::{Problem, ProblemDocument};
use super::views::{fields, key_filter};
use client::{Client, From};
pub use hub::Hub;
use step::Filter;

/// Pieces that wait to be taken by a connection.
const WAITING: usize = 4;

/// The windows of the views, the alerts, and what becomes of them, as server-sent events.
///
/// First `window` and `alert` events with the state, ended by `snapshot`; then for each advance of the event clock what changed, as
/// `window`, `final` (the allowed lateness is over), `correction` (late records came), `withdrawn` (a window without
/// records, whose silence is not unusual after all: drop it) and `gone` (windows of the view that end at `end` or before are
/// no longer kept), ended by `frontier`. The data of the first three is a window as in `/views/{name}`: put it in the place
/// of what you had for its view, key and start. After `snapshot` and after each
/// `frontier` you have what `/views/{name}` answers for the same `as_of`.
///
/// `opened`, `updated`, `amended`, `closed` and `retracted` say what happened to an alert, as its history in `/alerts/{id}`
/// does; put their `alert` in the place of what you had for its `id`. `alert` is one as it is; `forgotten` one that is no longer
/// remembered: drop it. After `snapshot` and each `frontier` you have what `/alerts` answers where its `as_of` is this
/// event's `alerts_as_of`.
///
/// Come back with `Last-Event-ID` and the same parameters to go on where you were. If that is too long ago, `reset` comes
/// first: forget what you have. `behind` ends the stream of a client that is too slow. With a view, each of its key
/// fields is a parameter too and takes its value exactly.
#[utoipa::path(
    get, path = "/stream", tag = "views",
    params(
        ("view" = Option<String>, Query, description = "Only this view"),
        ("key" = Option<String>, Query, description = "Only this key of the view: its values joined by `/`, with `%`, `/` \
            and control characters in them percent-encoded. Not together with key fields."),
        ("from" = Option<String>, Query, description = "`snapshot` (the default): the state first. `now`: only what \
            changes from now on."),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event seen"),
    ),
    responses(
        (status = 200, body = String, content_type = "text/event-stream"),
        (status = 400, description = "A parameter is wrong", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "All streams are taken", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub async fn stream(State(context): State<Context>, headers: HeaderMap, uri: Uri) -> Result<Response<Body>, Problem> {
    let mut params = Params::of(&uri);
    let from = match params.text("from").as_deref() {
        None | Some("snapshot") => From::Snapshot,
        Some("now") => From::Now,
        Some(_) => {
            params.refuse("from", "expected snapshot or now");
            From::Now
        }
    };
    let live = &context.state.live;
    let mut filter = Filter::default();
    if let Some(name) = params.text("view") {
        match live.find(&name) {
            Some((id, view)) => {
                let key = params.text("key");
                let fields = fields(&mut params, view, &["view", "key", "from"]);
                filter = Filter { view: Some(id), keys: key_filter(&mut params, key, fields) };
            }
            None => {
                let names: Vec<&str> = live.listed().map(|(_, view)| &*view.name).collect();
                params.refuse("view", format!("there is no such view; there are: {}", names.join(", ")));
            }
        }
    } else if params.text("key").is_some() {
        params.refuse("key", "expected together with view");
    }
    params.finish()?;
    let resume = headers.get("last-event-id").map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());

    let max = context.config.max_streams;
    let taken = || Problem::unavailable(format!("{max} streams are open already (api.max_streams); try again later"));
    let seat = context.hub.enter().ok_or_else(taken)?;
    let (sender, receiver) = mpsc::channel::<Bytes>(WAITING);
    tokio::spawn(Client { seat, filter, sender }.run(from, resume.filter(|id| !id.is_empty())));
    let events = stream::unfold(receiver, async |mut receiver| {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), receiver))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // Proxies of the nginx kind hold answers back otherwise.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}
