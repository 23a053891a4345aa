//! The API's description, and a page to try it. All that the page needs is in the binary.

use axum::extract::State;
use axum::http::{HeaderValue, Response, header};
use axum::response::IntoResponse;
use axum::{Router, body::Body, middleware};
use utoipa::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::Context;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Floodmark",
        description = "Log analytics between Kafka and Elasticsearch. Live reads (`/logs/stats`, `/views`, `/patterns`) come from \
                       memory, are exact for the event-clock time `as_of`, and are the same from every process. \
                       Times are milliseconds since the epoch. Errors are problem documents (RFC 9457).",
        license(name = "MIT", identifier = "MIT"),
        contact()
    ),
    tags(
        (name = "logs", description = "Search logs, and count them"),
        (name = "views", description = "Windows and totals by key"),
        (name = "patterns", description = "Templates of messages, counted"),
        (name = "alerts", description = "Alerts with their histories, and silences"),
        (name = "status", description = "What this process is and how it does"),
    )
)]
struct Document;

/// The description without its paths.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// This description (OpenAPI 3.1).
#[utoipa::path(get, path = "/openapi.json", tag = "status", responses((status = 200, body = Object)))]
pub async fn openapi(State(context): State<Context>) -> Response<Body> {
    ([(header::CONTENT_TYPE, "application/json")], context.openapi.to_string()).into_response()
}

/// The page at `/docs`.
pub fn swagger() -> Router {
    let config = Config::from("/openapi.json").try_it_out_enabled(true).validator_url("none");
    Router::from(SwaggerUi::new("/docs").config(config)).layer(middleware::map_response(restrict))
}

/// Swagger UI sets styles from its script, and has images in its styles; nothing else leaves the page.
async fn restrict(mut response: Response<Body>) -> Response<Body> {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                          img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                          frame-ancestors 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}
