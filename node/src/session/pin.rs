//! Pins: which session the calls of one connection keep meeting, and who shares an open that is
//! still under way (C-PIN-1, C-PIN-2).
//!
//! Pure: what an open under way is, the holder decides (`O`, a handle that many can wait for).
//!
//! ```text
//! (none) ──starts──▶ Opening ──opened──▶ Session ──forget──▶ (none)
//!    ▲                  │
//!    └──────forget──────┘   a failed open is not cached
//! ```

use pontoon_proto::id::{FunctionId, RequestId, TenantId, VersionId};
use std::collections::BTreeMap;

/// How many pins one connection may have: a client that multiplexes more functions and subjects than
/// this opens a session per call for the rest. At about 200 B each it costs a connection 200 KiB.
pub const PINS_MAX: usize = 1024;

/// What must be equal for two calls of one connection to share a session.
///
/// The principal is part of it, so that two users behind one HTTP/2 connection never share a session
/// by accident, and it is not the token, so that a refreshed token keeps its session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The function called.
    pub function: FunctionId,
    /// The version as it was sent, not as it was chosen.
    pub version: Option<VersionId>,
    /// The account.
    pub tenant: TenantId,
    /// Who the key is.
    pub subject: String,
}

/// What a key's calls share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin<O> {
    /// An open that is under way.
    Opening(O),
    /// A session.
    Session(RequestId),
}

/// The pins of one connection.
#[derive(Debug)]
pub struct Pins<O> {
    by_key: BTreeMap<Key, Pin<O>>,
}

impl<O> Default for Pins<O> {
    fn default() -> Self {
        Self {
            by_key: BTreeMap::new(),
        }
    }
}

impl<O> Pins<O> {
    /// What this key's calls share at present.
    pub fn get(&self, key: &Key) -> Option<&Pin<O>> {
        self.by_key.get(key)
    }

    /// An open starts for this key; false when the connection has too many pins for one more.
    pub fn starts(&mut self, key: Key, open: O) -> bool {
        let room = self.by_key.len() < PINS_MAX || self.by_key.contains_key(&key);
        if room {
            self.by_key.insert(key, Pin::Opening(open));
        }
        room
    }

    /// The open has given this session. Without an open under way (it was forgotten in the meantime)
    /// nothing is pinned.
    pub fn opened(&mut self, key: &Key, session: RequestId) {
        if let Some(pin @ Pin::Opening(_)) = self.by_key.get_mut(key) {
            *pin = Pin::Session(session);
        }
    }

    /// The open failed.
    pub fn failed(&mut self, key: &Key) {
        if matches!(self.by_key.get(key), Some(Pin::Opening(_))) {
            self.by_key.remove(key);
        }
    }

    /// The pinned session has ended; a pin that has moved on to another session stays.
    pub fn ended(&mut self, key: &Key, session: RequestId) {
        if matches!(self.by_key.get(key), Some(Pin::Session(pinned)) if *pinned == session) {
            self.by_key.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_proto::id::RegionId;

    fn key(subject: &str) -> Key {
        Key {
            function: FunctionId::from_random([1; 16]),
            version: None,
            tenant: TenantId::from_random([2; 16]),
            subject: subject.into(),
        }
    }

    fn session(n: u8) -> RequestId {
        RequestId::mint(RegionId(1), [n; 16])
    }

    #[test]
    fn c_pin_1_principal_function_and_version_as_sent_make_the_key() {
        let mut pins = Pins::default();
        assert!(pins.starts(key("alice"), ()));
        pins.opened(&key("alice"), session(1));
        assert_eq!(pins.get(&key("alice")), Some(&Pin::Session(session(1))));
        assert_eq!(pins.get(&key("bob")), None);
        let named = Key {
            version: Some(VersionId::from_random([3; 16])),
            ..key("alice")
        };
        assert_eq!(pins.get(&named), None);
        let elsewhere = Key {
            function: FunctionId::from_random([9; 16]),
            ..key("alice")
        };
        assert_eq!(pins.get(&elsewhere), None);
    }

    #[test]
    fn c_pin_2_a_failed_open_is_not_cached() {
        let mut pins = Pins::default();
        pins.starts(key("alice"), 7);
        assert_eq!(pins.get(&key("alice")), Some(&Pin::Opening(7)));
        pins.failed(&key("alice"));
        assert_eq!(pins.get(&key("alice")), None);
        pins.opened(&key("alice"), session(1));
        assert_eq!(pins.get(&key("alice")), None);
    }

    #[test]
    fn c_pin_3_only_the_session_that_ended_is_forgotten() {
        let mut pins = Pins::default();
        pins.starts(key("alice"), ());
        pins.opened(&key("alice"), session(2));
        pins.failed(&key("alice"));
        pins.ended(&key("alice"), session(1));
        assert_eq!(pins.get(&key("alice")), Some(&Pin::Session(session(2))));
        pins.ended(&key("alice"), session(2));
        assert_eq!(pins.get(&key("alice")), None);
    }

    #[test]
    fn pins_are_bounded_and_the_old_ones_stay() {
        let mut pins = Pins::default();
        for n in 0..PINS_MAX {
            assert!(pins.starts(key(&n.to_string()), ()));
        }
        assert!(!pins.starts(key("one too many"), ()));
        assert!(pins.starts(key("0"), ()));
    }
}
