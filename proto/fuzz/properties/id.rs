//! Ids (C-RID-2): four spellings and no others, one id for all of them.

use super::decisions;
use pontoon_proto::id::{RegionId, RequestId};

pub(super) fn check(bytes: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(bytes);
    let parsed = text.parse::<RequestId>().ok();
    let spelling = spelling(&text);
    assert_eq!(parsed.is_some(), spelling.is_some(), "{text:?}");
    if let Some(id) = parsed {
        same(id);
    }
    if let Some(random) = bytes.first_chunk::<16>() {
        same(RequestId::from_random(*random));
        let region = RegionId(u16::from_be_bytes([random[0], random[1]]) % 4095 + 1);
        let minted = RequestId::mint(region, *random);
        assert_eq!(minted.region(), Some(region));
        same(minted);
    }
    let ours = parsed.and_then(RequestId::region).is_some();
    decisions(&[spelling.unwrap_or(0), usize::from(ours)])
}

/// Every way to write an id reads back as that id, and an id that counts as minted could have been.
fn same(id: RequestId) {
    let uuid = id.0;
    for text in [
        id.to_string(),
        uuid.simple().to_string(),
        uuid.urn().to_string(),
        uuid.braced().to_string(),
        id.to_string().to_uppercase(),
    ] {
        assert_eq!(text.parse::<RequestId>().ok(), Some(id), "{text}");
    }
    if let Some(region) = id.region() {
        assert!((1..=RegionId::MAX.0).contains(&region.0));
        assert_eq!(RequestId::mint(region, id.to_bytes()), id);
    }
}

/// Which of the four spellings this is, decided without the parser.
fn spelling(text: &str) -> Option<usize> {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let hyphenated = |text: &str| {
        let groups: Vec<&str> = text.split('-').collect();
        groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
            && groups.iter().all(|group| hex(group))
    };
    if hyphenated(text) {
        Some(1)
    } else if text.len() == 32 && hex(text) {
        Some(2)
    } else if let Some((urn, rest)) = text.split_at_checked(9)
        && urn.eq_ignore_ascii_case("urn:uuid:")
    {
        hyphenated(rest).then_some(3)
    } else {
        let inner = text.strip_prefix('{')?.strip_suffix('}')?;
        hyphenated(inner).then_some(4)
    }
}
