variable "cluster" {
  description = "The cluster's name."
  type        = string
  nullable    = false
}

variable "name" {
  description = "The region's name in the cluster."
  type        = string
  nullable    = false

  validation {
    # The names of load balancers have at most 32 characters: "<cluster>-<region>-client" is one.
    condition     = length("${var.cluster}-${var.name}") <= 25
    error_message = "\"${var.cluster}-${var.name}\" is longer than 25 characters, which is what AWS leaves for it in the names of load balancers."
  }
}

variable "place" {
  description = "The region from modules/topology: location, cidr, zones and subnets."
  type = object({
    location = string
    cidr     = string
    zones    = list(string)
    subnets  = map(object({ nodes = string, edge = string }))
  })
  nullable = false
}

variable "nodes" {
  description = "This region's nodes from modules/topology."
  type        = map(object({ zone = string, address = string }))
  nullable    = false
}

variable "files" {
  description = "The nodes' configuration files from modules/render."
  type        = map(string)
  nullable    = false

  validation {
    condition     = length(setsubtract(keys(var.nodes), keys(var.files))) == 0
    error_message = "Nodes without a configuration: ${join(", ", setsubtract(keys(var.nodes), keys(var.files)))}."
  }
}

variable "ports" {
  description = "The port of each listener, from modules/topology."
  type = object({
    client     = number
    client_tls = number
    worker     = number
    peer       = number
    admin      = number
    ops        = number
    dns        = number
  })
  nullable = false
}

variable "network" {
  description = "A network that exists, with subnets by zone; null to make one. Its routes to other regions and to the AWS API are its owner's."
  type = object({
    vpc_id          = string
    node_subnet_ids = map(string)
    edge_subnet_ids = map(string)
    route_table_ids = optional(map(string), {})
  })
  default = null

  validation {
    condition     = var.network == null ? true : length(setsubtract(var.place.zones, keys(var.network.node_subnet_ids))) == 0 && length(setsubtract(var.place.zones, keys(var.network.edge_subnet_ids))) == 0
    error_message = "network has a subnet for nodes and one for load balancers in each of ${join(", ", var.place.zones)}."
  }
}

variable "peer_cidrs" {
  description = "The ranges of all regions by name: nodes listen for each other there."
  type        = map(string)
  nullable    = false
}

variable "client_cidrs" {
  description = "Who may reach the clients' load balancer."
  type        = list(string)
  nullable    = false
}

variable "worker_cidrs" {
  description = "Who may reach the workers' load balancer."
  type        = list(string)
  nullable    = false
}

variable "dns_cidrs" {
  description = "Who may ask the nodes for names, by a load balancer on port 53: everybody, where resolvers anywhere may. Empty: nobody, and there is none."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "operator_cidrs" {
  description = "Who may reach the admin API and the metrics of nodes, besides the nodes."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = !contains(var.operator_cidrs, "0.0.0.0/0")
    error_message = "The admin API is not for everybody: operator_cidrs has 0.0.0.0/0."
  }
}

variable "internet_facing" {
  description = "Whether load balancers have public addresses. Otherwise clients and workers come through the network."
  type        = bool
  default     = true
  nullable    = false
}

variable "image" {
  description = "The AMI of the nodes in this region: Amazon Linux 2023, or another one that has what modules/machine needs."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^ami-[0-9a-f]{8,17}$", var.image))
    error_message = "image is an AMI's id, not \"${var.image}\": a pinned one, so that a replaced node is like the others."
  }
}

variable "instance_type" {
  description = "The machines of the nodes."
  type        = string
  default     = "m7i.xlarge"
  nullable    = false
}

variable "volume" {
  description = "Each node's data volume (gp3): size in GiB, and IOPS; each commit waits for the volumes of a majority."
  type        = object({ size = optional(number, 50), iops = optional(number, 3000), throughput = optional(number, 125) })
  default     = {}
  nullable    = false

  validation {
    condition     = var.volume.size >= 10 && var.volume.iops >= 3000 && var.volume.iops <= 16000
    error_message = "A data volume has at least 10 GiB and between 3000 and 16000 IOPS, the bounds of gp3."
  }
}

variable "kms_key_arn" {
  description = "The KMS key of volumes and logs in this region; null for those of AWS."
  type        = string
  default     = null
}

variable "release" {
  description = "The binary: where it is, and its SHA-256."
  type        = object({ url = string, sha256 = string })
  nullable    = false
}

variable "secrets" {
  description = "ARNs of Secrets Manager secrets: the join token, the CA certificates, what clients are shown, and each node's certificate, the last two as JSON with cert and key. kms_key_arns: the customer keys in KMS that encrypt them, or a release on S3, which nodes then may use; those of AWS need no mention."
  type = object({
    join_token   = string
    ca           = string
    client       = string
    nodes        = map(string)
    kms_key_arns = optional(list(string), [])
  })
  nullable = false

  validation {
    condition     = length(setsubtract(keys(var.nodes), keys(var.secrets.nodes))) == 0
    error_message = "Missing certificates: ${join(", ", setsubtract(keys(var.nodes), keys(var.secrets.nodes)))}. Each node needs a secret of its own, see terraform/README.md."
  }
}

variable "deletion_protection" {
  description = "Whether load balancers refuse to be deleted. Set it to false and apply before a region, or the one for DNS, is taken away."
  type        = bool
  default     = true
  nullable    = false
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "access_log_bucket" {
  description = "An S3 bucket of this region for the load balancers' logs; null for none. Load balancers that pass TLS through log nothing but TLS they end, so nothing is the default."
  type        = string
  default     = null
}
