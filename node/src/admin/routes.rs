//! Weights between a function's versions, the regions in which a version's sessions may live, and who
//! may call a function.

use super::access::Caller;
use super::read::parse;
use super::write::{Written, unknown};
use super::{Context, view};
use pontoon_proto::admin as pb;
use pontoon_proto::id::{FunctionId, VersionId};
use pontoon_raft::catalog::Catalog;
use pontoon_raft::catalog::command::{Command, Spill};
use tonic::{Response, Status};

impl Context {
    pub(super) async fn set_weights(
        &self,
        caller: Caller,
        request: pb::SetWeightsRequest,
    ) -> Result<Response<pb::Function>, Status> {
        let id: FunctionId = parse("function_id", &request.function_id)?;
        let weights = request.weights.iter().map(|one| {
            let version: VersionId = parse("version_id", &one.version_id)?;
            Ok((version, one.weight))
        });
        let command = Command::SetWeights {
            function: id,
            weights: weights.collect::<Result<_, Status>>()?,
            actor: caller.actor,
        };
        let what = format!("the weights of {id}");
        let written = self.set_route(command, &what, request.dry_run).await?;
        self.show_function(written, id)
    }

    pub(super) async fn set_share(
        &self,
        caller: Caller,
        request: pb::SetShareRequest,
    ) -> Result<Response<pb::Function>, Status> {
        let id: FunctionId = parse("function_id", &request.function_id)?;
        let command = Command::SetShare {
            function: id,
            tenant: self.tenant_called(&request.tenant)?,
            shared: request.shared,
            actor: caller.actor,
        };
        let what = format!("the share of {id}");
        let written = self.set_route(command, &what, request.dry_run).await?;
        self.show_function(written, id)
    }

    fn show_function(
        &self,
        written: Written,
        id: FunctionId,
    ) -> Result<Response<pb::Function>, Status> {
        let catalog = self.catalog();
        let function = catalog.function(id);
        let function = function.ok_or_else(|| unknown("function", &id.to_string()))?;
        Ok(written.with(view::function(&catalog, function)))
    }

    pub(super) async fn set_version_regions(
        &self,
        caller: Caller,
        request: pb::SetVersionRegionsRequest,
    ) -> Result<Response<pb::Version>, Status> {
        let id: VersionId = parse("id", &request.id)?;
        let command = Command::SetSpill {
            version: id,
            spill: spill(&self.catalog(), &request.spill, &request.regions)?,
            actor: caller.actor,
        };
        let what = format!("the regions of {id}");
        let written = self.set_route(command, &what, request.dry_run).await?;
        let catalog = self.catalog();
        let version = catalog.version(id);
        let version = version.ok_or_else(|| unknown("version", &request.id))?;
        Ok(written.with(self.show_version(&catalog, version)))
    }

    async fn set_route(
        &self,
        command: Command,
        what: &str,
        dry_run: bool,
    ) -> Result<Written, Status> {
        // A build that knows no such command must not find one in its log, so this is asked beforehand; the
        // format never falls again.
        self.rehearse(command.clone())?;
        if dry_run {
            return Ok(Written::default());
        }
        self.write(command, what).await
    }
}

/// Where sessions may live, as the catalog has it: regions by number.
fn spill(catalog: &Catalog, spill: &str, regions: &[String]) -> Result<Spill, Status> {
    let alone = |spill| match regions {
        [] => Ok(spill),
        _ => Err(Status::invalid_argument(
            "regions go with spill `only`: leave them out, or say `only`",
        )),
    };
    match spill {
        "any" => alone(Spill::Any),
        "home" => alone(Spill::Home),
        "only" => {
            let numbers = regions.iter().map(|name| {
                let region = catalog.region_by_name(name).map(|region| region.number);
                region.ok_or_else(|| {
                    let known: Vec<_> = catalog.regions().map(|one| one.name.as_str()).collect();
                    Status::not_found(format!(
                        "there is no region {name:?}; the regions are {}",
                        known.join(", ")
                    ))
                })
            });
            Ok(Spill::Only(numbers.collect::<Result<_, _>>()?))
        }
        _ => Err(Status::invalid_argument(
            "spill is none of `any`, `home` and `only`",
        )),
    }
}
