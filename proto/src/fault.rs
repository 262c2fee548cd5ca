//! The fault table: what can go wrong with a call, and how each victim sees it.
//!
//! One row per situation of the contract's section C-ERR. Texts are byte-exact and carry no
//! addresses, causes or other tenants' data. The gRPC code decides the HTTP status; `LinkLost` is
//! the one exception (502).

/// gRPC status codes that we use (grpc.io, "Status codes and their use in gRPC").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are gRPC's own")]
pub enum Code {
    Ok = 0,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Code {
    /// The HTTP status that stands for this code everywhere (C-ERR-9 excepted).
    pub fn http_status(self) -> u16 {
        match self {
            Code::Ok => 200,
            Code::InvalidArgument => 400,
            Code::Unauthenticated => 401,
            Code::PermissionDenied => 403,
            Code::NotFound => 404,
            Code::AlreadyExists => 409,
            Code::ResourceExhausted => 429,
            Code::Internal => 500,
            Code::Unimplemented => 501,
            Code::Unavailable => 503,
            Code::DeadlineExceeded => 504,
        }
    }
}

/// Who has to act; the label of the fault metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The caller sent something wrong.
    Client,
    /// The worker or its sidecar.
    Worker,
    /// The cluster: no quorum, draining.
    Cluster,
    /// A bug in us.
    Us,
}

impl Blame {
    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Blame::Client => "client",
            Blame::Worker => "worker",
            Blame::Cluster => "cluster",
            Blame::Us => "us",
        }
    }
}

/// An error as its victim sees it, before any response byte was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// C-ERR-1.
    NoCredential,
    /// C-ERR-2.
    InvalidCredential,
    /// C-ERR-3.
    NotAuthorized,
    /// C-ERR-4: no function id.
    NoFunctionId,
    /// C-ERR-4: not a UUID.
    MalformedFunctionId,
    /// C-ERR-4: not a UUID.
    MalformedVersionId,
    /// C-ERR-5.
    FunctionNotFound,
    /// C-ERR-6. Only ever after a linearizable read, or for an id that we did not mint.
    SessionNotFound,
    /// C-ERR-7.
    NoWorkerInTime,
    /// C-ERR-8, when nobody knows how long it lasts.
    RateExceeded,
    /// C-ERR-9.
    WorkerLost,
    /// C-ERR-11.
    DirectoryUnavailable,
    /// C-ERR-12.
    Draining,
    /// C-ERR-13.
    Internal,
    /// C-ERR-14.
    NotSupported,
    /// C-ERR-8, when it is known how long it lasts: otherwise as [`Fault::RateExceeded`].
    LimitReached {
        /// Seconds, at least 1.
        retry_after: u32,
    },
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Byte-exact text.
    pub text: &'static str,
    /// What gRPC clients get.
    pub code: Code,
    /// What everybody else gets.
    pub http_status: u16,
    /// Who has to act.
    pub blame: Blame,
    /// The metric's label.
    pub label: &'static str,
    /// `retry-after`, seconds, where the contract has one.
    pub retry_after: Option<u32>,
}

impl Fault {
    /// Every situation, for tables and metrics; [`Fault::place`] finds a fault's own.
    pub const ALL: [Fault; 15] = [
        Fault::NoCredential,
        Fault::InvalidCredential,
        Fault::NotAuthorized,
        Fault::NoFunctionId,
        Fault::MalformedFunctionId,
        Fault::MalformedVersionId,
        Fault::FunctionNotFound,
        Fault::SessionNotFound,
        Fault::NoWorkerInTime,
        Fault::RateExceeded,
        Fault::WorkerLost,
        Fault::DirectoryUnavailable,
        Fault::Draining,
        Fault::Internal,
        Fault::NotSupported,
    ];

    /// Which of [`Fault::ALL`] this is.
    pub fn place(self) -> usize {
        let alike = match self {
            Fault::LimitReached { .. } => Fault::RateExceeded,
            other => other,
        };
        // All of them are there.
        let place = Fault::ALL.iter().position(|fault| *fault == alike);
        place.unwrap_or(0)
    }

    /// This fault's row.
    pub fn row(self) -> Row {
        use Blame::{Client, Cluster, Us, Worker};
        let (text, code, blame, label) = match self {
            Fault::NoCredential => (
                "no authorization was passed in the metadata",
                Code::Unauthenticated,
                Client,
                "no_credential",
            ),
            Fault::InvalidCredential => (
                "invalid credential",
                Code::Unauthenticated,
                Client,
                "invalid_credential",
            ),
            Fault::NotAuthorized => (
                "not authorized to invoke function",
                Code::PermissionDenied,
                Client,
                "not_authorized",
            ),
            Fault::NoFunctionId => (
                "no function-id was passed in the metadata",
                Code::InvalidArgument,
                Client,
                "no_function_id",
            ),
            Fault::MalformedFunctionId => (
                "malformed function-id",
                Code::InvalidArgument,
                Client,
                "malformed_function_id",
            ),
            Fault::MalformedVersionId => (
                "malformed function-version-id",
                Code::InvalidArgument,
                Client,
                "malformed_version_id",
            ),
            Fault::FunctionNotFound => (
                "function not found",
                Code::NotFound,
                Client,
                "function_not_found",
            ),
            Fault::SessionNotFound => (
                "no existing session found",
                Code::NotFound,
                Client,
                "session_not_found",
            ),
            Fault::NoWorkerInTime => (
                "failed to establish link to worker",
                Code::DeadlineExceeded,
                Worker,
                "no_worker_in_time",
            ),
            Fault::RateExceeded | Fault::LimitReached { .. } => (
                "exceeded rate limit",
                Code::ResourceExhausted,
                Client,
                "rate_exceeded",
            ),
            Fault::WorkerLost => (
                "worker connection lost",
                Code::Unavailable,
                Worker,
                "worker_lost",
            ),
            Fault::DirectoryUnavailable => (
                "session directory unavailable",
                Code::Unavailable,
                Cluster,
                "directory_unavailable",
            ),
            Fault::Draining => ("node is draining", Code::Unavailable, Cluster, "draining"),
            Fault::Internal => ("internal error", Code::Internal, Us, "internal"),
            Fault::NotSupported => (
                "not supported",
                Code::Unimplemented,
                Client,
                "not_supported",
            ),
        };
        Row {
            text,
            code,
            http_status: match self {
                Fault::WorkerLost => 502,
                _ => code.http_status(),
            },
            blame,
            label,
            retry_after: match self {
                Fault::LimitReached { retry_after } => Some(retry_after),
                Fault::RateExceeded | Fault::DirectoryUnavailable => Some(1),
                _ => None,
            },
        }
    }
}
