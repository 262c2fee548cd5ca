# Who is where: names, places and addresses of all nodes, as pure functions of the inputs.
#
# A node's number decides everything else about it. Adding nodes or regions never moves one that is
# there, so an address, a volume and a certificate stay with a name for as long as the name lives.
# Read modules/render next.

terraform {
  required_version = ">= 1.9"
}

locals {
  # Of the sixteen parts of a range the first eight are for nodes, one a zone, and the others for load
  # balancers. The first four addresses of a subnet and its last are the cloud's (VPC guide, "Subnet sizing").
  ranges = {
    for name, region in var.regions : name => {
      for index, zone in region.zones : zone => region.subnets != null ? region.subnets[zone] : {
        nodes = cidrsubnet(region.cidr, 4, index)
        edge  = cidrsubnet(region.cidr, 4, 8 + index)
      }
    }
  }

  regions = {
    for name, region in var.regions : name => {
      location       = coalesce(region.location, name)
      cidr           = region.cidr
      zones          = region.zones
      nodes          = region.nodes
      founding_nodes = region.founding_nodes == null ? region.nodes : region.founding_nodes
      subnets        = local.ranges[name]
    }
  }

  nodes = merge([
    for name, region in local.regions : {
      for number in range(1, region.nodes + 1) : "${name}-${number}" => {
        name     = "${name}-${number}"
        region   = name
        number   = number
        zone     = region.zones[(number - 1) % length(region.zones)]
        address  = cidrhost(local.ranges[name][region.zones[(number - 1) % length(region.zones)]].nodes, 10 + number)
        founding = number <= region.founding_nodes
      }
    }
  ]...)

  # Also those that have left, because the list is a part of the cluster's id. In the order of regions by
  # name and of numbers, which gives the first members their numbers: a map's own order would put node 10
  # before node 2. Counts may be unknown until the first apply, so no key of `nodes` depends on them.
  members = flatten([
    for name, region in local.regions : [
      for number in range(1, region.founding_nodes + 1) : {
        name   = "${name}-${number}"
        region = name
        peer   = "${cidrhost(local.ranges[name][region.zones[(number - 1) % length(region.zones)]].nodes, 10 + number)}:${var.ports.peer}"
      }
    ]
  ])
}
