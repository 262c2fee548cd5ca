//! The verbs that say where new sessions go and whose they may be: weights between versions, their
//! regions, and who may call a function.

use super::client;
use super::nouns::{Ask, Share};
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

/// Lets another tenant call a function, or no longer.
pub(super) async fn share(of: Share, shared: bool) -> Answer {
    let request = pb::SetShareRequest {
        function_id: of.id,
        tenant: of.tenant,
        shared,
        dry_run: of.dry_run,
    };
    let mut client = client::connect(&of.ask).await?;
    let function = said(&of.ask, client.set_share(request).await)?;
    let verb = if shared { "share" } else { "unshare" };
    would(of.dry_run, &format!("{verb} this function"));
    Ok(show(of.ask.output, &function, FUNCTION))
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
