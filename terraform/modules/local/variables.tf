variable "cluster" {
  description = "As in modules/topology."
  type        = object({ name = string, survive = optional(string, "region") })
  nullable    = false
}

variable "regions" {
  description = "As in modules/topology, with ranges inside of 127.0.0.0/8: on Linux all of it is this machine's."
  type = map(object({
    cidr           = string
    zones          = list(string)
    nodes          = number
    founding_nodes = optional(number)
  }))
  nullable = false

  validation {
    condition     = alltrue([for region in values(var.regions) : startswith(region.cidr, "127.")])
    error_message = "A local region's cidr lies in 127.0.0.0/8: ${join(", ", [for name, region in var.regions : "${name} has ${region.cidr}" if !startswith(region.cidr, "127.")])}."
  }
}

variable "running" {
  description = "As in modules/topology."
  type        = map(number)
  default     = {}
}

variable "ports" {
  description = "As in modules/topology."
  type        = map(number)
  default     = {}
}

variable "binary" {
  description = "The pontoon binary. Another content of the file is another version, and rolls the nodes."
  type        = string
  nullable    = false

  validation {
    condition     = fileexists(var.binary)
    error_message = "There is no file ${var.binary}: build it by `cargo build --release`, or name another one."
  }
}

variable "folder" {
  description = "Where data, secrets, certificates and logs go. It is removed when the cluster is destroyed."
  type        = string
  nullable    = false

  validation {
    condition     = startswith(var.folder, "/") && !strcontains(var.folder, "\n")
    error_message = "folder is an absolute path, not \"${var.folder}\"."
  }
}

variable "zone" {
  description = "The DNS zone that the nodes answer for, which is the name that clients call; null for none."
  type        = string
  default     = null
}

variable "lost" {
  description = "Regions that are gone, as if their power had failed: their nodes are killed, and come back when they are named no more."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = length(setsubtract(var.lost, keys(var.regions))) == 0
    error_message = "lost names unknown regions: ${join(", ", setsubtract(var.lost, keys(var.regions)))}. There are ${join(", ", keys(var.regions))}."
  }
  validation {
    # Three regions hold the voters of every group, none of them a majority, as long as survive is "region".
    # A region without nodes has nothing to lose any more.
    condition = alltrue([for name in var.lost : try(var.regions[name].nodes, 0) == 0]) || (
      length([for name in var.lost : name if try(var.regions[name].nodes, 0) > 0]) == 1 && var.cluster.survive == "region" &&
      length([for region in values(var.regions) : region if region.nodes > 0]) >= 3
    )
    error_message = "The loss of ${join(" and ", var.lost)} would lose the quorum: what groups outlive is one region of three or more, with survive = \"region\"."
  }
}

variable "tls" {
  description = "Whether nodes, sidecars and operators talk TLS, with certificates of a CA that is made in the folder."
  type        = bool
  default     = true
  nullable    = false
}

variable "workers_per_region" {
  description = "Workers of the demo function in each region, each with its sidecar. They are not rolled: sessions live in them."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.workers_per_region >= 0 && var.workers_per_region <= 20 && floor(var.workers_per_region) == var.workers_per_region
    error_message = "workers_per_region is between 0 and 20."
  }
}

variable "slots" {
  description = "Sessions that one demo worker takes at a time."
  type        = number
  default     = 64
  nullable    = false
}

variable "limits" {
  description = "As in modules/render."
  type        = map(number)
  default     = {}
}
