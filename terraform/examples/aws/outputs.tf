output "nodes" {
  description = "The nodes: address, and the resource that terraform/bin/roll replaces."
  value = {
    for name, node in module.topology.nodes : name => {
      region   = node.region
      zone     = node.zone
      address  = node.address
      admin    = "https://${node.address}:${module.topology.ports.admin}"
      resource = "module.region[\"${node.region}\"].aws_instance.node[\"${name}\"]"
    }
  }
}

output "client_endpoints" {
  description = "What clients call."
  value       = module.records.client_endpoints
}

output "worker_endpoints" {
  description = "What sidecars attach to."
  value       = module.records.worker_endpoints
}

output "sidecar_user_data" {
  description = "User data for machines with workers, by region."
  value       = { for name, sidecar in module.sidecar : name => sidecar.user_data_base64 }
}
