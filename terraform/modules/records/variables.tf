variable "service" {
  description = "The name that clients call, without a dot at its end."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,63}$", var.service)) && length(var.service) <= 150
    error_message = "service is a DNS name such as pontoon.example.com, without a dot at its end and at most 150 characters, so that the longest name below it stays within DNS's 253: \"${var.service}\"."
  }
}

variable "regions" {
  description = "The regions: the name that latencies are measured by, and the addresses of clients' and workers' load balancers."
  type = map(object({
    location = string
    client   = object({ ipv4 = optional(list(string), []), ipv6 = optional(list(string), []) })
    worker   = object({ ipv4 = optional(list(string), []), ipv6 = optional(list(string), []) })
  }))
  nullable = false

  validation {
    condition     = length(distinct([for region in values(var.regions) : region.location])) == length(var.regions)
    error_message = "Two regions have one location, so no latency tells them apart: ${jsonencode({ for name, region in var.regions : name => region.location })}."
  }
  validation {
    # These labels in front of the service's name mean something else.
    condition     = length(setintersection(keys(var.regions), ["internal", "workers"])) == 0
    error_message = "A region can't be called ${join(" or ", setintersection(keys(var.regions), ["internal", "workers"]))}: the private zone is internal.${var.service}, and workers.${var.service} is for sidecars."
  }
  validation {
    condition     = alltrue([for region in values(var.regions) : length(region.client.ipv4) + length(region.client.ipv6) > 0])
    error_message = "A region has no address for clients: ${join(", ", [for name, region in var.regions : name if length(region.client.ipv4) + length(region.client.ipv6) == 0])}."
  }
}

variable "nodes" {
  description = "The nodes with region and address, from modules/topology."
  type        = map(object({ region = string, address = string }))
  nullable    = false

  validation {
    condition     = alltrue([for node in values(var.nodes) : contains(keys(var.regions), node.region)])
    error_message = "Nodes of unknown regions: ${join(", ", [for name, node in var.nodes : "${name} in ${node.region}" if !contains(keys(var.regions), node.region)])}."
  }
}

variable "delegation" {
  description = "The zone that the nodes answer for themselves, and its servers with their addresses; null for none."
  type = object({
    zone    = string
    servers = map(object({ ipv4 = optional(list(string), []), ipv6 = optional(list(string), []) }))
  })
  default = null

  validation {
    condition     = var.delegation == null ? true : can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,63}$", var.delegation.zone))
    error_message = "delegation.zone is a DNS name such as grpc.example.com, without a dot at its end: \"${try(var.delegation.zone, "")}\"."
  }
  validation {
    # Whoever asks for a name below a delegated one is sent to the zone's servers.
    condition     = var.delegation == null ? true : var.service != var.delegation.zone && !endswith(var.service, ".${var.delegation.zone}")
    error_message = "The nodes would be asked for ${var.service}, whose records are here: delegate another name than the service's, or one below it, as near.${var.service}."
  }
  validation {
    condition     = var.delegation == null ? true : !endswith(".${var.delegation.zone}", ".internal.${var.service}")
    error_message = "${try(var.delegation.zone, "")} is in the private zone internal.${var.service}: networks that know that one would not find its servers."
  }
  validation {
    condition     = length(try(var.delegation.servers, { a = null, b = null })) >= 2
    error_message = "A zone has two servers at least (RFC 1034 4.1), in two regions if possible: ${join(", ", keys(try(var.delegation.servers, {})))}."
  }
  validation {
    condition     = alltrue([for server, addresses in try(var.delegation.servers, {}) : length(addresses.ipv4) + length(addresses.ipv6) > 0 && !endswith(server, ".${var.delegation.zone}")])
    error_message = "Each server of ${try(var.delegation.zone, "")} has an address, and a name outside of that zone, because nodes answer for its names with what they advertise: ${join(", ", keys(try(var.delegation.servers, {})))}."
  }
}

variable "ports" {
  description = "The ports of the nodes, and 443 or so for clients."
  type = object({
    client = optional(number, 443)
    worker = optional(number, 10086)
    peer   = optional(number, 10085)
    admin  = optional(number, 10080)
  })
  default  = {}
  nullable = false
}

variable "ttl" {
  description = "How long resolvers may keep the addresses of a service, in seconds. A lost region is noticed within three checks of 10 s each, and forgotten within that and this time."
  type        = number
  default     = 15
  nullable    = false

  validation {
    condition     = var.ttl >= 1 && var.ttl <= 60
    error_message = "ttl is between 1 and 60 s: clients of a lost region wait for it."
  }
}

variable "ttl_nodes" {
  description = "The same for names of nodes, whose addresses never change."
  type        = number
  default     = 60
  nullable    = false
}
