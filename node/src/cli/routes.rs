//! The verbs that say where new sessions go: weights between versions, and their regions.

use super::client;
use super::nouns::Ask;
use super::table::show;
use super::verbs::{Answer, FUNCTION, VERSION, said, would};
use pontoon_proto::admin as pb;

/// Sets all weights of a function's versions; none lifts them.
pub(super) async fn weigh(
    id: String,
    weights: Vec<(String, u32)>,
    dry_run: bool,
    ask: Ask,
) -> Answer {
    let weights = weights.into_iter();
    let request = pb::SetWeightsRequest {
        function_id: id,
        weights: weights
            .map(|(version_id, weight)| pb::Weight { version_id, weight })
            .collect(),
        dry_run,
    };
    let mut client = client::connect(&ask).await?;
    let function = said(&ask, client.set_weights(request).await)?;
    would(dry_run, "change the weights of this function");
    Ok(show(ask.output, &function, FUNCTION))
}

/// Says where a version's new sessions may live.
pub(super) async fn regions(
    id: String,
    spill: &str,
    regions: Vec<String>,
    dry_run: bool,
    ask: Ask,
) -> Answer {
    let request = pb::SetVersionRegionsRequest {
        id,
        spill: spill.into(),
        regions,
        dry_run,
    };
    let mut client = client::connect(&ask).await?;
    let version = said(&ask, client.set_version_regions(request).await)?;
    would(dry_run, "change the regions of this version");
    Ok(show(ask.output, &version, VERSION))
}
