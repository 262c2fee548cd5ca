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
