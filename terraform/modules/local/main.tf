# A whole cluster on this machine, from the inputs that also make one on AWS.
#
# Names, addresses, zones, first members and configuration files come from the same modules. What differs
# is what carries them out: bin/cluster in place of cloud-init, systemd and bin/roll. `apply` starts what
# is missing, and brings nodes whose configuration or binary changed to it one at a time, behind bin/gate;
# nodes that are no longer wanted are removed from the cluster before they end; `destroy` stops everything.
#
# Left out: load balancers and DNS. Clients and sidecars use the nodes' addresses, see the outputs.

terraform {
  required_version = ">= 1.9"
}

module "founding" {
  source  = "../founding"
  regions = var.regions
}

module "topology" {
  source  = "../topology"
  cluster = var.cluster
  regions = { for name, region in var.regions : name => merge(region, { founding_nodes = module.founding.nodes[name] }) }
  ports   = var.ports
  running = var.running
}

module "render" {
  source          = "../render"
  cluster         = module.topology.cluster
  nodes           = module.topology.nodes
  members         = module.topology.members
  ports           = module.topology.ports
  limits          = var.limits
  client_clear    = true
  ops_on_loopback = false
  paths = {
    data        = "${var.folder}/run/{node}/data"
    join_token  = "${var.folder}/secrets/join-token"
    ca          = var.tls ? "${var.folder}/tls/ca.pem" : null
    cert        = var.tls ? "${var.folder}/run/{node}/node.pem" : null
    key         = var.tls ? "${var.folder}/run/{node}/node.key" : null
    client_cert = var.tls ? "${var.folder}/run/{node}/node.pem" : null
    client_key  = var.tls ? "${var.folder}/run/{node}/node.key" : null
  }
}

locals {
  cluster       = "${abspath(path.module)}/bin/cluster"
  binary        = abspath(var.binary)
  binary_sha256 = filesha256(var.binary)

  environment = {
    for name, node in module.topology.nodes : name => {
      BINARY        = local.binary
      BINARY_SHA256 = local.binary_sha256
      TLS           = tostring(var.tls)
      CONFIG        = module.render.files[name]
      DIGEST        = sha256("${local.binary_sha256} ${module.render.files[name]}")
      ADDRESS       = node.address
      ADMIN         = "${node.address}:${module.topology.ports.admin}"
      OPS           = "${node.address}:${module.topology.ports.ops}"
    }
  }

  workers = merge([
    for name, region in module.topology.regions : {
      for number in range(1, var.workers_per_region + 1) : "${name}-worker-${number}" => {
        region  = name
        address = "${cidrhost(region.subnets[region.zones[0]].edge, 20 + number)}:8001"
        nodes = join(",", concat(
          [for node in values(module.topology.nodes) : "${node.address}:${module.topology.ports.worker}" if node.region == name],
          [for node in values(module.topology.nodes) : "${node.address}:${module.topology.ports.worker}" if node.region != name],
        ))
      }
    }
  ]...)
}

resource "terraform_data" "folder" {
  input = { cluster = local.cluster, folder = var.folder }

  provisioner "local-exec" {
    command     = "exec \"$RUN\" prepare \"$FOLDER\""
    interpreter = ["/bin/bash", "-c"]
    environment = {
      RUN           = local.cluster
      FOLDER        = var.folder
      BINARY        = local.binary
      BINARY_SHA256 = local.binary_sha256
      CLUSTER       = var.cluster.name
      TLS           = tostring(var.tls)
    }
  }

  provisioner "local-exec" {
    when        = destroy
    command     = "exec \"$RUN\" end \"$FOLDER\""
    interpreter = ["/bin/bash", "-c"]
    environment = { RUN = self.input.cluster, FOLDER = self.input.folder }
  }
}

# A node's life: it begins with its first start, and ends when it is removed from the cluster.
resource "terraform_data" "node" {
  for_each = local.environment
  input    = { cluster = local.cluster, folder = terraform_data.folder.output.folder, name = each.key }

  provisioner "local-exec" {
    command     = "exec \"$RUN\" node \"$FOLDER\" \"$NAME\""
    interpreter = ["/bin/bash", "-c"]
    environment = merge(each.value, { RUN = local.cluster, FOLDER = var.folder, NAME = each.key })
  }

  provisioner "local-exec" {
    when        = destroy
    command     = "exec \"$RUN\" leave \"$FOLDER\" \"$NAME\""
    interpreter = ["/bin/bash", "-c"]
    environment = { RUN = self.input.cluster, FOLDER = self.input.folder, NAME = self.input.name }
  }
}

# What a node runs: another configuration or binary is another release. Its provisioner takes a lock, so
# that at most one node is away at any time whatever terraform's parallelism is.
resource "terraform_data" "release" {
  for_each         = local.environment
  triggers_replace = [each.value.DIGEST]
  depends_on       = [terraform_data.node]

  provisioner "local-exec" {
    command     = "exec \"$RUN\" roll \"$FOLDER\" \"$NAME\""
    interpreter = ["/bin/bash", "-c"]
    environment = merge(each.value, { RUN = local.cluster, FOLDER = var.folder, NAME = each.key })
  }
}

resource "terraform_data" "demo" {
  count      = var.workers_per_region > 0 ? 1 : 0
  depends_on = [terraform_data.release]

  provisioner "local-exec" {
    command     = "exec \"$RUN\" demo \"$FOLDER\""
    interpreter = ["/bin/bash", "-c"]
    environment = { RUN = local.cluster, FOLDER = var.folder, SLOTS = tostring(var.slots) }
  }
}

resource "terraform_data" "worker" {
  for_each   = local.workers
  input      = { cluster = local.cluster, folder = var.folder, name = each.key }
  depends_on = [terraform_data.demo]

  provisioner "local-exec" {
    command     = "exec \"$RUN\" worker \"$FOLDER\" \"$NAME\""
    interpreter = ["/bin/bash", "-c"]
    environment = {
      RUN     = local.cluster
      FOLDER  = var.folder
      NAME    = each.key
      ADDRESS = each.value.address
      REGION  = each.value.region
      NODES   = each.value.nodes
      TLS     = tostring(var.tls)
    }
  }

  provisioner "local-exec" {
    when        = destroy
    command     = "exec \"$RUN\" stop \"$FOLDER\" \"$NAME-sidecar\" \"$NAME\""
    interpreter = ["/bin/bash", "-c"]
    environment = { RUN = self.input.cluster, FOLDER = self.input.folder, NAME = self.input.name }
  }
}

# Depends on everything, so it is destroyed first: from then on nodes only stop, and nobody waits for a
# quorum that is about to go.
resource "terraform_data" "whole" {
  input      = { cluster = local.cluster, folder = var.folder }
  depends_on = [terraform_data.node, terraform_data.release, terraform_data.worker]

  provisioner "local-exec" {
    when        = destroy
    command     = "exec \"$RUN\" closing \"$FOLDER\""
    interpreter = ["/bin/bash", "-c"]
    environment = { RUN = self.input.cluster, FOLDER = self.input.folder }
  }
}
