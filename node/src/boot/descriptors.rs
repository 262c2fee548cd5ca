//! The limit on file descriptors: raised as far as it goes, and what of it clients may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, and gives how many descriptors there are then; `None` for
/// no limit.
///
/// The soft limit is 1,024 on many machines for the sake of programs that use select(2); we don't.
pub(super) fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, ?current, "the limit on open files could not be raised");
            current
        }
    }
}

/// How many client connections there may be: what is configured, and at most 80 % of the
/// descriptors, because each takes one, and the log, peers, sidecars and tunnels need some, too.
pub(super) fn connections_max(configured: usize, descriptors: Option<u64>) -> usize {
    let share = descriptors.map_or(u64::MAX, |all| all / 5 * 4);
    configured.min(usize::try_from(share).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_lsn_3_connections_take_at_most_80_percent_of_the_descriptors() {
        assert_eq!(connections_max(20_000, Some(1_000_000)), 20_000);
        assert_eq!(connections_max(20_000, Some(1_000)), 800);
        assert_eq!(connections_max(20_000, None), 20_000);
        assert_eq!(connections_max(1, Some(u64::MAX)), 1);
    }

    #[test]
    fn c_lsn_3_the_soft_limit_is_raised_to_the_hard_one() {
        let raised = raise();
        let now = getrlimit(Resource::Nofile);
        assert_eq!((now.current, now.maximum), (raised, raised));
    }
}
