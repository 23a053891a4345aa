//! The services whose logs are generated: routes, messages, error codes, shares of the traffic.

use super::draw::Draws;

/// A service as the generator plays it.
pub struct Service {
    /// `service_name`.
    pub name: String,
    /// Its share of the traffic, relative to the other services'.
    pub weight: u32,
    /// What it serves.
    pub routes: &'static [Route],
    /// Codes of its server errors.
    pub error_codes: &'static [&'static str],
}

/// One kind of request.
pub struct Route {
    /// HTTP method.
    pub method: &'static str,
    /// The path before and after the id in it; without an id the second part is absent.
    pub path: (&'static str, Option<&'static str>),
    /// Median response time in microseconds.
    pub median_us: u32,
    /// The message's words between the method with its path and the numbers.
    pub message: &'static str,
}

const fn route(
    method: &'static str,
    before: &'static str,
    after: Option<&'static str>,
    median_ms: u32,
    message: &'static str,
) -> Route {
    Route { method, path: (before, after), median_us: median_ms * 1000, message }
}

const AUTH: &[Route] = &[
    route("POST", "/api/auth/login", None, 85, "password verified, session opened"),
    route("POST", "/api/auth/refresh", None, 22, "access token renewed from refresh token"),
    route("POST", "/api/auth/logout", None, 12, "session closed"),
    route("GET", "/api/auth/sessions/", Some(""), 18, "session looked up in cache"),
    route("POST", "/api/auth/mfa/verify", None, 64, "second factor accepted"),
];
const PAYMENT: &[Route] = &[
    route("POST", "/api/payments", None, 240, "card authorised by acquirer"),
    route("GET", "/api/payments/", Some(""), 30, "payment read from ledger"),
    route("POST", "/api/payments/", Some("/capture"), 180, "amount captured"),
    route("POST", "/api/payments/", Some("/refund"), 210, "refund booked to ledger"),
];
const INVENTORY: &[Route] = &[
    route("GET", "/api/inventory/items/", Some(""), 14, "stock level read"),
    route("PUT", "/api/inventory/items/", Some("/stock"), 48, "stock level changed by warehouse feed"),
    route("POST", "/api/inventory/reservations", None, 55, "items reserved for order"),
    route("DELETE", "/api/inventory/reservations/", Some(""), 26, "reservation released"),
];
const USER: &[Route] = &[
    route("GET", "/api/users/", Some(""), 16, "profile read from replica"),
    route("PATCH", "/api/users/", Some("/preferences"), 38, "preferences saved"),
    route("POST", "/api/users", None, 95, "account created, welcome mail queued"),
    route("GET", "/api/users/", Some("/orders"), 72, "order history assembled"),
];
const GATEWAY: &[Route] = &[
    route("GET", "/api/catalog/products", None, 45, "forwarded to upstream catalog"),
    route("GET", "/api/catalog/products/", Some(""), 28, "answered from edge cache"),
    route("POST", "/api/cart/", Some("/items"), 60, "forwarded to upstream cart"),
    route("POST", "/api/checkout", None, 320, "checkout finished over three upstreams"),
    route("GET", "/api/search", None, 110, "forwarded to upstream search"),
];
const GENERIC: &[Route] = &[
    route("GET", "/api/resources/", Some(""), 20, "resource read from primary"),
    route("GET", "/api/resources", None, 58, "listing assembled from shards"),
    route("POST", "/api/resources", None, 90, "resource created and indexed"),
    route("PUT", "/api/resources/", Some("/state"), 44, "state changed, event published"),
];

const AUTH_CODES: &[&str] = &["AUTH_TOKEN_STORE_TIMEOUT", "AUTH_SIGNING_KEY_UNAVAILABLE", "AUTH_LDAP_UNREACHABLE"];
const PAYMENT_CODES: &[&str] = &["PAY_ACQUIRER_TIMEOUT", "PAY_LEDGER_CONFLICT", "PAY_FRAUD_CHECK_UNAVAILABLE"];
const INVENTORY_CODES: &[&str] = &["INV_STOCK_LOCK_TIMEOUT", "INV_WAREHOUSE_UNREACHABLE", "INV_VERSION_CONFLICT"];
const USER_CODES: &[&str] = &["USR_REPLICA_LAG", "USR_DB_POOL_EXHAUSTED", "USR_MAIL_QUEUE_FULL"];
const GATEWAY_CODES: &[&str] = &["GW_UPSTREAM_TIMEOUT", "GW_UPSTREAM_RESET", "GW_CIRCUIT_OPEN"];
const GENERIC_CODES: &[&str] = &["SVC_DB_TIMEOUT", "SVC_DEPENDENCY_FAILED", "SVC_POOL_EXHAUSTED"];

/// Names of the sixth and following services; behind the last of them they are numbered.
const MORE: [&str; 15] = [
    "order-service",
    "search-service",
    "notification-service",
    "shipping-service",
    "catalog-service",
    "cart-service",
    "pricing-service",
    "review-service",
    "recommendation-service",
    "billing-service",
    "session-service",
    "media-service",
    "email-service",
    "analytics-service",
    "fraud-service",
];

/// The first `count` services. The same seed gives the same shares.
pub fn services(count: usize, seed: u64) -> Vec<Service> {
    let service = |name: &str, weight, routes, error_codes| Service { name: name.into(), weight, routes, error_codes };
    let mut all = vec![
        service("auth-service", 20, AUTH, AUTH_CODES),
        service("payment-service", 12, PAYMENT, PAYMENT_CODES),
        service("inventory-service", 16, INVENTORY, INVENTORY_CODES),
        service("user-service", 20, USER, USER_CODES),
        service("api-gateway", 32, GATEWAY, GATEWAY_CODES),
    ];
    for i in all.len()..count {
        let name = MORE.get(i - 5).map_or_else(|| format!("service-{:03}", i + 1), |name| (*name).to_owned());
        let weight = 4 + Draws::new(seed, u64::MAX, i as u64).below(16) as u32;
        all.push(service(&name, weight, GENERIC, GENERIC_CODES));
    }
    all.truncate(count);
    all
}
