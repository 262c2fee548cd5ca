//! Tickets: the one-time secrets with which a sidecar opens one tunnel.
//!
//! A ticket is (entry node, boot, nonce). Nothing in it is signed, because nobody but the process
//! that issued it ever judges it: [`Table`] holds what is outstanding, by the issuer's monotonic
//! clock, for one request id and one worker id, and strikes a ticket out when it is used. A restart
//! forgets the table, so a ticket of an earlier life is unknown, and no wall clock takes part
//! (hazard H-25). Node and boot are in the text so that another node can tell whose it is.

use crate::id::{NodeBoot, NodeId, RequestId, WorkerId};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

/// How long a ticket may wait for its CONNECT (contract K-CON-3).
pub const LIFE: Duration = Duration::from_secs(30);

/// How many tickets one process remembers.
///
/// An entry is about 100 bytes, kept for twice [`LIFE`]: 131,072 of them are 13 MB and allow 2,184
/// new tunnels per second, above what one node accepts.
pub const TABLE_MAX: usize = 131_072;

const PREFIX: &str = "ptt_";
const HEX_LEN: usize = 8 + 16 + 32 + 8;

/// The secret itself. Its `Debug` form hides the nonce: tickets never reach a log (O-LOG-1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The entry node that issued it, in the life that did.
    pub issuer: NodeBoot,
    /// 128 bits that nobody can guess.
    pub nonce: [u8; 16],
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({}/{})", self.issuer.node, self.issuer.boot)
    }
}

impl Ticket {
    /// The text that goes into the CONNECT's `authorization`: a prefix, then node, boot, nonce and a
    /// CRC-32C of these, in lower-case hex, so that garbage is refused without a look-up.
    pub fn encode(&self) -> String {
        let body = self.body();
        let mut text = String::with_capacity(PREFIX.len() + HEX_LEN);
        text.push_str(PREFIX);
        for byte in body.iter().chain(&crc32c::crc32c(&body).to_be_bytes()) {
            text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        }
        text
    }

    /// Reads [`Ticket::encode`]'s text; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix(PREFIX)?.as_bytes();
        if hex.len() != HEX_LEN {
            return None;
        }
        let mut bytes = [0u8; HEX_LEN / 2];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        let ticket = Self {
            issuer: NodeBoot {
                node: NodeId(u32::from_be_bytes(bytes[..4].try_into().ok()?)),
                boot: u64::from_be_bytes(bytes[4..12].try_into().ok()?),
            },
            nonce: bytes[12..28].try_into().ok()?,
        };
        let sum = u32::from_be_bytes(bytes[28..].try_into().ok()?);
        (crc32c::crc32c(&ticket.body()) == sum).then_some(ticket)
    }

    fn body(&self) -> [u8; 28] {
        let mut body = [0; 28];
        body[..4].copy_from_slice(&self.issuer.node.0.to_be_bytes());
        body[4..12].copy_from_slice(&self.issuer.boot.to_be_bytes());
        body[12..].copy_from_slice(&self.nonce);
        body
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Why a ticket was refused. One text for the caller, one metric label each (K-CON-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a ticket, not of this process, or forgotten: never issued by this life of this node.
    Unknown,
    /// It is another session's or another worker's.
    WrongId,
    /// It was good, longer than [`LIFE`] ago.
    Expired,
    /// It has opened its tunnel already.
    Used,
}

impl Refusal {
    /// All of them, for metrics that exist from the start.
    pub const ALL: [Refusal; 4] = [
        Refusal::Unknown,
        Refusal::WrongId,
        Refusal::Expired,
        Refusal::Used,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::Unknown => "unknown",
            Refusal::WrongId => "wrong_id",
            Refusal::Expired => "expired",
            Refusal::Used => "used",
        }
    }
}

/// A ticket as it is presented by a CONNECT.
#[derive(Clone, Copy, Debug)]
pub struct Presented {
    /// The secret.
    pub ticket: Ticket,
    /// The CONNECT's request id.
    pub id: RequestId,
    /// The worker, where the sidecar names it; older sidecars don't.
    pub worker: Option<WorkerId>,
}

/// What a judgement found: whether the ticket was good, and how old it was if it was known at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Good, and from now on used; or why not.
    pub verdict: Result<(), Refusal>,
    /// The time since it was minted.
    pub age: Option<Duration>,
}

/// The tickets that this process has issued.
///
/// `now` is always a span on the issuer's monotonic clock since any fixed moment; it must not go
/// back.
#[derive(Debug)]
pub struct Table {
    issuer: NodeBoot,
    entries: BTreeMap<[u8; 16], Entry>,
    /// In minting order, which is the order of expiry, because all live equally long.
    order: VecDeque<(Duration, [u8; 16])>,
}

#[derive(Debug)]
struct Entry {
    id: RequestId,
    worker: WorkerId,
    minted: Duration,
    used: bool,
}

impl Table {
    /// An empty table of this life of this node.
    pub fn new(issuer: NodeBoot) -> Self {
        Self {
            issuer,
            entries: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// The node took a new boot: tickets from now on carry it. The process is the same one, so what
    /// is outstanding stays good.
    pub fn rise(&mut self, issuer: NodeBoot) {
        self.issuer = issuer;
    }

    /// Issues a ticket for one tunnel of this session by this worker's sidecar. `None` when
    /// [`TABLE_MAX`] are remembered: the caller refuses the tunnel.
    pub fn mint(
        &mut self,
        now: Duration,
        nonce: [u8; 16],
        id: RequestId,
        worker: WorkerId,
    ) -> Option<Ticket> {
        self.forget(now);
        if self.order.len() >= TABLE_MAX || self.entries.contains_key(&nonce) {
            return None;
        }
        let entry = Entry {
            id,
            worker,
            minted: now,
            used: false,
        };
        self.entries.insert(nonce, entry);
        self.order.push_back((now, nonce));
        Some(Ticket {
            issuer: self.issuer,
            nonce,
        })
    }

    /// Judges a ticket and, when it is good, strikes it out.
    ///
    /// A ticket that comes with the wrong id stays good for the right one: whoever holds it could
    /// have used it, and a confused sidecar must not cost a session its tunnel.
    pub fn present(&mut self, now: Duration, presented: &Presented) -> Judgement {
        self.forget(now);
        let found = (presented.ticket.issuer.node == self.issuer.node)
            .then(|| self.entries.get_mut(&presented.ticket.nonce))
            .flatten();
        let Some(entry) = found else {
            return Judgement {
                verdict: Err(Refusal::Unknown),
                age: None,
            };
        };
        let age = now.saturating_sub(entry.minted);
        let stranger = presented
            .worker
            .is_some_and(|worker| worker != entry.worker);
        let verdict = if entry.id != presented.id || stranger {
            Err(Refusal::WrongId)
        } else if age > LIFE {
            Err(Refusal::Expired)
        } else if entry.used {
            Err(Refusal::Used)
        } else {
            entry.used = true;
            Ok(())
        };
        Judgement {
            verdict,
            age: Some(age),
        }
    }

    /// Nobody waits for this ticket's tunnel any more.
    pub fn cancel(&mut self, ticket: &Ticket) {
        self.entries.remove(&ticket.nonce);
    }

    /// How many tickets are remembered, used and expired ones included.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Expired tickets are remembered for one more [`LIFE`], so that a late one is called expired
    /// and not unknown; then they go.
    fn forget(&mut self, now: Duration) {
        while let Some((minted, nonce)) = self.order.front().copied() {
            if now.saturating_sub(minted) <= 2 * LIFE {
                return;
            }
            self.order.pop_front();
            self.entries.remove(&nonce);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RegionId;
    use proptest::prelude::*;

    const ISSUER: NodeBoot = NodeBoot {
        node: NodeId(3),
        boot: 7,
    };

    fn id(n: u8) -> RequestId {
        RequestId::mint(RegionId(1), [n; 16])
    }

    fn worker(n: u8) -> WorkerId {
        WorkerId::from_random([n; 16])
    }

    fn present(table: &mut Table, at: u64, ticket: Ticket, n: u8, w: Option<u8>) -> Judgement {
        let presented = Presented {
            ticket,
            id: id(n),
            worker: w.map(worker),
        };
        table.present(Duration::from_millis(at), &presented)
    }

    proptest! {
        #[test]
        fn a_ticket_reads_back_as_it_was_written(node: u32, boot: u64, nonce: [u8; 16]) {
            let ticket = Ticket { issuer: NodeBoot { node: NodeId(node), boot }, nonce };
            let text = ticket.encode();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
            prop_assert_eq!(Ticket::parse(&text), Some(ticket));
        }

        #[test]
        fn one_changed_character_is_noticed(nonce: [u8; 16], at in 0usize..68, with in "[0-9a-f]") {
            let text = Ticket { issuer: ISSUER, nonce }.encode();
            let mut other = text.clone();
            other.replace_range(at..=at, &with);
            prop_assume!(other != text);
            prop_assert_eq!(Ticket::parse(&other), None);
        }

        #[test]
        fn k_con_3_a_ticket_works_once_within_its_life_and_for_its_pair_only(
            tries in proptest::collection::vec((0u64..20_000, 0u8..3, 0u8..3), 1..12),
        ) {
            let mut table = Table::new(ISSUER);
            let ticket = table.mint(Duration::ZERO, [9; 16], id(0), worker(0)).unwrap();
            let (mut now, mut used) = (0, false);
            for (step, n, w) in tries {
                now += step;
                let good = n == 0 && w == 0 && !used && now <= 30_000;
                let verdict = present(&mut table, now, ticket, n, Some(w)).verdict;
                prop_assert_eq!(verdict.is_ok(), good);
                used |= good;
            }
        }
    }

    #[test]
    fn garbage_is_not_a_ticket() {
        for text in [
            "",
            "ptt_",
            "Bearer",
            "ptt_zz",
            &"ptt_".repeat(17),
            &"é".repeat(34),
        ] {
            assert_eq!(Ticket::parse(text), None, "{text}");
        }
    }

    #[test]
    fn k_con_2_each_refusal_has_its_own_label() {
        let mut table = Table::new(ISSUER);
        let ticket = table
            .mint(Duration::ZERO, [1; 16], id(1), worker(1))
            .unwrap();
        let wrong = present(&mut table, 1, ticket, 2, None);
        assert_eq!(wrong.verdict, Err(Refusal::WrongId));
        assert_eq!(present(&mut table, 2, ticket, 1, None).verdict, Ok(()));
        let used = present(&mut table, 3, ticket, 1, Some(1));
        assert_eq!(used.verdict, Err(Refusal::Used));
        assert_eq!(used.age, Some(Duration::from_millis(3)));
        let late = present(&mut table, 30_001, ticket, 1, None);
        assert_eq!(late.verdict, Err(Refusal::Expired));
        let forgotten = present(&mut table, 60_001, ticket, 1, None);
        assert_eq!(forgotten.verdict, Err(Refusal::Unknown));
        assert!(table.is_empty());
    }

    #[test]
    fn h_25_a_replay_after_a_restart_is_refused_whatever_the_clock_says() {
        let mut before = Table::new(ISSUER);
        let ticket = before
            .mint(Duration::ZERO, [1; 16], id(1), worker(1))
            .unwrap();
        assert_eq!(present(&mut before, 5, ticket, 1, None).verdict, Ok(()));
        let mut after = Table::new(NodeBoot {
            boot: ISSUER.boot + 1,
            ..ISSUER
        });
        for now in [0, 2_000, 600_000] {
            let verdict = present(&mut after, now, ticket, 1, None).verdict;
            assert_eq!(verdict, Err(Refusal::Unknown));
        }
    }

    #[test]
    fn h_25_a_good_ticket_outlives_a_new_boot_of_the_same_process() {
        let mut table = Table::new(ISSUER);
        let ticket = table
            .mint(Duration::ZERO, [1; 16], id(1), worker(1))
            .unwrap();
        table.rise(NodeBoot { boot: 8, ..ISSUER });
        assert_eq!(present(&mut table, 5, ticket, 1, None).verdict, Ok(()));
    }

    #[test]
    fn a_cancelled_ticket_is_unknown() {
        let mut table = Table::new(ISSUER);
        let ticket = table
            .mint(Duration::ZERO, [1; 16], id(1), worker(1))
            .unwrap();
        table.cancel(&ticket);
        let verdict = present(&mut table, 5, ticket, 1, None).verdict;
        assert_eq!(verdict, Err(Refusal::Unknown));
    }

    #[test]
    fn a_full_table_issues_nothing_until_old_tickets_are_forgotten() {
        let mut table = Table::new(ISSUER);
        for n in 0..TABLE_MAX as u128 {
            let nonce = n.to_be_bytes();
            assert!(
                table
                    .mint(Duration::ZERO, nonce, id(1), worker(1))
                    .is_some()
            );
        }
        let nonce = u128::MAX.to_be_bytes();
        let later = Duration::from_secs(61);
        assert!(table.mint(LIFE, nonce, id(1), worker(1)).is_none());
        assert!(table.mint(later, nonce, id(1), worker(1)).is_some());
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn o_log_1_a_debugged_ticket_tells_no_secret() {
        let ticket = Ticket {
            issuer: ISSUER,
            nonce: [0xab; 16],
        };
        assert!(!format!("{ticket:?}").contains("ab"));
    }
}
