//! Randomness, from one place: the operating system's.

/// Fills an array from the operating system's generator.
///
/// # Panics
///
/// When the operating system has no randomness: ids and tickets would be guessable, so nothing may
/// go on.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    getrandom::fill(&mut out).expect("the operating system gives randomness");
    out
}

/// A value in `0.0..1.0`, for jitter.
pub fn fraction() -> f64 {
    f64::from(u32::from_le_bytes(bytes())) / f64::from(u32::MAX)
}
