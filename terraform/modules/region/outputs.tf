output "vpc_id" {
  description = "The network."
  value       = local.vpc_id
}

output "route_table_ids" {
  description = "The route tables of the nodes' subnets by zone, for modules/peering."
  value       = var.network == null ? { for zone, table in aws_route_table.nodes : zone => table.id } : var.network.route_table_ids
}

output "client_addresses" {
  description = "The addresses of the clients' load balancer."
  value       = var.internet_facing ? [for zone in var.place.zones : aws_eip.balancer["client ${zone}"].public_ip] : values(local.private_addresses["client"])
}

output "worker_addresses" {
  description = "The addresses of the workers' load balancer."
  value       = var.internet_facing ? [for zone in var.place.zones : aws_eip.balancer["worker ${zone}"].public_ip] : values(local.private_addresses["worker"])
}

output "balancers" {
  description = "The load balancers and their target groups as CloudWatch calls them, for modules/observe."
  value       = { for kind, balancer in aws_lb.this : kind => { balancer = balancer.arn_suffix, targets = aws_lb_target_group.this[kind].arn_suffix } }
}

output "instances" {
  description = "The machines' ids by node."
  value       = { for name, instance in aws_instance.node : name => instance.id }
}

output "volumes" {
  description = "The data volumes' ids by node."
  value       = { for name, volume in aws_ebs_volume.node : name => volume.id }
}
