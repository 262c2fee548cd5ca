output "vpc_id" {
  description = "The network."
  value       = local.vpc_id
}

output "route_table_ids" {
  description = "The route tables of the nodes' subnets by zone, for modules/peering."
  value       = var.network == null ? { for zone, table in aws_route_table.nodes : zone => table.id } : var.network.route_table_ids
}

output "addresses" {
  description = "The addresses of the load balancers (client, worker, and dns where there is one) by zone."
  value = {
    for kind, _ in local.balancers : kind => {
      for zone in var.place.zones : zone => var.internet_facing ? aws_eip.balancer["${kind} ${zone}"].public_ip : local.private_addresses[kind][zone]
    }
  }
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
