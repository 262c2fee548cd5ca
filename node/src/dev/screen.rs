//! What `pontoon dev` prints once everything answers: where things are, and lines to paste.
//!
//! Every line works as it stands in a fresh shell, in this order.

use super::plan::{DEFAULT_PORTS, Layout, ZONE, quoted};
use super::ready::{Ready, ReadyNode, ReadySidecar};
use std::fmt::Write as _;
use std::path::Path;

/// The gateway's address as clients read it: the host alone where they put the well-known port
/// behind it themselves.
fn gateway(node: &ReadyNode) -> String {
    match node.client.rsplit_once(':') {
        Some((host, port)) if port == DEFAULT_PORTS.client.to_string() => host.to_owned(),
        _ => node.client.clone(),
    }
}

/// The whole screen.
pub(super) fn screen(ready: &Ready, layout: &Layout, program: &Path) -> String {
    let mut out = String::new();
    // Writing to a string can't fail.
    let _ = write(&mut out, ready, layout, program);
    out
}

fn write(out: &mut String, ready: &Ready, layout: &Layout, program: &Path) -> std::fmt::Result {
    let pontoon = quoted(&program.to_string_lossy());
    let nodes: Vec<&ReadyNode> = ready
        .regions
        .iter()
        .flat_map(|region| &region.nodes)
        .collect();
    let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else {
        return Ok(());
    };
    writeln!(out, "Pontoon is up. Ctrl-C ends all of it.\n")?;
    writeln!(out, "  {:<22} {:>7}  addresses", "process", "pid")?;
    for node in &nodes {
        let ReadyNode {
            name,
            pid,
            client,
            client_tls,
            admin,
            ops,
            ..
        } = node;
        let tls = match client_tls {
            Some(address) => format!(" and with TLS {address}"),
            None => String::new(),
        };
        writeln!(
            out,
            "  {name:<22} {pid:>7}  clients {client}{tls}, admin {admin}, metrics http://{ops}/metrics"
        )?;
    }
    for region in &ready.regions {
        for (sidecar, number) in region.sidecars.iter().zip(1..) {
            let ReadySidecar {
                pid,
                worker_pid,
                worker,
            } = sidecar;
            let name = &region.name;
            let row = format!("{name}-worker-{number}");
            writeln!(out, "  {row:<22} {worker_pid:>7}  {worker}")?;
            let row = format!("{name}-sidecar-{number}");
            writeln!(out, "  {row:<22} {pid:>7}")?;
        }
    }
    writeln!(
        out,
        "  logs, configuration and one script per process: {}\n",
        layout.root.display()
    )?;
    writeln!(out, "Paste into another shell:\n")?;
    writeln!(out, "export GRPC_GATEWAY_ADDR={}", gateway(first))?;
    writeln!(out, "export FUNCTION_ID={}", ready.function_id)?;
    writeln!(
        out,
        "export FUNCTION_VERSION_ID={}",
        ready.function_version_id
    )?;
    writeln!(out, "export API_KEY={}\n", ready.api_key)?;
    writeln!(
        out,
        "Call with the built-in client; keep the session's id:\n"
    )?;
    writeln!(out, "{pontoon} call --x 40")?;
    writeln!(
        out,
        "ID=$({pontoon} call --x 40 -o json | sed 's/.*\"request_id\":\"\\([^\"]*\\)\".*/\\1/'); echo $ID\n"
    )?;
    writeln!(
        out,
        "Kill the node that took the call; resume through another region, the sum goes on:\n"
    )?;
    writeln!(out, "kill -9 {}", first.pid)?;
    writeln!(
        out,
        "{pontoon} call --endpoint {} --request-id $ID --x 2",
        last.client
    )?;
    writeln!(out, "{pontoon} dev start {}\n", first.name)?;
    let (host, port) = first.dns.rsplit_once(':').unwrap_or_default();
    writeln!(
        out,
        "Ask a node by DNS for the nearest ones that are ready; all are on this machine, so that only SRV\n\
         records, which have ports, tell them apart (docs/dns.md):\n"
    )?;
    writeln!(
        out,
        "dig @{host} -p {port} +short SRV _pontoon-client._tcp.{ZONE}\n"
    )?;
    writeln!(
        out,
        "Call with Python, as plain gRPC and with tritonclient:\n"
    )?;
    writeln!(out, "{}", PYTHON.trim_start())?;
    writeln!(out, "Look inside:\n")?;
    let (scheme, ca) = match &ready.ca_file {
        None => ("http", String::new()),
        Some(path) => ("https", format!(" PONTOON_CA_FILE={}", quoted(path))),
    };
    writeln!(
        out,
        "export PONTOON_ENDPOINT={scheme}://{} PONTOON_TOKEN={}{ca}",
        last.admin, ready.admin_token
    )?;
    writeln!(out, "{pontoon} session list")?;
    writeln!(out, "{pontoon} worker list")?;
    writeln!(
        out,
        "{pontoon} dev stop|start|kill {}   # or a worker or sidecar, us-east-sidecar-1",
        last.name
    )
}

/// No Pontoon code in it: the protocol's generated stubs, and its own client library.
const PYTHON: &str = r#"
python3 -m venv /tmp/pontoon-python
/tmp/pontoon-python/bin/pip install -q 'tritonclient[grpc]'
/tmp/pontoon-python/bin/python - <<'END'
import os, grpc, numpy, tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

gateway = os.environ["GRPC_GATEWAY_ADDR"]
gateway = gateway if ":" in gateway else gateway + ":10081"
metadata = {
    "function-id": os.environ["FUNCTION_ID"],
    "function-version-id": os.environ["FUNCTION_VERSION_ID"],
    "authorization": "Bearer " + os.environ["API_KEY"],
}

channel = grpc.insecure_channel(gateway)
stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
request = service_pb2.ModelInferRequest(model_name="sum")
x = request.inputs.add(name="x", datatype="INT64", shape=[1])
x.contents.int64_contents.append(40)
response, call = stub.ModelInfer.with_call(request, metadata=list(metadata.items()))
session = dict(call.initial_metadata())["nvcf-reqid"]
print(response.outputs[0].contents.int64_contents[0], "in session", session)
channel.close()

client = triton.InferenceServerClient(gateway)
x = triton.InferInput("x", [1], "INT64")
x.set_data_from_numpy(numpy.array([2]))
result = client.infer("sum", [x], headers={**metadata, "nvcf-reqid": session})
print(result.as_numpy("sum")[0], "in session", result.as_numpy("session")[0].decode())
client.close()
END
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::ready::Region;

    fn node(name: &str, client: &str) -> ReadyNode {
        ReadyNode {
            name: name.to_owned(),
            id: 1,
            pid: 4711,
            client: client.to_owned(),
            client_tls: Some("127.0.0.1:8".to_owned()),
            worker: "127.0.0.1:2".to_owned(),
            peer: "127.0.0.1:3".to_owned(),
            admin: "127.0.0.1:4".to_owned(),
            ops: "127.0.0.1:5".to_owned(),
            dns: "127.0.0.1:10053".to_owned(),
        }
    }

    #[test]
    fn the_screen_has_the_four_exports_and_lines_to_call_kill_and_resume() {
        let region = |name: &str, client: &str| Region {
            name: name.to_owned(),
            nodes: vec![node(&format!("{name}-1"), client)],
            sidecars: vec![ReadySidecar {
                pid: 1,
                worker_pid: 2,
                worker: "127.0.0.1:6".to_owned(),
            }],
        };
        let ready = Ready {
            cluster: "dev".to_owned(),
            regions: vec![
                region("us-east", "127.0.0.1:10081"),
                region("eu-central", "127.0.0.1:7"),
            ],
            tenant: "t".to_owned(),
            function_id: "f".to_owned(),
            function_version_id: "v".to_owned(),
            api_key: "k".to_owned(),
            admin_token: "a".to_owned(),
            ca_file: Some("/d/tls/ca.pem".to_owned()),
        };
        let screen = screen(
            &ready,
            &Layout {
                root: "/d".into(),
                tls: false,
            },
            Path::new("/bin/pontoon"),
        );
        assert!(screen.contains("and with TLS 127.0.0.1:8, admin"));
        for line in [
            "export GRPC_GATEWAY_ADDR=127.0.0.1",
            "export FUNCTION_ID=f",
            "export FUNCTION_VERSION_ID=v",
            "export API_KEY=k",
            "kill -9 4711",
            "dig @127.0.0.1 -p 10053 +short SRV _pontoon-client._tcp.dev.pontoon.test",
            "export PONTOON_ENDPOINT=https://127.0.0.1:4 PONTOON_TOKEN=a PONTOON_CA_FILE=/d/tls/ca.pem",
            "/bin/pontoon call --endpoint 127.0.0.1:7 --request-id $ID --x 2",
        ] {
            assert!(
                screen.lines().any(|found| found == line),
                "{line}\n{screen}"
            );
        }
        assert_eq!(gateway(&node("n", "127.0.0.1:7")), "127.0.0.1:7");
    }
}
