//! What is counted about tunnels (contract O-MET-1). Names and labels are those that existing
//! dashboards read; every bounded label value exists from the start.

use super::close::{Close, CloseReason};
use metrics::{counter, gauge, histogram};
use pontoon_proto::ticket::Refusal;
use std::time::Duration;

const ACTIVE: &str = "nvcf_grpc_proxy_service_worker_connections_active";
const OPENED: &str = "nvcf_grpc_proxy_service_worker_connection_opened_total";
const CLOSED: &str = "nvcf_grpc_proxy_service_worker_connection_closed_total";
const CLOSE_CODE: &str = "nvcf_grpc_proxy_service_worker_connection_close_code_total";
const DURATION: &str = "nvcf_grpc_proxy_service_worker_connection_duration_seconds";
const CONNECT: &str = "nvcf_grpc_proxy_service_worker_connect_total";
const TOKEN_AGE: &str = "nvcf_grpc_proxy_service_worker_connect_token_age_seconds";
const TOKEN_ISSUED: &str = "nvcf_grpc_proxy_service_worker_token_issued_total";
const ATTACHED: &str = "pontoon_sidecars_attached";

/// The label of a close without an HTTP/2 error code, and of codes beyond RFC 9113's.
const NO_CODE: &str = "none";

/// RFC 9113's error codes, 0x0 to 0xd.
const CODES: [&str; 14] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13",
];

/// Makes every series exist.
pub(super) fn init() {
    gauge!(ACTIVE).set(0.0);
    gauge!(ATTACHED).set(0.0);
    counter!(OPENED).absolute(0);
    counter!(TOKEN_ISSUED).absolute(0);
    for reason in CloseReason::ALL {
        counter!(CLOSED, "reason" => reason.label()).absolute(0);
    }
    for code in CODES.into_iter().chain([NO_CODE]) {
        counter!(CLOSE_CODE, "code" => code).absolute(0);
    }
    for result in Refusal::ALL.map(Refusal::label).into_iter().chain(["ok"]) {
        counter!(CONNECT, "result" => result).absolute(0);
    }
}

pub(super) fn token_issued() {
    counter!(TOKEN_ISSUED).increment(1);
}

pub(super) fn connect(result: Result<(), Refusal>, age: Option<Duration>) {
    let label = result.map_or_else(Refusal::label, |()| "ok");
    counter!(CONNECT, "result" => label).increment(1);
    if let Some(age) = age {
        histogram!(TOKEN_AGE, "result" => label).record(age.as_secs_f64());
    }
}

pub(super) fn opened() {
    counter!(OPENED).increment(1);
    gauge!(ACTIVE).increment(1.0);
}

pub(super) fn closed(close: &Close, lasted: Duration) {
    gauge!(ACTIVE).decrement(1.0);
    counter!(CLOSED, "reason" => close.reason.label()).increment(1);
    let code = close
        .code
        .and_then(|code| CODES.get(code as usize).copied())
        .unwrap_or(NO_CODE);
    counter!(CLOSE_CODE, "code" => code).increment(1);
    histogram!(DURATION).record(lasted.as_secs_f64());
}

pub(super) fn attached(by: f64) {
    gauge!(ATTACHED).increment(by);
}
