output "nodes" {
  description = "The nodes with their addresses: host:port of each listener."
  value = {
    for name, node in module.topology.nodes : name => {
      region = node.region
      zone   = node.zone
      client = "${node.address}:${module.topology.ports.client}"
      worker = "${node.address}:${module.topology.ports.worker}"
      peer   = "${node.address}:${module.topology.ports.peer}"
      admin  = "${node.address}:${module.topology.ports.admin}"
      ops    = "${node.address}:${module.topology.ports.ops}"
      dns    = var.zone == null ? null : "${node.address}:${module.topology.ports.dns}"
    }
  }
}

output "folder" {
  description = "Where everything lies: secrets/admin-token, tls/ca.pem, demo.json, run/NAME/log."
  value       = var.folder
  depends_on  = [terraform_data.whole]
}

output "files" {
  description = "Each node's configuration file."
  value       = module.render.files
}

output "members" {
  description = "The first members."
  value       = module.topology.members
}

output "processes" {
  description = "What bin/cluster is told of each node and worker by its environment, all but the binary: it starts the same cluster without terraform, see tests/local.py."
  value       = { nodes = local.nodes, workers = local.workers }
}
