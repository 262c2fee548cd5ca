# A whole cluster on this machine, from the inputs that also make one on AWS.
#
# Names, addresses, zones, first members and configuration files come from the same modules. What differs
# is what carries them out: bin/cluster in place of cloud-init, systemd and bin/roll. `apply` starts what
# is missing, and brings nodes whose configuration or binary changed to it one at a time, behind bin/gate;
# nodes that are no longer wanted are removed from the cluster before they end; `destroy` stops everything.
#
# The nodes answer for a zone of their own, so clients need its name and the DNS port of a few nodes. Left out:
# load balancers. Sidecars use the nodes' addresses.

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
  dns_service = var.zone == null ? null : {
    zone         = var.zone
    name_servers = [for region in local.founding_regions : "${region}-1.client.${var.zone}"]
    prefixes     = { for region in local.founding_regions : var.regions[region].cidr => region }
  }
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
  # What all nodes are told must not follow the regions of today, or one more would restart everybody. A client of a
  # later region is sent to the region of the node that it asks.
  founding_regions = distinct(module.topology.members[*].region)

  cluster       = "${abspath(path.module)}/bin/cluster"
  binary        = abspath(var.binary)
  binary_sha256 = filesha256(var.binary)

  nodes = {
    for name, node in module.topology.nodes : name => {
      TLS     = tostring(var.tls)
      CONFIG  = module.render.files[name]
      ADDRESS = node.address
      ADMIN   = "${node.address}:${module.topology.ports.admin}"
      OPS     = "${node.address}:${module.topology.ports.ops}"
    }
  }

  environment = {
    for name, node in local.nodes : name => merge(node, {
      BINARY        = local.binary
      BINARY_SHA256 = local.binary_sha256
      DIGEST        = sha256("${local.binary_sha256} ${node.CONFIG}")
    })
  }

  workers = merge([
    for name, region in module.topology.regions : {
      for number in range(1, var.workers_per_region + 1) : "${name}-worker-${number}" => {
        TLS     = tostring(var.tls)
        REGION  = name
        ADDRESS = "${cidrhost(region.subnets[region.zones[0]].edge, 20 + number)}:8001"
        NODES = join(",", concat(
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
    environment = merge(each.value, { RUN = local.cluster, FOLDER = var.folder, NAME = each.key })
  }

  provisioner "local-exec" {
    when        = destroy
    command     = "exec \"$RUN\" stop \"$FOLDER\" \"$NAME-sidecar\" \"$NAME\""
    interpreter = ["/bin/bash", "-c"]
    environment = { RUN = self.input.cluster, FOLDER = self.input.folder, NAME = self.input.name }
  }
}

# A region that is gone, as if its power had failed: all its nodes are killed. They come back when it is not lost any
# more. Its workers live, as machines in other rooms do.
resource "terraform_data" "loss" {
  for_each = var.lost
  input = {
    cluster = local.cluster
    folder  = var.folder
    nodes   = join(" ", [for name, node in module.topology.nodes : name if node.region == each.key])
  }
  depends_on = [terraform_data.release, terraform_data.worker]

  provisioner "local-exec" {
    command     = "exec \"$RUN\" lose \"$FOLDER\" $NODES"
    interpreter = ["/bin/bash", "-c"]
    environment = { RUN = self.input.cluster, FOLDER = self.input.folder, NODES = self.input.nodes }
  }

  provisioner "local-exec" {
    when        = destroy
    command     = "exec \"$RUN\" return \"$FOLDER\" $NODES"
    interpreter = ["/bin/bash", "-c"]
    environment = { RUN = self.input.cluster, FOLDER = self.input.folder, NODES = self.input.nodes }
  }
}

# Depends on everything, so it is destroyed first: from then on nodes only stop, and nobody waits for a
# quorum that is about to go.
resource "terraform_data" "whole" {
  input      = { cluster = local.cluster, folder = var.folder }
  depends_on = [terraform_data.node, terraform_data.release, terraform_data.worker, terraform_data.loss]

  provisioner "local-exec" {
    when        = destroy
    command     = "exec \"$RUN\" closing \"$FOLDER\""
    interpreter = ["/bin/bash", "-c"]
    environment = { RUN = self.input.cluster, FOLDER = self.input.folder }
  }
}
