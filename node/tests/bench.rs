//! A small measurement, by hand: what a session adds to a call. `just bench-call` runs it; it asserts
//! nothing, for a timed test fails on whoever's machine is busy.

mod support;

use pontoon::clock;
use pontoon::demo::inference::ModelInferRequest;
use pontoon::demo::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use pontoon::demo::inference::model_infer_request::InferInputTensor;
use std::time::Duration;
use support::cluster::Cluster;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// Calls per round: about a second each, so that a pause of the machine falls into few rounds.
const CALLS: usize = 2_000;

/// Rounds, direct and through a session in turn.
const ROUNDS: usize = 5;

#[test]
#[ignore = "a measurement, not a test"]
fn what_a_warm_session_adds_to_a_call() {
    let cluster = Cluster::shared();
    let ready = cluster.ready();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let worker = ready.sidecars[0].worker.clone();
        let mut direct = connect(&worker).await;
        let mut through = connect(cluster.client_address("us-east")).await;
        let keys = [
            ("authorization", ready.bearer.clone()),
            ("function-id", ready.function_id.clone()),
            ("function-version-id", ready.function_version_id.clone()),
        ];
        round(&mut direct, &[]).await;
        round(&mut through, &keys).await;
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            near.push(round(&mut direct, &[]).await);
            far.push(round(&mut through, &keys).await);
        }
        for (name, rounds) in [("direct", &mut near), ("session", &mut far)] {
            rounds.sort_unstable();
            let (p50, p99) = rounds[ROUNDS / 2];
            println!("{name:<8} p50 {p50:>10.1?}  p99 {p99:>10.1?}");
        }
        println!(
            "added    p50 {:>10.1?}",
            far[ROUNDS / 2].0.saturating_sub(near[ROUNDS / 2].0)
        );
    });
}

async fn connect(address: &str) -> GrpcInferenceServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel = endpoint.connect().await.expect("a connection");
    GrpcInferenceServiceClient::new(channel)
}

/// Calls `identity` with 16 bytes, one at a time; the 50th and 99th percentile.
async fn round(
    client: &mut GrpcInferenceServiceClient<Channel>,
    keys: &[(&'static str, String)],
) -> (Duration, Duration) {
    let mut took = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let mut request = Request::new(ModelInferRequest {
            model_name: "identity".to_owned(),
            inputs: vec![InferInputTensor {
                name: "x".to_owned(),
                datatype: "UINT8".to_owned(),
                shape: vec![16],
                ..Default::default()
            }],
            raw_input_contents: vec![vec![7; 16].into()],
            ..Default::default()
        });
        for (key, value) in keys {
            let value = value.parse().expect("printable");
            request.metadata_mut().insert(*key, value);
        }
        let began = clock::now();
        client.model_infer(request).await.expect("an answer");
        took.push(began.elapsed());
    }
    took.sort_unstable();
    (took[CALLS / 2], took[CALLS * 99 / 100])
}
