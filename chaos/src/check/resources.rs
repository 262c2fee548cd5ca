//! Memory, threads and descriptors come back to where they were before the work.

use super::Verdict;

/// What the processes of the product hold, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes.
    pub memory: u64,
    /// Files and sockets.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// What the nodes' own gauges count: client sockets, calls, tunnels, relays.
    pub gauges: u64,
}

/// Checks the growth. Threads and gauges may not grow at all: both follow the work.
pub fn resources(
    before: Resources,
    after: Resources,
    memory_mib: Option<u64>,
    descriptors: Option<u64>,
) -> Verdict {
    let grown = |before: u64, after: u64| after.saturating_sub(before);
    let memory = grown(before.memory, after.memory) >> 20;
    let more = grown(before.descriptors, after.descriptors);
    let figures = format!(
        "memory {} -> {} MiB, descriptors {} -> {}, threads {} -> {}, sockets, calls, tunnels and relays {} -> {}",
        before.memory >> 20,
        after.memory >> 20,
        before.descriptors,
        after.descriptors,
        before.threads,
        after.threads,
        before.gauges,
        after.gauges,
    );
    let over = |value: u64, bound: Option<u64>| bound.is_some_and(|bound| value > bound);
    let checked = memory_mib.is_some() || descriptors.is_some();
    let leaked = over(memory, memory_mib)
        || over(more, descriptors)
        || (checked && after.gauges > before.gauges);
    match leaked {
        true => Err(figures),
        false => Ok(figures),
    }
}

/// Checks the most that any node ever held.
pub fn peak(bytes: Option<u64>, peak_mib: Option<u64>) -> Verdict {
    let peak = bytes.ok_or_else(|| "no node runs".to_owned())? >> 20;
    let figures = format!("no node that runs ever held more than {peak} MiB");
    match peak_mib.is_some_and(|most| peak > most) {
        true => Err(figures),
        false => Ok(figures),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_beyond_the_bound_is_refused() {
        assert!(peak(Some(100 << 20), Some(100)).is_ok());
        assert!(peak(Some(101 << 20), Some(100)).is_err());
        assert!(peak(None, None).is_err());
    }

    #[test]
    fn growth_beyond_the_bound_is_refused() {
        let before = Resources {
            memory: 100 << 20,
            descriptors: 50,
            threads: 8,
            gauges: 2,
        };
        assert!(resources(before, before, Some(0), Some(0)).is_ok());
        let fat = Resources {
            memory: 131 << 20,
            ..before
        };
        assert!(resources(before, fat, Some(30), None).is_err());
        assert!(resources(before, fat, Some(31), None).is_ok());
        let open = Resources {
            descriptors: 54,
            ..before
        };
        assert!(resources(before, open, None, Some(3)).is_err());
        let tunnel = Resources {
            gauges: 3,
            ..before
        };
        assert!(resources(before, tunnel, Some(0), None).is_err());
    }
}
