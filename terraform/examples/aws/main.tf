# Regions on AWS, three or one, as one apply: see terraform/README.md, "Bootstrap".
#
#   terraform apply -var-file=three-regions.tfvars -var-file=own.tfvars
#
# A cluster that begins with one region ends with three without a new beginning: they are lines in `regions`.
# One provider serves all regions: since version 6 its resources take `region`, so a region more is a line in
# `regions` and no provider more.

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

  # The servers of dns_zone: load balancers' addresses in two zones of each region that founded. Not those of later
  # regions, whose names would change every node's configuration.
  name_servers = merge([
    for name, region in module.topology.regions : {
      for number, zone in slice(region.zones, 0, min(2, length(region.zones))) : "ns${number + 1}.${name}.${var.service}" => { region = name, zone = zone }
    } if var.dns_zone != null && region.founding_nodes > 0
  ]...)
}

module "topology" {
  source       = "../../modules/topology"
  cluster      = { name = local.cluster, survive = var.survive }
  regions      = var.regions
  running      = var.running
  platform     = "aws"
  certificates = flatten([for secrets in values(var.secrets) : keys(secrets.nodes)])
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
  # Clients come by the region's load balancer. Nodes look its name up, so its addresses, which are chosen later, need
  # not be known here.
  client_addresses = { for name, node in module.topology.nodes : name => "${node.region}.${var.service}:443" }
  dns_service      = var.dns_zone == null ? null : { zone = var.dns_zone, name_servers = keys(local.name_servers), prefixes = var.dns_prefixes }
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
  dns_cidrs      = var.dns_zone == null ? [] : ["0.0.0.0/0"]
  operator_cidrs = var.operator_cidrs
  image          = var.images[each.key]
  kms_key_arn    = lookup(var.kms_key_arns, each.key, null)
  release        = var.release
  secrets        = var.secrets[each.key]

  deletion_protection = lookup(var.deletion_protection, each.key, true)
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
      client   = { ipv4 = values(module.region[name].addresses["client"]) }
      worker   = { ipv4 = values(module.region[name].addresses["worker"]) }
    }
  }
  delegation = var.dns_zone == null ? null : {
    zone    = var.dns_zone
    servers = { for server, at in local.name_servers : server => { ipv4 = [module.region[at.region].addresses["dns"][at.zone]] } }
  }
}

module "dns" {
  source       = "../../modules/dns"
  zone_id      = var.zone_id
  private_zone = var.private_zone_id == null ? null : { id = var.private_zone_id, name = module.records.private_zone }
  service      = var.service
  records      = module.records.records
  regions      = keys(module.topology.regions)
}

module "observe" {
  source    = "../../modules/observe"
  for_each  = module.topology.regions
  cluster   = local.cluster
  name      = each.key
  location  = each.value.location
  balancers = module.region[each.key].balancers
  instances = module.region[each.key].instances
  volumes   = module.region[each.key].volumes
  outside   = { health_check_id = module.dns.health_checks[each.key] }
  topics    = var.topics
}

# For machines with workers, by region: hand user_data_base64 to their launch template.
module "sidecar" {
  source         = "../../modules/sidecar"
  for_each       = module.topology.regions
  region         = each.key
  known_regions  = keys(module.topology.regions)
  nodes          = [module.records.worker_endpoints[each.key], "workers.${var.service}:${module.topology.ports.worker}"]
  worker_key_arn = var.secrets[each.key].worker_key
  ca_arn         = var.secrets[each.key].ca
  release        = var.release
}
