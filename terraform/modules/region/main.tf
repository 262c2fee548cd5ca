# One region on AWS: a network, or the subnets that are given; load balancers; nodes with a disk each.
#
# A node is four things that live for different times. Its address (a network interface) and its data (a
# volume) live as long as its name; the machine between them is replaced at will, and finds both again; its
# configuration is user data, and so comes with the machine. A changed image, type, release or
# configuration does not touch machines that run: `apply` would replace all at once. terraform/bin/roll replaces them one by
# one, behind the gate. Everything that decides is in modules/topology, render and machine.
#
# Left out: auto scaling, since a node's place is its name and the cluster wants to hear who leaves; and
# snapshots of volumes, since a node that comes back with an old log has forgotten its votes, see
# "Restore" in terraform/README.md.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0, < 7.0"
    }
  }
}

locals {
  prefix = "${var.cluster}-${var.name}"
  tags   = merge(var.tags, { "pontoon:cluster" = var.cluster, "pontoon:region" = var.name })

  vpc_id       = var.network == null ? aws_vpc.this[0].id : var.network.vpc_id
  node_subnets = var.network == null ? { for zone, subnet in aws_subnet.nodes : zone => subnet.id } : var.network.node_subnet_ids
  edge_subnets = var.network == null ? { for zone, subnet in aws_subnet.edge : zone => subnet.id } : var.network.edge_subnet_ids
}
