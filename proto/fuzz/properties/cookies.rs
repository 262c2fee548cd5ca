//! Cookies (C-RID-1, C-RID-4, C-FWD-2): ours is found whatever its neighbours, and taken out alone.
//!
//! An input is a list of `cookie` headers, one a line.

use super::{decisions, lines};
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use pontoon_proto::cookies::{COOKIE_NAME, COOKIES_MAX, Cookies, drop_ours, our_cookie};

const ID: &str = "67e55044-10b1-826f-9247-bb680e5fe0c8";

pub(super) fn check(bytes: &[u8]) -> u64 {
    let sent = lines::all_as(&COOKIE, bytes);
    let read = Cookies::read(&sent);
    assert!(read.ids.len() <= COOKIES_MAX);
    assert!(read.named || read.ids.is_empty());
    assert_eq!(
        Cookies::read(&lines::joined(&sent, &COOKIE, b"; ")),
        read,
        "one header for each pair says the same as one for all"
    );
    found_among_neighbours(&sent, &read);
    only_ours_is_dropped(&sent);
    decisions(&[
        usize::from(read.named),
        read.ids.len(),
        sent.len(),
        others(&sent).len(),
    ])
}

/// Puts our cookie into each gap between the pairs that were sent.
fn found_among_neighbours(sent: &HeaderMap, before: &Cookies) {
    let pairs: Vec<&[u8]> = pairs(sent).collect();
    for spelled in [
        format!("{COOKIE_NAME}={ID}"),
        format!("{COOKIE_NAME}=\"{ID}\""),
    ] {
        for at in 0..=pairs.len().min(16) {
            let mut more = pairs.clone();
            more.insert(at, spelled.as_bytes());
            let mut map = HeaderMap::new();
            let value = HeaderValue::from_bytes(&more.join(&b"; "[..]));
            map.insert(COOKIE, value.expect("parts of good values"));
            let read = Cookies::read(&map);
            let id = ID.parse().expect("a UUID");
            assert!(read.named);
            if before.ids.len() < COOKIES_MAX || at == 0 {
                assert!(read.ids.contains(&id), "not found at {at}");
            }
            if at == 0 {
                assert_eq!(read.ids[0], id, "the first is not the first");
            }
        }
    }
}

fn only_ours_is_dropped(sent: &HeaderMap) {
    let mut kept = sent.clone();
    drop_ours(&mut kept);
    assert!(pairs(&kept).all(|pair| our_cookie(pair).is_none()));
    assert!(!Cookies::read(&kept).named);
    assert_eq!(others(&kept), others(sent), "another cookie was lost");
    let mut again = kept.clone();
    drop_ours(&mut again);
    assert_eq!(again, kept);
}

fn pairs(map: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    map.get_all(COOKIE)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b';'))
}

fn others(map: &HeaderMap) -> Vec<&[u8]> {
    pairs(map)
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty() && our_cookie(pair).is_none())
        .collect()
}
