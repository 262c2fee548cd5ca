variable "nodes" {
  description = "The nodes: address, the device of the data volume, the configuration file from modules/render, and secrets as ARN and key by the path that each goes to."
  type = map(object({
    address = string
    device  = string
    config  = string
    secrets = map(object({ arn = string, key = optional(string) }))
  }))
  nullable = false

  validation {
    condition     = alltrue([for node in values(var.nodes) : startswith(node.device, "/dev/")])
    error_message = "A device is a path below /dev."
  }
  validation {
    condition     = alltrue(flatten([for node in values(var.nodes) : [for path, secret in node.secrets : startswith(path, "/run/pontoon/") && can(regex("^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[^\\s]+$", secret.arn))]]))
    error_message = "Each secret is a path below /run/pontoon, which is memory, and the ARN of a Secrets Manager secret."
  }
  validation {
    # Which key belongs to which path is this list's, so an absent one would only show when the node starts.
    condition = alltrue(flatten([
      for node in values(var.nodes) : [for path in regexall("\"(/run/pontoon/[^\"]+)\"", node.config) : contains(keys(node.secrets), path[0])]
    ]))
    error_message = "Missing certificates: a configuration names a file below /run/pontoon that no secret goes to."
  }
}

variable "release" {
  description = "The binary: where it is, https:// or s3://, and its SHA-256."
  type        = object({ url = string, sha256 = string })
  nullable    = false

  validation {
    condition     = can(regex("^(https|s3)://[^\\s]+$", var.release.url))
    error_message = "release.url begins with https:// or s3://, not \"${var.release.url}\"."
  }
  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.release.sha256))
    error_message = "release.sha256 is 64 hex digits, the output of `sha256sum`."
  }
}

variable "ops_port" {
  description = "The port of probes and metrics."
  type        = number
  default     = 10083
  nullable    = false
}
