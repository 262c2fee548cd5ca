# One region on AWS, whose voters are in three zones: it outlives the loss of any zone, not that of the region.
#
# The same as examples/aws-three-regions with one line in `regions`, so that a second and a third region are lines
# more: a cluster that begins here ends there without a new beginning.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0, < 7.0"
    }
  }
}

provider "aws" {
  region = "us-east-1"
}

locals {
  cluster = "prod"
}

module "topology" {
  source       = "../../modules/topology"
  cluster      = { name = local.cluster, survive = "zone" }
  regions      = var.regions
  running      = var.running
  platform     = "aws"
  certificates = keys(var.secrets.nodes)
}

module "render" {
  source             = "../../modules/render"
  cluster            = module.topology.cluster
  nodes              = module.topology.nodes
  members            = module.topology.members
  ports              = module.topology.ports
  admin_token_sha256 = var.admin_token_sha256
  # Where modules/region puts what it fetches.
  paths = {
    data        = "/var/lib/pontoon/data"
    join_token  = "/run/pontoon/join-token"
    ca          = "/run/pontoon/ca.pem"
    cert        = "/run/pontoon/node.pem"
    key         = "/run/pontoon/node.key"
    client_cert = "/run/pontoon/client.pem"
    client_key  = "/run/pontoon/client.key"
  }
  client_balancers = flatten([for region in values(module.topology.regions) : [for subnet in values(region.subnets) : subnet.edge]])
  log              = { format = "json" }
}

module "region" {
  source         = "../../modules/region"
  for_each       = module.topology.regions
  cluster        = local.cluster
  name           = each.key
  place          = each.value
  nodes          = { for name, node in module.topology.nodes : name => node if node.region == each.key }
  files          = module.render.files
  ports          = module.topology.ports
  peer_cidrs     = { for name, region in module.topology.regions : name => region.cidr }
  client_cidrs   = ["0.0.0.0/0"]
  worker_cidrs   = ["0.0.0.0/0"]
  operator_cidrs = var.operator_cidrs
  image          = var.images[each.key]
  kms_key_arn    = lookup(var.kms_key_arns, each.key, null)
  release        = var.release
  secrets        = var.secrets
}

module "peering" {
  source  = "../../modules/peering"
  cluster = local.cluster
  regions = {
    for name, region in module.topology.regions : name => {
      location        = region.location
      vpc_id          = module.region[name].vpc_id
      cidr            = region.cidr
      route_table_ids = module.region[name].route_table_ids
    }
  }
}

module "records" {
  source  = "../../modules/records"
  service = var.service
  nodes   = module.topology.nodes
  regions = {
    for name, region in module.topology.regions : name => {
      location = region.location
      client   = { ipv4 = module.region[name].client_addresses }
      worker   = { ipv4 = module.region[name].worker_addresses }
    }
  }
}

module "dns" {
  source          = "../../modules/dns"
  zone_id         = var.zone_id
  private_zone_id = var.private_zone_id
  service         = var.service
  records         = module.records.records
  regions         = keys(module.topology.regions)
}

module "observe" {
  source          = "../../modules/observe"
  for_each        = module.topology.regions
  cluster         = local.cluster
  name            = each.key
  location        = each.value.location
  balancers       = module.region[each.key].balancers
  instances       = module.region[each.key].instances
  volumes         = module.region[each.key].volumes
  health_check_id = module.dns.health_checks[each.key]
  topics          = var.topics
}

# For machines with workers, by region: hand user_data_base64 to their launch template.
module "sidecar" {
  source         = "../../modules/sidecar"
  for_each       = module.topology.regions
  region         = each.key
  known_regions  = keys(module.topology.regions)
  nodes          = [module.records.worker_endpoints[each.key], "workers.${var.service}:${module.topology.ports.worker}"]
  worker_key_arn = var.worker_key_arn
  ca_arn         = var.secrets.ca
  release        = var.release
}
