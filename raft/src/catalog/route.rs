//! Where new sessions go: weights between a function's versions, and the regions that a version may
//! use.
//!
//! Only what operators want is here; the node that a call comes to chooses by it.

use super::command::{ROUTES_FORMAT, Reply, Spill, VersionState};
use super::valid::ensure;
use super::{Catalog, Outcome};
use pontoon_proto::id::{FunctionId, RegionId, VersionId};
use std::collections::BTreeSet;

/// The largest weight: a share of one in ten thousand can be said.
pub const WEIGHT_MAX: u32 = 10_000;

/// How many versions of a function may have weights: two for a change, some more for experiments.
pub const WEIGHTED_MAX: usize = 100;

/// How many regions a version may list.
pub const SPILL_MAX: usize = 64;

impl Catalog {
    pub(super) fn set_weights(
        &mut self,
        index: u64,
        function: FunctionId,
        weights: Vec<(VersionId, u32)>,
        actor: &str,
    ) -> Outcome {
        self.knows_routes()?;
        if self.function(function).is_none() {
            return Err(Reply::NotFound(format!("there is no function {function}")));
        }
        self.weights_fit(function, &weights)?;
        if self.weights(function) == weights {
            return Ok(());
        }
        let what = if weights.is_empty() {
            format!("lift the weights of function {function}")
        } else {
            let said = weights.iter().map(|(id, weight)| format!("{id}={weight}"));
            let said = said.collect::<Vec<_>>().join(", ");
            format!("weigh the versions of function {function}: {said}")
        };
        self.log(index, actor, what);
        if weights.is_empty() {
            self.records.weights.remove(&function);
        } else {
            self.records.weights.insert(function, weights);
        }
        Ok(())
    }

    fn weights_fit(&self, function: FunctionId, weights: &[(VersionId, u32)]) -> Outcome {
        ensure(weights.len() <= WEIGHTED_MAX, || {
            let given = weights.len();
            format!("at most {WEIGHTED_MAX} versions of a function may have weights, not {given}")
        })?;
        let mut seen = BTreeSet::new();
        let mut serves = weights.is_empty();
        for &(id, weight) in weights {
            ensure(weight <= WEIGHT_MAX, || {
                format!("the weight of version {id} must be 0 to {WEIGHT_MAX}, not {weight}")
            })?;
            ensure(seen.insert(id), || {
                format!("version {id} has two weights: give one")
            })?;
            let version = self.version(id).filter(|one| one.function == function);
            let Some(version) = version else {
                return Err(Reply::NotFound(format!(
                    "function {function} has no version {id}"
                )));
            };
            serves |= weight > 0 && version.state == VersionState::Active;
        }
        ensure(serves, || {
            "no active version has a weight above 0: calls that name no version would find none; \
             give one a weight, or lift all weights"
                .to_owned()
        })
    }

    pub(super) fn set_spill(
        &mut self,
        index: u64,
        version: VersionId,
        spill: Spill,
        actor: &str,
    ) -> Outcome {
        self.knows_routes()?;
        if self.version(version).is_none() {
            return Err(Reply::NotFound(format!("there is no version {version}")));
        }
        if let Spill::Only(regions) = &spill {
            self.regions_fit(regions)?;
        }
        if *self.spill(version) == spill {
            return Ok(());
        }
        let said = self.spill_said(&spill);
        let what = format!("open sessions of version {version} in {said}");
        self.log(index, actor, what);
        if spill == Spill::Any {
            self.records.spills.remove(&version);
        } else {
            self.records.spills.insert(version, spill);
        }
        Ok(())
    }

    fn regions_fit(&self, regions: &[RegionId]) -> Outcome {
        ensure((1..=SPILL_MAX).contains(&regions.len()), || {
            format!("give 1 to {SPILL_MAX} regions, not {}", regions.len())
        })?;
        let mut seen = BTreeSet::new();
        for &number in regions {
            let known = self.region(number).filter(|region| !region.gone);
            let Some(region) = known else {
                return Err(Reply::NotFound(format!("there is no region {number}")));
            };
            ensure(seen.insert(number), || {
                format!("region {} is listed twice", region.name)
            })?;
        }
        Ok(())
    }

    fn spill_said(&self, spill: &Spill) -> String {
        let Spill::Only(regions) = spill else {
            let any = *spill == Spill::Any;
            let said = if any {
                "any region"
            } else {
                "the caller's region"
            };
            return said.to_owned();
        };
        let name = |number: &RegionId| match self.region(*number) {
            Some(region) => region.name.clone(),
            None => number.to_string(),
        };
        let names: Vec<_> = regions.iter().map(name).collect();
        format!("{} only", names.join(", "))
    }

    fn knows_routes(&self) -> Outcome {
        self.in_format(ROUTES_FORMAT, "weights and regions of versions need")
    }

    /// The weights of a function's versions; empty: it has none.
    pub fn weights(&self, function: FunctionId) -> &[(VersionId, u32)] {
        self.records
            .weights
            .get(&function)
            .map_or(&[], Vec::as_slice)
    }

    /// What share of the calls that name no version a version takes; none where its function has no
    /// weights. A version that the weights don't name has none of them.
    pub fn weight(&self, function: FunctionId, version: VersionId) -> Option<u32> {
        let weights = self.weights(function);
        let own = weights.iter().find(|(id, _)| *id == version);
        let named = !weights.is_empty();
        named.then(|| own.map_or(0, |(_, weight)| *weight))
    }

    /// Where sessions of a version may live.
    pub fn spill(&self, version: VersionId) -> &Spill {
        self.records.spills.get(&version).unwrap_or(&Spill::Any)
    }
}
