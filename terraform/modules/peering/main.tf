# Connects the regions' networks, each with each, so that nodes reach each other by private addresses.
#
# n regions make n (n - 1) / 2 connections: 3 for three, 45 for ten. Beyond that a transit gateway in each
# region is less to look after, and is left out.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0, < 7.0"
    }
  }
}

variable "cluster" {
  description = "The cluster's name."
  type        = string
  nullable    = false
}

variable "regions" {
  description = "The regions: location, network, its range, and the route tables of the nodes' subnets by zone."
  type = map(object({
    location        = string
    vpc_id          = string
    cidr            = string
    route_table_ids = map(string)
  }))
  nullable = false
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
  nullable    = false
}

locals {
  names = sort(keys(var.regions))

  pairs = merge(concat([{}], [
    for one, from in local.names : {
      for two, to in local.names : "${from} ${to}" => { from = from, to = to } if one < two
    }
  ])...)

  # Each side's way to the other one.
  routes = merge(concat([{}], flatten([
    for pair, ends in local.pairs : [
      for way in [{ at = ends.from, to = ends.to }, { at = ends.to, to = ends.from }] : {
        for zone, table in var.regions[way.at].route_table_ids : "${way.at} ${zone} to ${way.to}" => { pair = pair, at = way.at, to = way.to, table = table }
      }
    ]
  ]))...)
}

resource "aws_vpc_peering_connection" "this" {
  for_each    = local.pairs
  region      = var.regions[each.value.from].location
  vpc_id      = var.regions[each.value.from].vpc_id
  peer_vpc_id = var.regions[each.value.to].vpc_id
  peer_region = var.regions[each.value.to].location
  auto_accept = false
  tags        = merge(var.tags, { Name = "${var.cluster} ${each.key}" })
}

resource "aws_vpc_peering_connection_accepter" "this" {
  for_each                  = local.pairs
  region                    = var.regions[each.value.to].location
  vpc_peering_connection_id = aws_vpc_peering_connection.this[each.key].id
  auto_accept               = true
  tags                      = merge(var.tags, { Name = "${var.cluster} ${each.key}" })
}

resource "aws_route" "this" {
  for_each                  = local.routes
  region                    = var.regions[each.value.at].location
  route_table_id            = each.value.table
  destination_cidr_block    = var.regions[each.value.to].cidr
  vpc_peering_connection_id = aws_vpc_peering_connection_accepter.this[each.value.pair].vpc_peering_connection_id
}
