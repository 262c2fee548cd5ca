//! The clocks of this package: the only file here that asks what time it is.

pub use pontoon_raft::clock::{Instant, now};

/// Today, UTC, as `2026-11-24`.
pub fn today() -> String {
    let (year, month, day) = date(since_1970().as_secs() / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// How long it is since 1970, UTC.
#[expect(
    clippy::disallowed_methods,
    reason = "this file is the seam; figures need their date, and certificates their begin and end"
)]
pub fn since_1970() -> std::time::Duration {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default()
}

/// The Gregorian date that is so many days after 1970-01-01: whole eras of 400 years, with the year
/// beginning in March, so that the leap day is its last.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + later, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_count_leap_days() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(11_017), (2000, 3, 1));
        assert_eq!(date(20_781), (2026, 11, 24));
    }
}
