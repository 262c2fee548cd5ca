# Each node's configuration file, byte for byte what `pontoon node --config` reads.
#
# The result depends on a node's own place and on the first members only: adding, replacing or removing
# other nodes changes no file, and so restarts nobody. docs/configuration.md explains every key.

terraform {
  required_version = ">= 1.9"
}

locals {
  # JSON's strings are TOML's basic strings: the escapes that jsonencode writes (\", \\, \n, \u003c)
  # mean the same in both (TOML 1.0, "String").
  files = {
    for name, node in var.nodes : name => templatefile("${path.module}/node.toml.tftpl", {
      node    = node
      cluster = var.cluster
      members = var.members
      listen = merge(
        {
          client = "${var.client_clear ? node.address : "127.0.0.1"}:${var.ports.client}"
          worker = "${node.address}:${var.ports.worker}"
          peer   = "${node.address}:${var.ports.peer}"
          admin  = "${node.address}:${var.ports.admin}"
          ops    = "${var.ops_on_loopback ? "127.0.0.1" : node.address}:${var.ports.ops}"
        },
        var.paths.client_cert == null ? {} : { client_tls = "${node.address}:${var.ports.client_tls}" },
      )
      proxies = var.client_balancers
      # Others hear where clients reach a node, and answers of DNS name it: never an address of loopback, unless
      # clients are served there.
      advertise = try(var.client_addresses[name], var.client_clear || var.paths.client_cert == null ? null : "${node.address}:${var.ports.client_tls}")
      dns       = var.dns_service == null ? null : merge({ for key, value in var.dns_service : key => value if value != null && key != "prefixes" }, { listen = "${node.address}:${var.ports.dns}" })
      prefixes  = try(var.dns_service.prefixes, {})
      tls       = { for key, path in local.tls[name] : key => path if path != null }
      paths     = { for key, path in var.paths : key => path == null ? null : replace(path, "{node}", name) }
      admin     = var.admin_token_sha256
      limits    = { for key, value in var.limits : key => value if value != null }
      log       = var.log
    })
  }

  tls = {
    for name, _ in var.nodes : name => {
      ca_file          = var.paths.ca
      cert_file        = var.paths.cert == null ? null : replace(var.paths.cert, "{node}", name)
      key_file         = var.paths.key == null ? null : replace(var.paths.key, "{node}", name)
      client_cert_file = var.paths.client_cert == null ? null : replace(var.paths.client_cert, "{node}", name)
      client_key_file  = var.paths.client_key == null ? null : replace(var.paths.client_key, "{node}", name)
    }
  }
}
