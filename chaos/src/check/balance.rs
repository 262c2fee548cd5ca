//! In the end slots equal sessions, every node's replica says the same, and all workers are ready.

use super::Verdict;
use crate::cluster::world::Balance;

/// Checks it, once every client has released what it had: `left` sessions may still be held, those that
/// nobody could release.
pub fn balance(seen: &[Balance], workers: usize, left: usize) -> Verdict {
    let Some(first) = seen.first() else {
        return Err("no node was asked".to_owned());
    };
    if seen.iter().any(|other| other != first) {
        return Err(format!("the nodes do not agree: {seen:?}"));
    }
    let Balance {
        ready,
        slots,
        bound,
        queued,
        ref some,
    } = *first;
    if slots as usize != bound || queued != 0 {
        return Err(format!(
            "{slots} slots are used by {bound} sessions, {queued} more wait"
        ));
    }
    if bound > left {
        return Err(format!(
            "{bound} sessions are left, at most {left} should be: {}",
            some.join("; "),
        ));
    }
    if ready != workers {
        return Err(format!("{ready} of {workers} workers are ready"));
    }
    Ok(format!(
        "{slots} slots, {bound} sessions, {ready} workers ready, on {} nodes",
        seen.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaked_slot_a_leaked_session_and_a_missing_worker_are_refused() {
        let good = Balance {
            ready: 3,
            ..Balance::default()
        };
        assert!(balance(&[good.clone(), good.clone()], 3, 0).is_ok());
        assert!(balance(&[], 3, 0).is_err());
        assert!(balance(std::slice::from_ref(&good), 4, 0).is_err());
        let slot = Balance {
            slots: 1,
            ..good.clone()
        };
        assert!(balance(std::slice::from_ref(&slot), 3, 1).is_err());
        assert!(balance(&[good.clone(), slot.clone()], 3, 1).is_err());
        let session = Balance { bound: 1, ..slot };
        assert!(balance(std::slice::from_ref(&session), 3, 0).is_err());
        assert!(balance(&[session], 3, 1).is_ok());
        let queued = Balance { queued: 1, ..good };
        assert!(balance(&[queued], 3, 0).is_err());
    }
}
