//! Whether a caller may have a session of what it asks for, and on which terms.
//!
//! Pure: the catalog and the head in, the terms out.

use super::identity::Caller;
use pontoon_proto::fault::Fault;
use pontoon_proto::head::Head;
use pontoon_proto::id::{FunctionId, VersionId};
use pontoon_raft::catalog::Catalog;
use pontoon_raft::catalog::command::{Function, Pin, Version, VersionState};
use std::sync::Arc;
use std::time::Duration;

/// The terms of a call's session.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The function called.
    pub function: Arc<Function>,
    /// The versions that it may run on: the one that was named, else all active ones; never empty.
    pub versions: Arc<[Arc<Version>]>,
    /// The reconnect window that the client asked for, capped.
    pub window: Option<Duration>,
    /// The longest wait for a worker: the smaller of `grpc-timeout` and the version's `wait`.
    pub wait: Duration,
    /// Whether calls without an id stay with their connection's session.
    pub pins: bool,
}

/// Decides by what this replica of the catalog knows. A refusal for want of knowledge
/// (`FunctionNotFound`) must be confirmed by a linearizable read before it is reported.
///
/// # Errors
///
/// `NotAuthorized` when the key's scope does not cover the function; `FunctionNotFound` when the
/// function or version is unknown to the caller's tenant, which neither owns it nor is its guest, or not
/// active.
pub fn admit(
    catalog: &Catalog,
    caller: &Caller,
    function: FunctionId,
    version: Option<VersionId>,
    head: &Head<'_>,
) -> Result<Terms, Fault> {
    if !caller.may_invoke(function) {
        return Err(Fault::NotAuthorized);
    }
    let known = catalog
        .function(function)
        .filter(|_| catalog.may_call(caller.tenant, function))
        .ok_or(Fault::FunctionNotFound)?;
    let serves = |of: &Version| of.function == function && of.state == VersionState::Active;
    let versions: Arc<[Arc<Version>]> = match version {
        Some(id) => catalog
            .version(id)
            .filter(|version| serves(version))
            .cloned()
            .into_iter()
            .collect(),
        None => catalog
            .versions_of(function)
            .filter(|version| serves(version))
            .cloned()
            .collect(),
    };
    if versions.is_empty() {
        return Err(Fault::FunctionNotFound);
    }
    Ok(terms(known.clone(), versions, head))
}

/// Of several versions that may serve, the most generous limits count: which one it will be is not
/// known yet, and the directory keeps each version's own.
fn terms(function: Arc<Function>, versions: Arc<[Arc<Version>]>, head: &Head<'_>) -> Terms {
    let most = |limit: fn(&Version) -> u64| {
        Duration::from_millis(versions.iter().map(|v| limit(v)).max().unwrap_or(0))
    };
    let wait = most(|version| version.policy.wait_ms);
    let window_max = most(|version| version.policy.window_max_ms);
    Terms {
        function,
        window: head.window.map(|asked| asked.min(window_max)),
        wait: head.timeout.map_or(wait, |timeout| timeout.min(wait)),
        pins: versions
            .iter()
            .any(|version| version.policy.pin == Pin::Connection),
        versions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use pontoon_proto::id::TenantId;
    use pontoon_raft::catalog::command::VersionPolicy;

    fn version(wait_ms: u64, window_max_ms: u64, pin: Pin) -> Arc<Version> {
        Arc::new(Version {
            id: VersionId::from_random([1; 16]),
            function: FunctionId::from_random([2; 16]),
            state: VersionState::Active,
            policy: VersionPolicy {
                wait_ms,
                window_max_ms,
                pin,
                ..VersionPolicy::default()
            },
            actor: String::new(),
        })
    }

    fn of(headers: &[(&'static str, &str)], versions: Vec<Arc<Version>>) -> Terms {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        terms(
            Arc::new(Function {
                id: FunctionId::from_random([2; 16]),
                tenant: TenantId::from_random([3; 16]),
                name: "echo".into(),
                actor: String::new(),
            }),
            versions.into(),
            &Head::read(&map),
        )
    }

    #[test]
    fn c_err_7_the_wait_is_the_smaller_of_the_deadline_and_the_versions() {
        let one = || vec![version(30_000, 60_000, Pin::Connection)];
        assert_eq!(of(&[], one()).wait, Duration::from_secs(30));
        assert_eq!(
            of(&[("grpc-timeout", "2S")], one()).wait,
            Duration::from_secs(2)
        );
        assert_eq!(
            of(&[("grpc-timeout", "9H")], one()).wait,
            Duration::from_secs(30)
        );
        assert_eq!(
            of(&[("grpc-timeout", "soon")], one()).wait,
            Duration::from_secs(30)
        );
    }

    #[test]
    fn a_window_is_capped_by_the_version() {
        let one = || vec![version(30_000, 60_000, Pin::Connection)];
        assert_eq!(of(&[], one()).window, None);
        for (asked, granted) in [
            ("0", 0),
            ("59", 59),
            ("61", 60),
            ("99999999999999999999", 60),
        ] {
            assert_eq!(
                of(&[("x-nvcf-reconnect-window-secs", asked)], one()).window,
                Some(Duration::from_secs(granted))
            );
        }
    }

    #[test]
    fn of_several_versions_the_most_generous_terms_count() {
        let terms = of(
            &[("x-nvcf-reconnect-window-secs", "1000")],
            vec![
                version(10_000, 500_000, Pin::Never),
                version(20_000, 60_000, Pin::Connection),
            ],
        );
        assert_eq!(terms.wait, Duration::from_secs(20));
        assert_eq!(terms.window, Some(Duration::from_secs(500)));
        assert!(terms.pins);
        assert!(!of(&[], vec![version(1, 1, Pin::Never)]).pins);
    }
}
