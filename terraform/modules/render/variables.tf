variable "cluster" {
  description = "The cluster's name and what its groups outlive, from modules/topology."
  type        = object({ name = string, survive = string })
  nullable    = false
}

variable "nodes" {
  description = "The nodes to write files for, from modules/topology."
  type        = map(object({ name = string, region = string, address = string, founding = bool }))
  nullable    = false
}

variable "members" {
  description = "The first members, from modules/topology."
  type        = list(object({ name = string, region = string, peer = string }))
  nullable    = false

  validation {
    condition     = length(var.members) > 0
    error_message = "A cluster needs at least one first member."
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
    dns        = optional(number, 10053)
  })
  nullable = false
}

variable "paths" {
  description = "Where files lie on a node's machine; \"{node}\" stands for its name. ca, cert and key are the nodes' own certificates, client_cert and client_key what clients are shown."
  type = object({
    data        = string
    join_token  = string
    ca          = optional(string)
    cert        = optional(string)
    key         = optional(string)
    client_cert = optional(string)
    client_key  = optional(string)
  })
  nullable = false

  validation {
    condition     = length(compact([var.paths.ca, var.paths.cert, var.paths.key])) != 1 && length(compact([var.paths.ca, var.paths.cert, var.paths.key])) != 2
    error_message = "Missing certificates: paths has all of ca, cert and key, or none of them for clear text on loopback."
  }
  validation {
    condition     = (var.paths.client_cert == null) == (var.paths.client_key == null)
    error_message = "Missing certificates: paths has both of client_cert and client_key, or neither."
  }
  validation {
    condition     = var.paths.ca != null || alltrue([for node in values(var.nodes) : startswith(node.address, "127.")])
    error_message = "Missing certificates: beyond loopback nodes talk TLS, so paths needs ca, cert and key."
  }
}

variable "admin_token_sha256" {
  description = "SHA-256, in hex, of the token that makes the first admin key. The token itself is never in the state."
  type        = string
  default     = null

  validation {
    condition     = var.admin_token_sha256 == null ? true : can(regex("^[0-9a-f]{64}$", var.admin_token_sha256))
    error_message = "admin_token_sha256 is 64 hex digits: the output of `sha256sum`, not the token."
  }
}

variable "client_clear" {
  description = "Whether clients in clear text are served at the node's address, which only loopback allows, or on 127.0.0.1."
  type        = bool
  default     = false
  nullable    = false
}

variable "ops_on_loopback" {
  description = "Whether probes and metrics, which have no TLS, are on 127.0.0.1, where modules/machine forwards to, or at the node's address, which only loopback allows."
  type        = bool
  default     = true
  nullable    = false
}

variable "client_balancers" {
  description = "The ranges of the load balancers whose connections to the clients' TLS port begin with a PROXY header."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "client_addresses" {
  description = "Where clients reach a node, as host:port by its name, where that is not its own address: its load balancer's, for example."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for address in values(var.client_addresses) : can(regex("^[^\\s:]+:[0-9]{1,5}$", address)) || can(regex("^\\[[0-9a-fA-F:.]+\\]:[0-9]{1,5}$", address))])
    error_message = "client_addresses are host:port: ${join(", ", [for name, address in var.client_addresses : "${name} has ${address}"])}."
  }
}

variable "dns_service" {
  description = "What all nodes answer as DNS servers, as in [dns_service] of docs/configuration.md; null: nothing. name_servers are those that the zone's parent has. A change is carried out like any other configuration's, by a start of each node."
  type = object({
    zone               = string
    name_servers       = list(string)
    contact            = optional(string)
    ttl_seconds        = optional(number)
    answers_per_second = optional(number)
    prefixes           = optional(map(string), {})
  })
  default = null

  validation {
    condition     = var.dns_service == null ? true : can(regex("^([a-z0-9_]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z0-9-]{2,63}$", var.dns_service.zone)) && length(var.dns_service.zone) <= 160
    error_message = "dns_service.zone is a DNS name such as grpc.example.com, without a dot at its end and at most 160 characters: \"${try(var.dns_service.zone, "")}\"."
  }
  validation {
    condition     = var.dns_service == null ? true : length(var.dns_service.name_servers) > 0
    error_message = "dns_service.name_servers is empty: it names the zone's servers as its parent has them, two or more in different regions."
  }
  validation {
    # What IPv6 addresses look like in full is left to the node's own check.
    condition     = alltrue([for prefix in keys(try(var.dns_service.prefixes, {})) : can(cidrhost(prefix, 0)) && (strcontains(prefix, ":") || startswith(prefix, "${try(cidrhost(prefix, 0), "")}/"))])
    error_message = "dns_service.prefixes are ranges of addresses such as 10.1.0.0/16, with no bits behind the prefix: ${join(", ", keys(try(var.dns_service.prefixes, {})))}."
  }
  validation {
    condition     = alltrue([for region in values(try(var.dns_service.prefixes, {})) : contains(concat(var.members[*].region, values(var.nodes)[*].region), region)])
    error_message = "Unknown region names in dns_service.prefixes: ${join(", ", setsubtract(values(try(var.dns_service.prefixes, {})), concat(var.members[*].region, values(var.nodes)[*].region)))}. Nodes are in ${join(", ", distinct(concat(var.members[*].region, values(var.nodes)[*].region)))}."
  }
  validation {
    condition     = try(var.dns_service.ttl_seconds >= 1 && var.dns_service.ttl_seconds <= 3600, true)
    error_message = "dns_service.ttl_seconds is between 1 and 3600: clients of a lost region wait for it."
  }
}

variable "limits" {
  description = "Bounds on clients, as in [limits] of docs/configuration.md; null for the node's own default."
  type = object({
    header_list_bytes = optional(number)
    streams_max       = optional(number)
    connections_max   = optional(number)
    handshake_ms      = optional(number)
    idle_ms           = optional(number)
  })
  default  = {}
  nullable = false
}

variable "log" {
  description = "What is logged, and how."
  type = object({
    format = optional(string, "text")
    filter = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["text", "json"], var.log.format)
    error_message = "log.format is \"text\" or \"json\", not \"${var.log.format}\"."
  }
}
