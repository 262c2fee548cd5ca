//! Keys (C-KEY-2): what is accepted is exactly what can be minted.

use super::decisions;
use pontoon_proto::key::{self, Garbage, KeyClass, LEN, RANDOM_LEN};

const ALPHABET: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";

pub(super) fn check(bytes: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(bytes);
    let verdict = judged(&text);
    // No mutation hits a checksum, so the input's form is also tried with the right one.
    let completed = completed(&text).map(|text| judged(&text));
    minted(bytes);
    decisions(&[number(Some(verdict)), number(completed)])
}

/// Whoever is accepted decodes to randomness from which the same text is minted.
fn judged(text: &str) -> Result<KeyClass, Garbage> {
    let verdict = key::check(text);
    if let Ok(class) = verdict {
        assert_eq!(text.len(), LEN);
        let body = &text.as_bytes()[class.prefix().len()..][..RANDOM_LEN / 3 * 4];
        let mut random = [0; RANDOM_LEN];
        for (three, four) in random.chunks_exact_mut(3).zip(body.chunks_exact(4)) {
            let bits = four.iter().fold(0, |bits, digit| {
                let six = ALPHABET.iter().position(|known| known == digit);
                bits << 6 | six.expect("a key has only harmless characters") as u32
            });
            three.copy_from_slice(&bits.to_be_bytes()[1..]);
        }
        assert_eq!(key::mint(class, random).expose(), text);
    }
    verdict
}

/// The text with its last six characters replaced by what its checksum should be.
fn completed(text: &str) -> Option<String> {
    let head = text.get(..LEN - 6)?;
    let mut rest = crc32c::crc32c(head.as_bytes()) as usize;
    let mut sum = [0; 6];
    for digit in sum.iter_mut().rev() {
        *digit = ALPHABET[rest % 62];
        rest /= 62;
    }
    Some(format!("{head}{}", String::from_utf8_lossy(&sum)))
}

/// What is minted is accepted, and refused as soon as one character is another.
fn minted(bytes: &[u8]) {
    let Some((random, rest)) = bytes.split_first_chunk::<RANDOM_LEN>() else {
        return;
    };
    for class in KeyClass::ALL {
        let secret = key::mint(class, *random);
        assert_eq!(judged(secret.expose()), Ok(class));
        let &[at, with, ..] = rest else { continue };
        let mut wrong = secret.expose().as_bytes().to_vec();
        let at = usize::from(at) % wrong.len();
        if with.is_ascii() && wrong[at] != with {
            wrong[at] = with;
            let wrong = String::from_utf8(wrong).expect("one ASCII character for another");
            assert!(key::check(&wrong).is_err(), "a wrong character passed");
        }
    }
}

fn number(verdict: Option<Result<KeyClass, Garbage>>) -> usize {
    match verdict {
        None => 0,
        Some(Ok(class)) => 1 + class as usize,
        Some(Err(garbage)) => 8 + garbage as usize,
    }
}
