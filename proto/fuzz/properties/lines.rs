//! Inputs as text: one header a line, so that a corpus can be read, and mutations keep their meaning.

use http::{HeaderMap, HeaderName, HeaderValue};

/// One header of each line `name: value`; lines that no HTTP library would let through are skipped.
pub(super) fn headers(bytes: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in bytes.split(|&b| b == b'\n') {
        let Some(colon) = line.iter().position(|&b| b == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    map
}

/// Every line as one header of this name.
pub(super) fn all_as(name: &HeaderName, bytes: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in bytes.split(|&b| b == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            map.append(name, value);
        }
    }
    map
}

/// The same headers, each name's joined into one; HTTP allows that for lists, and for cookies.
pub(super) fn joined(map: &HeaderMap, name: &HeaderName, by: &[u8]) -> HeaderMap {
    let values: Vec<&[u8]> = map.get_all(name).iter().map(|v| v.as_bytes()).collect();
    let mut one = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(&values.join(by)) {
        one.append(name, value);
    }
    one
}
