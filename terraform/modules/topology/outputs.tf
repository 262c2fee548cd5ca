output "cluster" {
  description = "As given."
  value       = var.cluster
}

output "ports" {
  description = "The port of each listener."
  value       = var.ports
}

output "regions" {
  description = "The regions with their subnets by zone: nodes for nodes, edge for load balancers."
  value       = local.regions
}

output "nodes" {
  description = "The nodes that are wanted now: name, region, number, zone, address, and whether it is a first member."
  value       = local.nodes
}

output "members" {
  description = "The first members in the order of their numbers, those that have left included."
  value       = local.members
}
