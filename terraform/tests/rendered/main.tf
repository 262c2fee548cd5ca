# Everything that the modules render for a cluster of three regions, for tests/check to hand to the programs
# that will read it: pontoon, systemd and cloud-init.

terraform {
  required_version = ">= 1.9"
}

module "topology" {
  source   = "../../modules/topology"
  cluster  = { name = "prod" }
  platform = "aws"
  regions = {
    us-east-1    = { cidr = "10.64.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3 }
    us-west-2    = { cidr = "10.65.0.0/16", zones = ["us-west-2a", "us-west-2b", "us-west-2c"], nodes = 4, founding_nodes = 3 }
    eu-central-1 = { cidr = "10.66.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3 }
  }
}

module "render" {
  source             = "../../modules/render"
  cluster            = module.topology.cluster
  nodes              = module.topology.nodes
  members            = module.topology.members
  ports              = module.topology.ports
  admin_token_sha256 = sha256("an admin token")
  paths = {
    data        = "/var/lib/pontoon/data"
    join_token  = "/run/pontoon/join-token"
    ca          = "/run/pontoon/ca.pem"
    cert        = "/run/pontoon/node.pem"
    key         = "/run/pontoon/node.key"
    client_cert = "/run/pontoon/client.pem"
    client_key  = "/run/pontoon/client.key"
  }
  client_addresses = { for name, node in module.topology.nodes : name => "${node.region}.pontoon.example.com:443" }
  dns_service = {
    zone         = "near.pontoon.example.com"
    name_servers = ["ns1.eu-central-1.pontoon.example.com", "ns1.us-east-1.pontoon.example.com", "ns1.us-west-2.pontoon.example.com"]
    contact      = "dns-admin@example.com"
    ttl_seconds  = 5
    prefixes     = { "192.0.2.0/24" = "us-east-1", "2001:db8::/32" = "eu-central-1" }
  }
  client_balancers = [for subnet in values(module.topology.regions["us-east-1"].subnets) : subnet.edge]
  limits           = { connections_max = 50000, idle_ms = 60000 }
  log              = { format = "json" }
}

locals {
  secret  = "arn:aws:secretsmanager:us-east-1:123456789012:secret:pontoon-AbCdEf"
  release = { url = "https://example.com/pontoon", sha256 = sha256("a release") }
}

module "machine" {
  source  = "../../modules/machine"
  release = local.release
  nodes = {
    for name, node in module.topology.nodes : name => {
      address = node.address
      device  = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"
      config  = module.render.files[name]
      secrets = {
        for file in ["join-token", "ca.pem", "node.pem", "node.key", "client.pem", "client.key"] : "/run/pontoon/${file}" => { arn = local.secret }
      }
    }
  }
}

module "sidecar" {
  source         = "../../modules/sidecar"
  region         = "us-east-1"
  nodes          = ["workers.us-east-1.pontoon.example.com:10086"]
  worker_key_arn = local.secret
  ca_arn         = local.secret
  release        = local.release
}

output "files" {
  description = "Configuration files by node."
  value       = module.render.files
}

output "units" {
  description = "Units by machine and file name."
  value       = merge(module.machine.units, { sidecar = module.sidecar.units })
}

output "user_data" {
  description = "User data by machine."
  value       = merge(module.machine.user_data, { sidecar = module.sidecar.user_data })
}

output "bytes" {
  description = "What EC2 gets of it, in bytes, of 16384."
  value       = max([for text in values(module.machine.user_data_base64) : length(text) * 3 / 4]...)
}
