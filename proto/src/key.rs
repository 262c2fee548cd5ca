//! The secrets that we mint: how they look, how garbage is told from them, how they are remembered.
//!
//! A key is `pnt_c_` (client), `pnt_w_` (worker) or `pnt_a_` (admin), 32 characters of randomness
//! and a 6-character checksum over everything before it; only `A-Z a-z 0-9 - _` occur (contract
//! C-KEY-2), so a key passes unquoted through headers, shells and WebSocket protocol lists. The
//! prefix lets secret scanners find leaked keys, the checksum refuses mistyped ones without asking
//! anybody. The catalog keeps only [`hash`]: with 192 random bits behind it a plain SHA-256 can't
//! be reversed by guessing, so no slow password hash is needed on the path of a call.

use sha2::{Digest as _, Sha256};
use std::fmt;

/// Random bytes in a key: 192 bits, which are exactly 32 characters of 6 bits each.
pub const RANDOM_LEN: usize = 24;

/// Length of every key: a prefix of 6, 32 characters of randomness, a checksum of 6.
pub const LEN: usize = PREFIX_LEN + BODY_LEN + SUM_LEN;

const PREFIX_LEN: usize = 6;
const BODY_LEN: usize = RANDOM_LEN / 3 * 4;
/// 62^6 is 5.7e10, just above the 2^32 values of a CRC.
const SUM_LEN: usize = 6;

/// Digits first, so that its first 62 characters are base 62 and all 64 are 6 bits.
const ALPHABET: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";

/// What a key says of itself. What it may do, only the catalog knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyClass {
    /// Calls functions.
    Client,
    /// Attaches workers.
    Worker,
    /// Speaks to the admin API.
    Admin,
}

impl KeyClass {
    /// Every class, in the order of the module's docs.
    pub const ALL: [KeyClass; 3] = [KeyClass::Client, KeyClass::Worker, KeyClass::Admin];

    /// How keys of this class begin.
    pub fn prefix(self) -> &'static str {
        match self {
            KeyClass::Client => "pnt_c_",
            KeyClass::Worker => "pnt_w_",
            KeyClass::Admin => "pnt_a_",
        }
    }
}

/// A key in the clear. It exists once, between minting and showing; neither `Debug` nor anything
/// else prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one answer that shows it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a text is not a key of ours. It never repeats the text, which may be a mistyped secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbage {
    /// It begins with none of the prefixes.
    #[error("it does not begin with pnt_c_, pnt_w_ or pnt_a_")]
    Prefix,
    /// A part is missing, or something was pasted behind it.
    #[error("it does not have {LEN} characters")]
    Length,
    /// A character that occurs in no key; a checksum alone would let it pass, for whoever makes one up.
    #[error("it has a character other than A-Z, a-z, 0-9, - and _")]
    Character,
    /// Something was mistyped or cut.
    #[error("its checksum is wrong")]
    Checksum,
}

/// Mints a key of this class from randomness that the caller fetched.
pub fn mint(class: KeyClass, random: [u8; RANDOM_LEN]) -> Secret {
    let mut text = String::with_capacity(LEN);
    text.push_str(class.prefix());
    for three in random.chunks_exact(3) {
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for shift in [18, 12, 6, 0] {
            text.push(char::from(ALPHABET[(bits >> shift) as usize & 63]));
        }
    }
    text.extend(checksum(&text).map(char::from));
    Secret(text)
}

/// Tells a key from garbage by its form alone; that it was ever minted, only the catalog can say.
pub fn check(text: &str) -> Result<KeyClass, Garbage> {
    let class = KeyClass::ALL
        .into_iter()
        .find(|class| text.starts_with(class.prefix()))
        .ok_or(Garbage::Prefix)?;
    if text.len() != LEN {
        return Err(Garbage::Length);
    }
    if !text.bytes().all(|byte| ALPHABET.contains(&byte)) {
        return Err(Garbage::Character);
    }
    match text.split_at_checked(LEN - SUM_LEN) {
        Some((head, sum)) if checksum(head) == sum.as_bytes() => Ok(class),
        _ => Err(Garbage::Checksum),
    }
}

/// How a key is remembered: SHA-256 of the whole text.
pub fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// CRC-32C of the text in base 62, most significant digit first.
fn checksum(head: &str) -> [u8; SUM_LEN] {
    let mut rest = crc32c::crc32c(head.as_bytes()) as usize;
    let mut sum = [0; SUM_LEN];
    for digit in sum.iter_mut().rev() {
        *digit = ALPHABET[rest % 62];
        rest /= 62;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn c_key_2_a_minted_key_is_recognised_and_has_only_harmless_characters(
            random in any::<[u8; RANDOM_LEN]>(),
        ) {
            for class in KeyClass::ALL {
                let secret = mint(class, random);
                let text = secret.expose();
                prop_assert_eq!(check(text), Ok(class));
                prop_assert_eq!(text.len(), LEN);
                prop_assert!(
                    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                );
                prop_assert_eq!(format!("{secret:?}"), "Secret(..)");
            }
        }

        #[test]
        fn c_key_2_one_wrong_character_is_refused_without_asking(
            random in any::<[u8; RANDOM_LEN]>(),
            at in 0..LEN,
            instead in 0..64_usize,
        ) {
            let secret = mint(KeyClass::Client, random);
            let mut bytes = secret.expose().as_bytes().to_vec();
            prop_assume!(bytes[at] != ALPHABET[instead]);
            bytes[at] = ALPHABET[instead];
            let text = String::from_utf8(bytes).unwrap();
            prop_assert!(check(&text).is_err());
        }

        #[test]
        fn c_key_2_arbitrary_text_is_refused_and_never_panics(text in ".{0,64}") {
            prop_assert!(check(&text).is_err());
        }
    }

    #[test]
    fn different_randomness_gives_different_keys_and_hashes() {
        let one = mint(KeyClass::Worker, [0; RANDOM_LEN]);
        let other = mint(KeyClass::Worker, [1; RANDOM_LEN]);
        assert_ne!(one, other);
        assert_ne!(hash(one.expose()), hash(other.expose()));
    }

    #[test]
    fn garbage_says_what_is_wrong_with_it() {
        let good = mint(KeyClass::Admin, [9; RANDOM_LEN]);
        let good = good.expose();
        assert_eq!(check(""), Err(Garbage::Prefix));
        assert_eq!(check("nvapi-123"), Err(Garbage::Prefix));
        assert_eq!(check(&good[..LEN - 1]), Err(Garbage::Length));
        assert_eq!(check(&format!("{good} ")), Err(Garbage::Length));
        assert_eq!(
            check(&format!("pnt_c_{}", &good[6..])),
            Err(Garbage::Checksum)
        );
    }

    #[test]
    fn c_key_2_a_right_checksum_does_not_excuse_a_character_that_no_key_has() {
        for body in ["a b", "a\tb", "a;b", "a.b", "aéb"] {
            let mut text = format!("pnt_c_{body}");
            text.push_str(&"x".repeat(LEN - SUM_LEN - text.len()));
            text.extend(checksum(&text).map(char::from));
            assert_eq!(check(&text), Err(Garbage::Character), "{text:?}");
        }
    }

    #[test]
    fn the_form_of_a_key_never_changes() {
        let secret = mint(KeyClass::Client, *b"twenty-four random bytes");
        assert_eq!(check(secret.expose()), Ok(KeyClass::Client));
        assert_eq!(
            secret.expose(),
            "pnt_c_T7TbRdHvBMPlTN8WSc5kP6zj869vT6Lp2BGPBw"
        );
    }
}
