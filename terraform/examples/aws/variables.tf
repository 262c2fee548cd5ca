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
  description = "ARNs of secrets, see terraform/README.md."
  type        = object({ join_token = string, ca = string, client = string, nodes = map(string) })
}

variable "worker_key_arn" {
  description = "The ARN of the secret with the key of the workers."
  type        = string
}

variable "admin_token_sha256" {
  description = "SHA-256 of the token that makes the first admin key."
  type        = string
}

variable "kms_key_arns" {
  description = "KMS keys by region; those of AWS where there is none."
  type        = map(string)
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
  description = "A private zone for nodes' names, null for none."
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
