//! Tickets (K-CON-3): what is accepted is exactly what is printed, and `Debug` keeps the secret.

use super::decisions;
use pontoon_proto::id::{NodeBoot, NodeId};
use pontoon_proto::ticket::Ticket;

pub(super) fn check(bytes: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(bytes);
    let accepted = Ticket::parse(&text);
    if let Some(ticket) = &accepted {
        assert_eq!(ticket.encode(), text);
    }
    if let Some((body, rest)) = bytes.split_first_chunk::<28>() {
        let ticket = Ticket {
            issuer: NodeBoot {
                node: NodeId(u32::from_be_bytes([body[0], body[1], body[2], body[3]])),
                boot: body[4..12]
                    .iter()
                    .fold(0, |all, &b| all << 8 | u64::from(b)),
            },
            nonce: body[12..].try_into().expect("16 of 28 bytes"),
        };
        printed(&ticket, rest);
    }
    decisions(&[
        usize::from(accepted.is_some()),
        text.len().min(80) / 4,
        usize::from(text.starts_with("ptt_")),
    ])
}

fn printed(ticket: &Ticket, rest: &[u8]) {
    let text = ticket.encode();
    assert!(
        text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
        "a ticket passes unquoted through headers and shells"
    );
    assert_eq!(Ticket::parse(&text).as_ref(), Some(ticket));
    assert_eq!(
        format!("{ticket:?}"),
        format!("Ticket({}/{})", ticket.issuer.node, ticket.issuer.boot)
    );
    let &[at, with, ..] = rest else { return };
    let mut wrong = text.clone().into_bytes();
    let at = usize::from(at) % wrong.len();
    wrong[at] = with;
    let wrong = String::from_utf8_lossy(&wrong);
    assert!(
        wrong == text || Ticket::parse(&wrong).is_none(),
        "a wrong character passed"
    );
}
