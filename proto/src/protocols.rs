//! The WebSocket protocol list of a request: a second place for what headers say (C-WSP).

use crate::head::{ABSORB, FUNCTION_ID, REQUEST_ID, VERSION_ID, WINDOW};
use http::header::{HeaderMap, SEC_WEBSOCKET_PROTOCOL};

/// The key of the item that carries a credential.
const CREDENTIAL: &str = "authorization";

/// The items of `Sec-WebSocket-Protocol` that carry keys: browsers can't set headers on a WebSocket,
/// so `function-id.<uuid>` and the like travel as subprotocols (C-WSP-1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocols<'a> {
    items: Vec<&'a str>,
}

impl<'a> Protocols<'a> {
    /// Splits all headers of the name at `,`, dropping exactly one leading space of each item.
    pub fn read(headers: &'a HeaderMap) -> Self {
        let mut items = Vec::new();
        for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
            let Ok(value) = value.to_str() else { continue };
            items.extend(
                value
                    .split(',')
                    .map(|item| item.strip_prefix(' ').unwrap_or(item)),
            );
        }
        Self { items }
    }

    /// The value of the first item with this key, verbatim. Keys are compared in any case; items
    /// without a dot have none.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.items.iter().find_map(|item| {
            let (name, value) = item.split_once('.')?;
            name.eq_ignore_ascii_case(key).then_some(value)
        })
    }

    /// All items as they were offered.
    pub fn items(&self) -> &[&'a str] {
        &self.items
    }

    /// The list as the worker is offered it: never with a credential, and with our other items only
    /// where the version wants them (C-WSP-2). Empty items go too, since a list may not be sent with
    /// them, and so does white space, which is no part of an item (RFC 9110 5.6.1): else the next
    /// reader of the list sees another one. Empty when nothing is left to offer.
    pub fn forwarded(&self, keep_ours: bool) -> String {
        self.items
            .iter()
            .map(|item| item.trim())
            .filter(|item| !item.is_empty() && !is_credential(item))
            .filter(|item| keep_ours || !is_ours(item))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// What the handshake's answer selects, given what the worker selected (C-WSP-2).
    ///
    /// Chromium, `ws` and undici refuse a handshake that selects nothing of what they offered. A
    /// worker that was offered nothing, because all items were ours, can't select anything; for it
    /// the item is echoed that names the function, else any but a credential. A worker that passes
    /// over the client's own items has said no, and is not spoken for. Its word counts only for what
    /// was offered: clients close a connection that selects anything else.
    pub fn selected(&self, by_worker: Option<&str>) -> Option<&'a str> {
        let mut offered = self
            .items
            .iter()
            .map(|item| item.trim())
            .filter(|item| !item.is_empty() && !is_credential(item));
        if let Some(chosen) = by_worker.map(str::trim)
            && let Some(item) = offered.clone().find(|item| *item == chosen)
        {
            return Some(item);
        }
        if !offered.clone().all(is_ours) {
            return None;
        }
        offered
            .clone()
            .find(|item| key(item).is_some_and(|key| key.eq_ignore_ascii_case(FUNCTION_ID)))
            .or_else(|| offered.next())
    }
}

/// An item's key, also where white space would keep [`Protocols::get`] from finding it: what looks
/// like a credential must not reach a worker either.
fn key(item: &str) -> Option<&str> {
    item.split_once('.').map(|(key, _)| key.trim())
}

fn is_credential(item: &str) -> bool {
    key(item).is_some_and(|key| key.eq_ignore_ascii_case(CREDENTIAL))
}

/// Whether the item is for us, a credential included.
fn is_ours(item: &str) -> bool {
    is_credential(item)
        || key(item).is_some_and(|key| {
            [FUNCTION_ID, VERSION_ID, REQUEST_ID, ABSORB, WINDOW]
                .iter()
                .any(|name| key.eq_ignore_ascii_case(name))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn offered(list: &'static str) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(list));
        map
    }

    #[test]
    fn c_wsp_2_the_worker_is_never_offered_a_credential() {
        let map = offered("authorization.tok, function-id.x,  Authorization.tok,graphql,, a.b");
        let list = Protocols::read(&map);
        assert_eq!(list.forwarded(false), "graphql, a.b");
        assert_eq!(list.forwarded(true), "function-id.x, graphql, a.b");
        let map = offered("authorization.tok, function-id.x");
        assert_eq!(Protocols::read(&map).forwarded(false), "");
        let map = offered("authorization.tok,  a.b , ,c");
        assert_eq!(Protocols::read(&map).forwarded(false), "a.b, c");
    }

    #[test]
    fn c_wsp_2_the_answer_selects_what_was_offered_or_nothing() {
        for (list, by_worker, selected) in [
            ("graphql, a.b", Some("a.b"), Some("a.b")),
            ("graphql, a.b", None, None),
            ("graphql, a.b", Some("never-offered"), None),
            (
                "authorization.t, Function-Id.x",
                None,
                Some("Function-Id.x"),
            ),
            ("nvcf-reqid.i, function-id.x", None, Some("function-id.x")),
            ("authorization.t, nvcf-reqid.i", None, Some("nvcf-reqid.i")),
            (
                "function-id.x, nvcf-reqid.i",
                Some("nvcf-reqid.i"),
                Some("nvcf-reqid.i"),
            ),
            ("authorization.t", None, None),
            ("authorization.t", Some("authorization.t"), None),
            ("function-id.x, graphql", None, None),
            ("function-id.x, ,", None, Some("function-id.x")),
            ("", None, None),
        ] {
            let map = offered(list);
            let list = Protocols::read(&map);
            assert_eq!(list.selected(by_worker), selected, "{list:?} {by_worker:?}");
        }
    }
}
