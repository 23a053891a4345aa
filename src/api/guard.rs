//! What is done for every request: limits, time, counting, headers, and every error made into a problem document.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;

use super::problem::Problem;
use super::{Context, origin};

#[derive(Clone)]
struct Guard {
    context: Context,
    permits: Arc<Semaphore>,
}

/// The router with everything around it. The outermost layer is added last.
pub fn layers(router: Router, context: &Context) -> Router {
    let permits = Arc::new(Semaphore::new(context.config.max_concurrent_requests));
    let guard = Guard { context: context.clone(), permits };
    router
        .fallback(not_found)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(RequestBodyLimitLayer::new(context.config.max_body.0 as usize))
        .layer(from_fn_with_state(guard, watch))
        .layer(CompressionLayer::new())
}

async fn not_found() -> Problem {
    Problem::not_found("there is nothing at this path; GET / lists what there is")
}

fn panicked(_: Box<dyn Any + Send>) -> Response<Body> {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed by a mistake of this program").into_response()
}

async fn watch(State(guard): State<Guard>, request: Request, next: Next) -> Response<Body> {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let config = &guard.context.config;
    let response = match (origin::refusal(config, &request), guard.permits.try_acquire()) {
        (Some(refusal), _) => refusal.into_response(),
        (None, Err(_)) => {
            let max = config.max_concurrent_requests;
            Problem::unavailable(format!("{max} requests are being worked on already; try again")).into_response()
        }
        (None, Ok(_permit)) => match tokio::time::timeout(config.request_timeout.0, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                let limit = config.request_timeout;
                Problem::unavailable(format!("no answer within {limit}; ask for less or try again")).into_response()
            }
        },
    };
    let mut response = finish(response, &method, &path);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    let route = route.as_deref().unwrap_or("none");
    guard.context.state.metrics.request(route, response.status().as_u16(), started.elapsed());
    response
}

/// Gives problems their body, and errors that are not ours (405, 413) one too; `/health` answers 503 with a body of
/// its own. OPTIONS is answered with what is allowed.
fn finish(mut response: Response<Body>, method: &Method, path: &str) -> Response<Body> {
    let status = response.status();
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return problem.respond(path);
    }
    let answered = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if answered || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let allow = response.headers().get(header::ALLOW).cloned();
    let mut response = match status {
        StatusCode::METHOD_NOT_ALLOWED if method == Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        StatusCode::METHOD_NOT_ALLOWED => {
            Problem::new(status, format!("this path is only read; {method} is not allowed")).respond(path)
        }
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(status, "no request needs a body this large").respond(path),
        _ => Problem::new(status, "this request cannot be answered").respond(path),
    };
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}
