output "records" {
  description = "The records by key: name, type, ttl, values, scope (public or private), and for the nearest region location, set identifier and the region whose health counts."
  value       = local.records
}

output "private_zone" {
  description = "The name that the zone of the private records has to have, for modules/dns."
  value       = local.private_zone
}

output "client_endpoints" {
  description = "What clients call: the nearest region, and each region by name."
  value = merge(
    { nearest = "${var.service}:${var.ports.client}" },
    { for name, _ in var.regions : name => "${name}.${var.service}:${var.ports.client}" },
  )
}

output "worker_endpoints" {
  description = "What sidecars attach to, by region."
  value       = { for name, _ in var.regions : name => "workers.${name}.${var.service}:${var.ports.worker}" }
}
