//! The WebSocket protocol list as a carrier of keys: what of it reaches the worker, and what the
//! client is told was selected (C-WSP-2).
//!
//! Pure. Browsers refuse a handshake that selects nothing of what they offered, or something that
//! they did not offer.

use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use pontoon_proto::head::{self, Protocols};

/// The keys that may travel in the list, the credential aside.
const OURS: [&str; 5] = [
    head::FUNCTION_ID,
    head::VERSION_ID,
    head::REQUEST_ID,
    head::ABSORB,
    head::WINDOW,
];

fn key(item: &str) -> Option<&str> {
    item.trim().split_once('.').map(|(key, _)| key)
}

fn is_credential(item: &str) -> bool {
    key(item).is_some_and(|key| key.eq_ignore_ascii_case("authorization"))
}

fn is_ours(item: &str) -> bool {
    let ours = |key: &str| OURS.iter().any(|name| key.eq_ignore_ascii_case(name));
    is_credential(item) || key(item).is_some_and(ours)
}

/// Takes the credential out of an offered list, and our other items unless the version wants them.
pub(super) fn offer(headers: &mut HeaderMap, keep_ours: bool) {
    if !headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        return;
    }
    let drops = |item: &str| is_credential(item) || (!keep_ours && is_ours(item));
    let kept = Protocols::read(headers)
        .items()
        .iter()
        .copied()
        .filter(|item| !drops(item))
        .collect::<Vec<_>>()
        .join(", ");
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if !kept.is_empty()
        && let Ok(kept) = HeaderValue::from_str(&kept)
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, kept);
    }
}

/// Puts into an accepted handshake what the client is told was selected: the worker's choice if it
/// was offered; else, where all of the offer was ours, an item of it that is no secret; else nothing.
pub(super) fn select(offered: &HeaderMap, answer: &mut HeaderMap) {
    let protocols = Protocols::read(offered);
    let items = protocols.items();
    let chosen = answer.remove(SEC_WEBSOCKET_PROTOCOL);
    let chosen = chosen.as_ref().and_then(|chosen| chosen.to_str().ok());
    let names_function =
        |item: &&&str| key(item).is_some_and(|key| key.eq_ignore_ascii_case(head::FUNCTION_ID));
    let selected = match chosen {
        Some(chosen) if !is_credential(chosen) => {
            items.iter().find(|item| item.trim() == chosen.trim())
        }
        _ => None,
    };
    let selected = selected.or_else(|| {
        if !items.iter().all(|item| is_ours(item)) {
            return None;
        }
        let harmless = |item: &&&str| !is_credential(item);
        let mut all = items.iter();
        all.find(names_function)
            .or_else(|| items.iter().find(harmless))
    });
    if let Some(selected) = selected
        && let Ok(selected) = HeaderValue::from_str(selected.trim())
    {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, selected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !text.is_empty() {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, text.parse().unwrap());
        }
        headers
    }

    fn said(headers: &HeaderMap) -> Option<&str> {
        headers
            .get(SEC_WEBSOCKET_PROTOCOL)
            .map(|value| value.to_str().unwrap())
    }

    #[test]
    fn c_wsp_2_the_credential_never_reaches_the_worker() {
        let all = "authorization.s3cret, function-id.f, chat, nvcf-reqid.r";
        for (keep, expected) in [(false, "chat"), (true, "function-id.f, chat, nvcf-reqid.r")] {
            let mut headers = list(all);
            offer(&mut headers, keep);
            assert_eq!(said(&headers), Some(expected));
        }
        let mut headers = list("Authorization.s3cret");
        offer(&mut headers, true);
        assert_eq!(said(&headers), None);
    }

    #[test]
    fn c_wsp_2_what_is_selected_was_offered_and_is_no_secret() {
        for (offered, chosen, told) in [
            ("authorization.s, function-id.f, chat", "chat", Some("chat")),
            ("authorization.s, function-id.f, chat", "", None),
            ("authorization.s, function-id.f", "", Some("function-id.f")),
            (
                "authorization.s, nvcf-reqid.r, Function-Id.f",
                "",
                Some("Function-Id.f"),
            ),
            ("authorization.s, nvcf-reqid.r", "", Some("nvcf-reqid.r")),
            ("authorization.s", "", None),
            ("chat", "unheard", None),
            ("function-id.f", "unheard", Some("function-id.f")),
            ("authorization.s, chat", "authorization.s", None),
            ("", "chat", None),
        ] {
            let mut answer = list(chosen);
            select(&list(offered), &mut answer);
            assert_eq!(said(&answer), told, "{offered} / {chosen}");
        }
    }
}
