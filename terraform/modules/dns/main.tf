# The plan of modules/records in Route 53, with a health check for each region.
#
# Clients get the addresses of the region with the least latency that is healthy. When every region is unhealthy
# Route 53 answers as if all were healthy, which is the best guess that is left.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0, < 7.0"
    }
  }
}

variable "zone_id" {
  description = "The zone of public records."
  type        = string
  nullable    = false
}

variable "private_zone" {
  description = "The zone of nodes' names, one that the networks are associated with: its id, and the name that modules/records has for it; null for none of them."
  type        = object({ id = string, name = string })
  default     = null
}

variable "service" {
  description = "The name that clients call."
  type        = string
  nullable    = false
}

variable "records" {
  description = "The plan from modules/records."
  type = map(object({
    name     = string
    type     = string
    ttl      = number
    values   = list(string)
    scope    = string
    location = optional(string)
    set      = optional(string)
    health   = optional(string)
  }))
  nullable = false
}

variable "regions" {
  description = "The regions whose health is checked, from outside: none where load balancers are private."
  type        = set(string)
  nullable    = false
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
  nullable    = false
}

# In a network that is associated with it, a private zone answers for all that is below its name: one that is named as
# the service would hide all public records there, and a public one would show nodes' addresses to everybody.
data "aws_route53_zone" "private" {
  count   = var.private_zone == null ? 0 : 1
  zone_id = var.private_zone.id

  lifecycle {
    postcondition {
      condition     = trimsuffix(self.name, ".") == var.private_zone.name && self.private_zone
      error_message = "The private zone has to be a private one of the name ${var.private_zone.name}, not ${self.name}: it hides whatever else is below its name."
    }
  }
}

# Through the load balancer, TLS included, to a node's own answer. Three failures 10 s apart, seen by most of
# the checkers, take a region out.
resource "aws_route53_health_check" "region" {
  for_each          = var.regions
  type              = "HTTPS"
  fqdn              = "${each.key}.${var.service}"
  port              = 443
  resource_path     = "/health"
  enable_sni        = true
  request_interval  = 10
  failure_threshold = 3
  measure_latency   = true
  tags              = merge(var.tags, { Name = "${each.key}.${var.service}" })
}

resource "aws_route53_record" "this" {
  for_each        = { for key, record in var.records : key => record if record.scope == "public" || var.private_zone != null }
  zone_id         = each.value.scope == "public" ? var.zone_id : data.aws_route53_zone.private[0].zone_id
  name            = each.value.name
  type            = each.value.type
  ttl             = each.value.ttl
  records         = each.value.values
  set_identifier  = each.value.set
  health_check_id = each.value.health == null ? null : try(aws_route53_health_check.region[each.value.health].id, null)

  dynamic "latency_routing_policy" {
    for_each = each.value.location == null ? [] : [each.value.location]
    content {
      region = latency_routing_policy.value
    }
  }
}

output "health_checks" {
  description = "The health checks' ids by region, for modules/observe."
  value       = { for name, check in aws_route53_health_check.region : name => check.id }
}
