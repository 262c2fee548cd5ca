# Who may talk to whom: one rule for each port and side.
#
# Peers in other regions are known by their ranges, because a rule can name no group of another region.

resource "aws_security_group" "balancer" {
  for_each    = local.balancers
  region      = var.place.location
  name        = "${local.prefix}-${each.key}-balancer"
  description = "The load balancer for ${each.key}s of Pontoon ${local.prefix}"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${local.prefix}-${each.key}-balancer" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "nodes" {
  region      = var.place.location
  name        = "${local.prefix}-nodes"
  description = "The nodes of Pontoon ${local.prefix}"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${local.prefix}-nodes" })

  lifecycle {
    create_before_destroy = true
  }
}

locals {
  # Questions of DNS come to port 53 by UDP and, where answers are long, by TCP.
  balancers = merge(
    {
      client = { port = 443, target = var.ports.client_tls, cidrs = var.client_cidrs, protocols = ["tcp"], proxy = true }
      worker = { port = var.ports.worker, target = var.ports.worker, cidrs = var.worker_cidrs, protocols = ["tcp"], proxy = false }
    },
    length(var.dns_cidrs) == 0 ? {} : {
      dns = { port = 53, target = var.ports.dns, cidrs = var.dns_cidrs, protocols = ["tcp", "udp"], proxy = false }
    },
  )

  to_balancers = merge(flatten([
    for kind, balancer in local.balancers : [
      for protocol in balancer.protocols : {
        for cidr in balancer.cidrs : "${kind} by ${protocol} from ${cidr}" => { kind = kind, protocol = protocol, port = balancer.port, cidr = cidr }
      }
    ]
  ])...)

  from_balancers = merge(flatten([
    for kind, balancer in local.balancers : [
      { "${kind} probes" = { kind = kind, protocol = "tcp", port = var.ports.ops } },
      { for protocol in balancer.protocols : "${kind} by ${protocol}" => { kind = kind, protocol = protocol, port = balancer.target } },
    ]
  ])...)

  to_nodes = merge(
    { for name, cidr in var.peer_cidrs : "peers of ${name}" => { port = var.ports.peer, cidr = cidr } },
    { for cidr in var.operator_cidrs : "admin from ${cidr}" => { port = var.ports.admin, cidr = cidr } },
    { for cidr in var.operator_cidrs : "metrics from ${cidr}" => { port = var.ports.ops, cidr = cidr } },
  )
}

resource "aws_vpc_security_group_ingress_rule" "balancer" {
  for_each          = local.to_balancers
  region            = var.place.location
  security_group_id = aws_security_group.balancer[each.value.kind].id
  description       = each.key
  ip_protocol       = each.value.protocol
  from_port         = each.value.port
  to_port           = each.value.port
  cidr_ipv4         = each.value.cidr
}

resource "aws_vpc_security_group_egress_rule" "balancer" {
  for_each                     = local.from_balancers
  region                       = var.place.location
  security_group_id            = aws_security_group.balancer[each.value.kind].id
  description                  = each.key
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.port
  to_port                      = each.value.port
  referenced_security_group_id = aws_security_group.nodes.id
}

resource "aws_vpc_security_group_ingress_rule" "from_balancer" {
  for_each                     = local.from_balancers
  region                       = var.place.location
  security_group_id            = aws_security_group.nodes.id
  description                  = each.key
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.port
  to_port                      = each.value.port
  referenced_security_group_id = aws_security_group.balancer[each.value.kind].id
}

resource "aws_vpc_security_group_ingress_rule" "nodes" {
  for_each          = local.to_nodes
  region            = var.place.location
  security_group_id = aws_security_group.nodes.id
  description       = each.key
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
  cidr_ipv4         = each.value.cidr
}

resource "aws_vpc_security_group_egress_rule" "peers" {
  for_each          = var.peer_cidrs
  region            = var.place.location
  security_group_id = aws_security_group.nodes.id
  description       = "peers of ${each.key}"
  ip_protocol       = "tcp"
  from_port         = var.ports.peer
  to_port           = var.ports.peer
  cidr_ipv4         = each.value
}

# Secrets, releases and packages. Names and time come by link-local addresses, which no rule concerns.
resource "aws_vpc_security_group_egress_rule" "https" {
  region            = var.place.location
  security_group_id = aws_security_group.nodes.id
  description       = "AWS API and releases"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
}
