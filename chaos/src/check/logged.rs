//! Nodes say in their logs why they refuse, in words that an operator can act on.

use super::{Verdict, refuse};

/// Checks that each text was found.
pub fn logged(found: &[(String, usize)]) -> Verdict {
    let missing = found.iter().filter(|(_, lines)| *lines == 0);
    let missing = missing.map(|(text, _)| format!("no node says `{text}`"));
    refuse(&missing.collect::<Vec<_>>())?;
    let lines = found
        .iter()
        .map(|(text, lines)| format!("{lines} x `{text}`"));
    Ok(lines.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_nobody_gives_is_missed() {
        let found = |lines| [("expired".to_owned(), lines)];
        assert!(logged(&found(2)).is_ok());
        assert!(logged(&found(0)).unwrap_err().contains("expired"));
    }
}
