//! No acknowledged session is lost: whoever was told of one reaches it again, until it is released.

use super::{Verdict, refuse};
use crate::history::{History, Kind};

/// Checks it.
pub fn not_lost(history: &History) -> Verdict {
    let (mut wrong, mut kept, mut excused) = (Vec::new(), 0, 0);
    for (session, ops) in history.sessions() {
        let acknowledged = ops.iter().any(|op| op.kind == Kind::Open && op.ok());
        let Some(last) = ops.iter().rfind(|op| op.kind != Kind::Release) else {
            continue;
        };
        if !acknowledged {
            continue;
        }
        if last.ok() {
            kept += 1;
        } else if history.excused(&ops, last.end) {
            excused += 1;
        } else {
            wrong.push(format!(
                "{session}: the last that its client heard is {:?} at {} us",
                last.outcome, last.end
            ));
        }
    }
    refuse(&wrong)?;
    Ok(format!(
        "{kept} acknowledged sessions answered to the last, {excused} went with their workers"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::example::{failed, history, ok, op};
    use super::*;

    #[test]
    fn a_session_that_never_answers_again_is_refused() {
        let open = op("s", Kind::Open, 0, ok("w/1", 1));
        let lost = op("s", Kind::Resume, 20, failed(14));
        assert!(not_lost(&history(vec![open.clone(), lost.clone()])).is_err());
        let back = op("s", Kind::Resume, 40, ok("w/1", 2));
        assert!(not_lost(&history(vec![open, lost, back])).is_ok());
    }
}
