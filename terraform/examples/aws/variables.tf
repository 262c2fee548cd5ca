variable "regions" {
  description = "The regions. Ranges never overlap, zones of a region never change once it has nodes, and founding_nodes is written down because it never changes either."
  type = map(object({
    cidr           = string
    zones          = list(string)
    nodes          = number
    founding_nodes = number
  }))
}

variable "survive" {
  description = "What groups outlive: \"region\", where there are three, or \"zone\"."
  type        = string
}

variable "running" {
  description = "How many nodes run in each region now, to have a change refused that takes away too many."
  type        = map(number)
  default     = {}
}

variable "images" {
  description = "The AMI of each region."
  type        = map(string)
}

variable "release" {
  description = "The binary: url and sha256."
  type        = object({ url = string, sha256 = string })
}

variable "secrets" {
  description = "ARNs of secrets by region, see terraform/README.md: those that all need are replicated, so that no region waits for another one's Secrets Manager. With the customer keys in KMS that encrypt them, if there are any."
  type = map(object({
    join_token   = string
    ca           = string
    client       = string
    nodes        = map(string)
    worker_key   = string
    kms_key_arns = optional(list(string), [])
  }))

  validation {
    condition     = length(setsubtract(keys(var.regions), keys(var.secrets))) == 0
    error_message = "Regions without secrets: ${join(", ", setsubtract(keys(var.regions), keys(var.secrets)))}."
  }
}

variable "admin_token_sha256" {
  description = "SHA-256 of the token that makes the first admin key."
  type        = string
}

variable "kms_key_arns" {
  description = "KMS keys of volumes and logs by region; those of AWS where there is none."
  type        = map(string)
  default     = {}
}

variable "deletion_protection" {
  description = "Regions whose load balancers are about to be taken away: false, see \"Take a region out\" in terraform/README.md."
  type        = map(bool)
  default     = {}
}

variable "operator_cidrs" {
  description = "Who may reach the admin API."
  type        = list(string)
  default     = []
}

variable "service" {
  description = "The name that clients call."
  type        = string
}

variable "zone_id" {
  description = "The public Route 53 zone of that name."
  type        = string
}

variable "private_zone_id" {
  description = "A private zone for nodes' names, null for none. It is internal.<service>, and associated with the networks of all regions."
  type        = string
  default     = null
}

variable "dns_zone" {
  description = "A name in zone_id that nodes answer for themselves (docs/dns.md), as near.<service>; null: Route 53 alone picks regions."
  type        = string
  default     = null
}

variable "dns_prefixes" {
  description = "Where clients are, for dns_zone: regions by ranges of addresses. Clients beyond them get the region of the server that their resolver asks."
  type        = map(string)
  default     = {}
}

variable "topics" {
  description = "SNS topics for alarms by location."
  type        = map(list(string))
  default     = {}
}
