# The names that a cluster has in DNS, as a plan that any server can be filled from.
#
#   <service>                        the nearest healthy region; clients call this one
#   <region>.<service>               one region's clients' addresses
#   workers.<service>, workers.<region>.<service>   the same for sidecars
#
# In a private zone of its own, internal.<service>:
#
#   <node>.nodes.internal.<service>                a node, at the address that peers and operators dial
#   _pontoon-peer._tcp.internal.<service>          SRV: where all nodes listen for each other
#   _pontoon-worker._tcp.<region>.internal.<service>, _pontoon-admin._tcp.<region>.internal.<service>
#                                    SRV of one region's nodes
#
# With a delegation, where nodes answer questions of DNS themselves (docs/dns.md):
#
#   <zone>                           NS: the zone's servers
#   <server>                         a server's addresses, all on port 53
#
# Names of nodes have private addresses, so they belong into a private zone: `scope` says which records do. That zone
# has a name which nothing public is below, because a network that knows a private zone asks nobody else for names in it.
# Left out: NS and SOA of the zone that these records go into, which are its server's.

terraform {
  required_version = ">= 1.9"
}

locals {
  private_zone = "internal.${var.service}"

  nearest = flatten([
    for kind, port in { client = var.ports.client, worker = var.ports.worker } : [
      for name, region in var.regions : [
        for type, addresses in { A = region[kind].ipv4, AAAA = region[kind].ipv6 } : {
          key                      = "${kind == "client" ? "" : "workers."}${var.service} ${type} ${name}"
          name                     = "${kind == "client" ? "" : "workers."}${var.service}"
          type                     = type
          ttl                      = var.ttl
          values                   = sort(addresses)
          scope                    = "public"
          location                 = region.location
          set                      = name
          health                   = name
        } if length(addresses) > 0
      ]
    ]
  ])

  regional = flatten([
    for kind in ["client", "worker"] : [
      for name, region in var.regions : [
        for type, addresses in { A = region[kind].ipv4, AAAA = region[kind].ipv6 } : {
          key                      = "${kind == "client" ? "" : "workers."}${name}.${var.service} ${type}"
          name                     = "${kind == "client" ? "" : "workers."}${name}.${var.service}"
          type                     = type
          ttl                      = var.ttl
          values                   = sort(addresses)
          scope                    = "public"
          location                 = null
          set                      = null
          health                   = null
        } if length(addresses) > 0
      ]
    ]
  ])

  nodes = [
    for name, node in var.nodes : {
      key      = "${name}.nodes.${local.private_zone} A"
      name     = "${name}.nodes.${local.private_zone}"
      type     = "A"
      ttl      = var.ttl_nodes
      values   = [node.address]
      scope    = "private"
      location = null
      set      = null
      health   = null
    }
  ]

  # SRV's data is priority, weight, port, target (RFC 2782). All nodes are equal.
  services = flatten([
    for service, plan in {
      peer   = { port = var.ports.peer, regional = false }
      worker = { port = var.ports.worker, regional = true }
      admin  = { port = var.ports.admin, regional = true }
      } : [
      for region in(plan.regional ? keys(var.regions) : [null]) : {
        key      = "_pontoon-${service}._tcp.${region == null ? "" : "${region}."}${local.private_zone} SRV"
        name     = "_pontoon-${service}._tcp.${region == null ? "" : "${region}."}${local.private_zone}"
        type     = "SRV"
        ttl      = var.ttl_nodes
        values   = sort([for name, node in var.nodes : "0 0 ${plan.port} ${name}.nodes.${local.private_zone}." if region == null || node.region == region])
        scope    = "private"
        location = null
        set      = null
        health   = null
      } if length([for node in values(var.nodes) : node if region == null || node.region == region]) > 0
    ]
  ])

  # Servers change once in years, so their names may be kept as long as the nodes themselves say, an hour. Their names
  # are not in the delegated zone, so these are their addresses for everybody and no mere glue.
  delegation = var.delegation == null ? [] : concat(
    [{
      key      = "${var.delegation.zone} NS"
      name     = var.delegation.zone
      type     = "NS"
      ttl      = 3600
      values   = sort([for server in keys(var.delegation.servers) : "${server}."])
      scope    = "public"
      location = null
      set      = null
      health   = null
    }],
    flatten([
      for server, addresses in var.delegation.servers : [
        for type, values in { A = addresses.ipv4, AAAA = addresses.ipv6 } : {
          key                   = "${server} ${type}"
          name                  = server
          type                  = type
          ttl                   = var.ttl_nodes
          values                = sort(values)
          scope                 = "public"
          location              = null
          set                   = null
          health                = null
        } if length(values) > 0
      ]
    ]),
  )

  records = { for record in concat(local.nearest, local.regional, local.nodes, local.services, local.delegation) : record.key => record }
}
