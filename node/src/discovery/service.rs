//! The order in which the targets of an SRV name are tried (RFC 2782).
//!
//! Pure: randomness comes in.

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Lower ones first.
    pub(super) priority: u16,
    /// Among those of one priority, its part of the whole.
    pub(super) weight: u16,
    pub(super) port: u16,
    /// A host's name, without the last dot.
    pub(super) host: String,
}

/// By priority; within one, at random by weight. `draw` gives values in 0..1.
pub(super) fn order(mut targets: Vec<Target>, mut draw: impl FnMut() -> f64) -> Vec<Target> {
    let mut ordered = Vec::with_capacity(targets.len());
    while let Some(lowest) = targets.iter().map(|target| target.priority).min() {
        let here = |target: &&Target| target.priority == lowest;
        // A weight of 0 has a small chance, too.
        let part = |target: &Target| f64::from(target.weight) + 0.01;
        let whole: f64 = targets.iter().filter(here).map(part).sum();
        let mut left = draw() * whole;
        let mut chosen = None;
        for (at, target) in targets.iter().enumerate().filter(|(_, one)| here(one)) {
            chosen = Some(at);
            left -= part(target);
            if left < 0.0 {
                break;
            }
        }
        match chosen {
            Some(at) => ordered.push(targets.remove(at)),
            None => break,
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(priority: u16, weight: u16, host: &str) -> Target {
        Target {
            priority,
            weight,
            port: 1,
            host: host.to_owned(),
        }
    }

    fn hosts(draw: f64) -> Vec<String> {
        let targets = vec![
            target(20, 0, "last"),
            target(10, 1, "rare"),
            target(10, 9, "often"),
        ];
        let ordered = order(targets, || draw);
        ordered.into_iter().map(|target| target.host).collect()
    }

    #[test]
    fn lower_priorities_come_first_and_weights_decide_among_equals() {
        assert_eq!(hosts(0.05), ["rare", "often", "last"]);
        assert_eq!(hosts(0.5), ["often", "rare", "last"]);
        assert_eq!(hosts(0.999), ["often", "rare", "last"]);
    }
}
