variable "nodes" {
  description = "Where to attach, host:port, the own region first: worker_endpoints of modules/records, or the nodes themselves."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.nodes) > 0 && alltrue([for node in var.nodes : can(regex("^[A-Za-z0-9.:\\[\\]-]+:[0-9]+$", node))])
    error_message = "nodes has at least one host:port: ${jsonencode(var.nodes)}."
  }
}

variable "region" {
  description = "The worker's home region."
  type        = string
  nullable    = false

  validation {
    condition     = var.known_regions == null ? true : contains(var.known_regions, var.region)
    error_message = "Unknown region name: ${var.region} is none of ${join(", ", coalesce(var.known_regions, []))}."
  }
  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,57}[a-z0-9])?$", var.region))
    error_message = "region is a DNS label: \"${var.region}\"."
  }
}

variable "known_regions" {
  description = "The cluster's regions, to refuse a misspelled one; null: not checked."
  type        = set(string)
  default     = null
}

variable "worker" {
  description = "Where the worker serves HTTP/2 on its machine."
  type        = string
  default     = "127.0.0.1:8001"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9.-]+:[0-9]+$", var.worker))
    error_message = "worker is host:port, not \"${var.worker}\"."
  }
}

variable "health" {
  description = "How the worker's health is checked: grpc, http:/PATH or tcp."
  type        = string
  default     = "grpc"
  nullable    = false

  validation {
    condition     = can(regex("^(grpc|tcp|http:/[A-Za-z0-9._/-]*)$", var.health))
    error_message = "health is grpc, tcp or http:/PATH, not \"${var.health}\"."
  }
}

variable "slots" {
  description = "At most so many sessions at once; null: as the version says."
  type        = number
  default     = null

  validation {
    condition     = var.slots == null ? true : var.slots >= 1 && var.slots <= 16384
    error_message = "slots is between 1 and 16384."
  }
}

variable "version_id" {
  description = "The function version that the worker runs, to make sure that the key is for it."
  type        = string
  default     = null

  validation {
    condition     = var.version_id == null ? true : can(regex("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", var.version_id))
    error_message = "version_id is a UUID in lower case."
  }
}

variable "ops_port" {
  description = "The port of the sidecar's own probes and metrics, on loopback."
  type        = number
  default     = 10087
  nullable    = false
}

variable "drain_seconds" {
  description = "How long sessions may go on after a SIGTERM."
  type        = number
  default     = 300
  nullable    = false

  validation {
    condition     = var.drain_seconds >= 0 && var.drain_seconds <= 86400
    error_message = "drain_seconds is between 0 and a day."
  }
}

variable "worker_key_arn" {
  description = "The ARN of the Secrets Manager secret with the worker key."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[^\\s]+$", var.worker_key_arn))
    error_message = "worker_key_arn is the ARN of a secret, never the key."
  }
}

variable "ca_arn" {
  description = "The ARN of the secret with the CA certificates of the nodes."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[^\\s]+$", var.ca_arn))
    error_message = "Missing certificates: ca_arn is the ARN of the secret with the CA."
  }
}

variable "release" {
  description = "The binary: where it is, https:// or s3://, and its SHA-256."
  type        = object({ url = string, sha256 = string })
  nullable    = false

  validation {
    condition     = can(regex("^(https|s3)://[^\\s]+$", var.release.url)) && can(regex("^[0-9a-f]{64}$", var.release.sha256))
    error_message = "release has a url that begins with https:// or s3://, and a sha256 of 64 hex digits."
  }
}
