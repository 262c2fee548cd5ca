# Three regions on this machine: `terraform init && terraform apply`, see terraform/README.md.

terraform {
  required_version = ">= 1.9"
}

variable "nodes_per_region" {
  description = "Nodes in each region."
  type        = number
  default     = 3
}

variable "binary" {
  description = "The pontoon binary."
  type        = string
  default     = "../../../target/release/pontoon"
}

variable "folder" {
  description = "Where everything goes; by default beside this file."
  type        = string
  default     = null
}

variable "loopback" {
  description = "The first two numbers of the addresses, so that two clusters can run at a time."
  type        = string
  default     = "127.60"

  validation {
    condition     = can(regex("^127\\.[0-9]{1,3}$", var.loopback))
    error_message = "loopback is \"127.\" and a number, not \"${var.loopback}\"."
  }
}

variable "workers_per_region" {
  description = "Workers of the demo function in each region."
  type        = number
  default     = 1
}

variable "zone" {
  description = "The DNS zone that the nodes answer for: the name that clients call."
  type        = string
  default     = "local.pontoon.test"
}

variable "lost" {
  description = "Regions to take away, as if their power had failed; an apply without them brings them back."
  type        = set(string)
  default     = []
}

variable "more_nodes" {
  description = "Nodes of a region beyond nodes_per_region, by region."
  type        = map(number)
  default     = {}

  validation {
    condition     = alltrue([for name, _ in var.more_nodes : contains(["us-east", "us-west", "eu-central"], name)])
    error_message = "more_nodes names unknown regions; there are us-east, us-west and eu-central."
  }
}

module "cluster" {
  source  = "../../modules/local"
  cluster = { name = "local" }
  regions = {
    for index, name in ["us-east", "us-west", "eu-central"] : name => {
      cidr  = "${var.loopback}.${64 * index}.0/18"
      zones = ["a", "b", "c"]
      nodes = var.nodes_per_region + lookup(var.more_nodes, name, 0)
    }
  }
  binary             = var.binary
  folder             = coalesce(var.folder, "${abspath(path.root)}/.pontoon")
  workers_per_region = var.workers_per_region
  zone               = var.zone
  lost               = var.lost
}

output "nodes" {
  description = "The nodes with their addresses, and the resource that terraform/bin/roll replaces."
  value = {
    for name, node in module.cluster.nodes : name => merge(node, {
      address  = split(":", node.admin)[0]
      resource = "module.cluster.terraform_data.release[\"${name}\"]"
    })
  }
}

output "folder" {
  description = "Where everything lies."
  value       = module.cluster.folder
}
