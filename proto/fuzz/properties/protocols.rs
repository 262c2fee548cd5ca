//! The WebSocket protocol list (C-WSP-1, C-WSP-2): the first of a key wins, no credential is passed
//! on, and nothing is selected that was not offered.
//!
//! An input's first line is what the worker selects, nothing when it is empty; each other line is one
//! `sec-websocket-protocol` header.

use super::{decisions, lines};
use http::HeaderMap;
use http::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use pontoon_proto::head::{ABSORB, FUNCTION_ID, REQUEST_ID, VERSION_ID, WINDOW};
use pontoon_proto::protocols::Protocols;

const OURS: [&str; 5] = [FUNCTION_ID, VERSION_ID, REQUEST_ID, ABSORB, WINDOW];

pub(super) fn check(bytes: &[u8]) -> u64 {
    let at = bytes.iter().position(|&b| b == b'\n');
    let (chosen, offered) = bytes.split_at(at.map_or(bytes.len(), |at| at + 1));
    let chosen = HeaderValue::from_bytes(chosen.trim_ascii()).ok();
    let chosen = chosen.as_ref().and_then(|chosen| chosen.to_str().ok());
    let chosen = chosen.filter(|chosen| !chosen.is_empty());
    let map = lines::all_as(&SEC_WEBSOCKET_PROTOCOL, offered);
    let list = Protocols::read(&map);
    if map.values().all(|value| value.to_str().is_ok()) {
        let joined = lines::joined(&map, &SEC_WEBSOCKET_PROTOCOL, b",");
        assert!(map.is_empty() || Protocols::read(&joined) == list);
    }
    first_of_a_key(&list);
    for keep_ours in [false, true] {
        forwarded(&list, keep_ours);
    }
    let selected = selected(&list, chosen);
    decisions(&[
        list.items().len(),
        list.items().iter().filter(|item| ours(item)).count(),
        usize::from(list.get("authorization").is_some()),
        usize::from(chosen.is_some()) + usize::from(selected.is_some()) * 2,
    ])
}

fn first_of_a_key(list: &Protocols<'_>) {
    for item in list.items().iter().take(64) {
        let Some((name, _)) = item.split_once('.') else {
            continue;
        };
        let first = list.items().iter().find_map(|item| {
            item.split_once('.')
                .filter(|(other, _)| other.eq_ignore_ascii_case(name))
        });
        let value = first.map(|(_, value)| value);
        assert_eq!(list.get(name), value);
        assert_eq!(list.get(&name.to_ascii_uppercase()), value);
    }
}

fn forwarded(list: &Protocols<'_>, keep_ours: bool) {
    let text = list.forwarded(keep_ours);
    let mut map = HeaderMap::new();
    map.insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_str(&text).expect("what came in a header fits into one"),
    );
    let seen = Protocols::read(&map);
    let trimmed = |items: &[&str]| -> Vec<String> {
        let items = items.iter().map(|item| item.trim().to_owned());
        items.filter(|item| !item.is_empty()).collect()
    };
    let mut expected = trimmed(list.items());
    expected.retain(|item| !credential(item) && (keep_ours || !ours(item)));
    assert_eq!(trimmed(seen.items()), expected);
    assert_eq!(seen.get("authorization"), None);
    assert_eq!(seen.forwarded(keep_ours), text);
    // Shorter ones occur elsewhere by chance, and with white space inside it is no credential.
    let secret = list
        .get("authorization")
        .filter(|secret| secret.len() > 8 && secret.bytes().all(|byte| byte.is_ascii_graphic()));
    if let Some(secret) = secret {
        let elsewhere = expected.iter().any(|item| item.contains(secret));
        assert!(elsewhere || !text.contains(secret), "a credential passed");
    }
}

fn selected<'a>(list: &Protocols<'a>, chosen: Option<&str>) -> Option<&'a str> {
    let offered: Vec<&str> = list
        .items()
        .iter()
        .map(|item| item.trim())
        .filter(|item| !item.is_empty())
        .collect();
    let selected = list.selected(chosen);
    if let Some(item) = selected {
        assert!(offered.contains(&item), "{item:?} was not offered");
        assert!(!credential(item), "a credential was selected");
    }
    let good = chosen.filter(|chosen| offered.contains(chosen) && !credential(chosen));
    let all_ours = offered.iter().all(|item| ours(item));
    match good {
        Some(chosen) => assert_eq!(selected, Some(chosen)),
        None if all_ours => {
            let other = offered.iter().any(|item| !credential(item));
            assert_eq!(selected.is_some(), other, "clients refuse a mute handshake");
            let names = |item: &str| key(item).eq_ignore_ascii_case(FUNCTION_ID);
            let first = offered.iter().copied().find(|item| names(item));
            assert!(first.is_none() || selected == first);
        }
        None => assert_eq!(selected, None, "the worker passed over the client's own"),
    }
    selected
}

fn key(item: &str) -> &str {
    item.split_once('.').map_or("", |(key, _)| key.trim())
}

fn credential(item: &str) -> bool {
    key(item).eq_ignore_ascii_case("authorization")
}

fn ours(item: &str) -> bool {
    credential(item) || OURS.iter().any(|name| key(item).eq_ignore_ascii_case(name))
}
