# Load balancers, which pass TCP on and end no TLS: one for clients, one for workers, and one for DNS where nodes
# answer questions.
#
# Clients' addresses reach the nodes by a PROXY header, those of whoever asks for names as they are. Addresses are
# static, one for each zone, so that DNS records can have a time to live of our own choice.

resource "aws_eip" "balancer" {
  for_each = var.internet_facing ? merge([
    for kind, _ in local.balancers : { for zone in var.place.zones : "${kind} ${zone}" => { kind = kind, zone = zone } }
  ]...) : {}
  region = var.place.location
  domain = "vpc"
  tags   = merge(local.tags, { Name = "${local.prefix}-${each.value.kind}-${each.value.zone}" })
}

locals {
  # Inside of a network the addresses are chosen here: the eighth to the tenth of each subnet.
  private_addresses = {
    for kind, host in { client = 8, worker = 9, dns = 10 } : kind => { for zone in var.place.zones : zone => cidrhost(var.place.subnets[zone].edge, host) }
  }
}

resource "aws_lb" "this" {
  for_each                         = local.balancers
  region                           = var.place.location
  name                             = "${local.prefix}-${each.key}"
  load_balancer_type               = "network"
  internal                         = !var.internet_facing
  security_groups                  = [aws_security_group.balancer[each.key].id]
  enable_cross_zone_load_balancing = true
  enable_deletion_protection       = var.deletion_protection
  tags                             = local.tags

  dynamic "subnet_mapping" {
    for_each = toset(var.place.zones)
    content {
      subnet_id            = local.edge_subnets[subnet_mapping.value]
      allocation_id        = var.internet_facing ? aws_eip.balancer["${each.key} ${subnet_mapping.value}"].id : null
      private_ipv4_address = var.internet_facing ? null : local.private_addresses[each.key][subnet_mapping.value]
    }
  }

  dynamic "access_logs" {
    for_each = var.access_log_bucket == null ? [] : [var.access_log_bucket]
    content {
      bucket  = access_logs.value
      prefix  = "${local.prefix}-${each.key}"
      enabled = true
    }
  }
}

resource "aws_lb_target_group" "this" {
  for_each    = local.balancers
  region      = var.place.location
  name        = "${local.prefix}-${each.key}"
  target_type = "ip"
  protocol    = contains(each.value.protocols, "udp") ? "TCP_UDP" : "TCP"
  port        = each.value.target
  vpc_id      = local.vpc_id
  # By UDP there is no other way, and nodes count answers by who asks.
  preserve_client_ip = tostring(contains(each.value.protocols, "udp"))
  proxy_protocol_v2  = each.value.proxy
  # A node that drains lets calls go on for 30 s. Connections beyond that end with the node.
  deregistration_delay   = 60
  connection_termination = false
  tags                   = local.tags

  # By default connections are reset once probes fail, which is 15 s into a drain of 30 s. A node that is not ready ends
  # its own connections when it has to, so the load balancer leaves them alone for 5 minutes: ten drains, and time for a
  # quorum that is away. Those of a machine that is gone are then reset. TCP only.
  dynamic "target_health_state" {
    for_each = contains(each.value.protocols, "udp") ? [] : [300]
    content {
      enable_unhealthy_connection_termination = false
      unhealthy_draining_interval             = target_health_state.value
    }
  }

  # Three times 5 s: a node is out before the 30 s in which it drains are over.
  health_check {
    protocol            = "HTTP"
    port                = tostring(var.ports.ops)
    path                = "/readyz"
    matcher             = "200"
    interval            = 5
    timeout             = 4
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

resource "aws_lb_listener" "this" {
  for_each          = local.balancers
  region            = var.place.location
  load_balancer_arn = aws_lb.this[each.key].arn
  protocol          = aws_lb_target_group.this[each.key].protocol
  port              = each.value.port
  # The most that there is: nodes find dead connections themselves, and silent calls are none. TCP only.
  tcp_idle_timeout_seconds = contains(each.value.protocols, "udp") ? null : 6000
  tags                     = local.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this[each.key].arn
  }
}

resource "aws_lb_target_group_attachment" "this" {
  for_each = merge([
    for kind, balancer in local.balancers : { for name, node in var.nodes : "${kind} ${name}" => { kind = kind, address = node.address, port = balancer.target } }
  ]...)
  region           = var.place.location
  target_group_arn = aws_lb_target_group.this[each.value.kind].arn
  target_id        = each.value.address
  port             = each.value.port
}
