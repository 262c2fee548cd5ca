//! Traces: what is logged of one are the very digits that were sent, and nothing else of it.

use super::decisions;
use pontoon_proto::trace::Trace;

pub(super) fn check(bytes: &[u8]) -> u64 {
    let traced = Trace::parse(bytes);
    if let Some(trace) = traced {
        let (id, span) = (trace.to_string(), trace.span().to_string());
        assert_eq!(
            (&bytes[3..35], &bytes[36..52]),
            (id.as_bytes(), span.as_bytes())
        );
        let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(hex(&id) && hex(&span));
        // As version 00 it is the same trace.
        let again = format!("00-{id}-{span}-00");
        assert_eq!(Trace::parse(again.as_bytes()), traced);
    }
    // No mutation writes 48 hex digits, so the input's are also tried in the right places.
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let written = digits.get(..50).and_then(|digits| {
        let (version, rest) = digits.split_at(2);
        let (id, span) = rest.split_at(32);
        Trace::parse(format!("{version}-{id}-{span}-01").as_bytes())
    });
    decisions(&[
        usize::from(traced.is_some()),
        usize::from(written.is_some()),
    ])
}
