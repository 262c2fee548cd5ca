//! C-HLT: health on the client port.

use crate::caller::{Ask, ask};
use crate::table::{Needs, Row, Wires, prove};
use crate::target::{Checked, Target};
use crate::twin::Twin;
use crate::{check, ensure, same};

pub const ROWS: &[Row] = &[Row {
    id: "C-HLT",
    wires: Wires::Both,
    needs: Needs::Client,
    check: check!(health),
    twin: Twin::Request(|request| {
        // A bug that answers itself whatever was asked.
        if request.uri.path() == "/health" {
            request.headers.remove("function-id");
        }
    }),
}];

async fn health(target: Target) -> Checked {
    let info = ask(&target, &Ask::new("GET", "/info")).await?;
    let parsed: serde_json::Value = serde_json::from_slice(&info.body)
        .map_err(|error| format!("info is JSON ({error}): {info:?}"))?;
    for field in ["service", "version", "commit"] {
        ensure!(parsed[field].is_string(), "info says its {field}: {parsed}");
    }
    let posted = ask(&target, &Ask::new("POST", "/info")).await?;
    same!(posted.status, 405, "info takes GET only");
    ensure!(
        posted.header("allow").contains("GET"),
        "and says so: {posted:?}"
    );
    let well = ask(&target, &Ask::new("GET", "/health")).await?;
    same!(well.status, 200, "health");
    let asked = Ask::new("POST", "/grpc.health.v1.Health/Check").grpc();
    let asked = asked.body(vec![0; 5]);
    if target.wire == crate::target::Wire::H2 {
        let well = ask(&target, &asked).await?;
        same!(well.body, [0, 0, 0, 0, 2, 8, 1], "gRPC health says serving");
        same!(well.meta("grpc-status"), "0", "gRPC health");
    }
    // With a function id, the same paths are the worker's.
    for path in ["/info", "/health"] {
        let reply = ask(&target, &target.ask("GET", path)).await?;
        same!(reply.report()?.text("path"), path, "the worker answers");
    }
    let tagged = target.ask("POST", "/grpc.health.v1.Health/Check").grpc();
    let reply = ask(
        &target,
        &tagged.with("x-echo-tag", "health").body(vec![0; 5]),
    )
    .await?;
    same!(
        reply.report()?.text("path"),
        "/grpc.health.v1.Health/Check",
        "the worker answers"
    );
    Ok(())
}

#[test]
fn c_hlt_info_and_health_are_ours_without_a_function_and_the_workers_with_one() {
    prove("C-HLT");
}
