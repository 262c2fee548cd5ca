# The network, where none is given: in each zone a private subnet for nodes and a public one for load
# balancers, with a way out through a NAT gateway of the same zone. Zones share nothing.

locals {
  own_zones = var.network == null ? var.place.subnets : {}
}

resource "aws_vpc" "this" {
  count                = var.network == null ? 1 : 0
  region               = var.place.location
  cidr_block           = var.place.cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = merge(local.tags, { Name = local.prefix })
}

# The group that machines get when nobody names one: without rules, so that forgetting is noticed.
resource "aws_default_security_group" "this" {
  count  = var.network == null ? 1 : 0
  region = var.place.location
  vpc_id = aws_vpc.this[0].id
  tags   = local.tags
}

resource "aws_subnet" "nodes" {
  for_each          = local.own_zones
  region            = var.place.location
  vpc_id            = aws_vpc.this[0].id
  cidr_block        = each.value.nodes
  availability_zone = each.key
  tags              = merge(local.tags, { Name = "${local.prefix}-nodes-${each.key}" })
}

resource "aws_subnet" "edge" {
  for_each          = local.own_zones
  region            = var.place.location
  vpc_id            = aws_vpc.this[0].id
  cidr_block        = each.value.edge
  availability_zone = each.key
  tags              = merge(local.tags, { Name = "${local.prefix}-edge-${each.key}" })
}

resource "aws_internet_gateway" "this" {
  count  = var.network == null ? 1 : 0
  region = var.place.location
  vpc_id = aws_vpc.this[0].id
  tags   = merge(local.tags, { Name = local.prefix })
}

resource "aws_eip" "nat" {
  for_each = local.own_zones
  region   = var.place.location
  domain   = "vpc"
  tags     = merge(local.tags, { Name = "${local.prefix}-nat-${each.key}" })
}

resource "aws_nat_gateway" "this" {
  for_each      = local.own_zones
  region        = var.place.location
  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.edge[each.key].id
  tags          = merge(local.tags, { Name = "${local.prefix}-${each.key}" })
  depends_on    = [aws_internet_gateway.this]
}

resource "aws_route_table" "edge" {
  count  = var.network == null ? 1 : 0
  region = var.place.location
  vpc_id = aws_vpc.this[0].id
  tags   = merge(local.tags, { Name = "${local.prefix}-edge" })
}

resource "aws_route" "edge" {
  count                  = var.network == null ? 1 : 0
  region                 = var.place.location
  route_table_id         = aws_route_table.edge[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this[0].id
}

resource "aws_route_table_association" "edge" {
  for_each       = local.own_zones
  region         = var.place.location
  subnet_id      = aws_subnet.edge[each.key].id
  route_table_id = aws_route_table.edge[0].id
}

resource "aws_route_table" "nodes" {
  for_each = local.own_zones
  region   = var.place.location
  vpc_id   = aws_vpc.this[0].id
  tags     = merge(local.tags, { Name = "${local.prefix}-nodes-${each.key}" })
}

resource "aws_route" "nodes" {
  for_each               = local.own_zones
  region                 = var.place.location
  route_table_id         = aws_route_table.nodes[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[each.key].id
}

resource "aws_route_table_association" "nodes" {
  for_each       = local.own_zones
  region         = var.place.location
  subnet_id      = aws_subnet.nodes[each.key].id
  route_table_id = aws_route_table.nodes[each.key].id
}

# Who talked to whom, for a year: what an inquiry after an incident asks for.
resource "aws_cloudwatch_log_group" "flows" {
  count             = var.network == null ? 1 : 0
  region            = var.place.location
  name              = "/pontoon/${local.prefix}/flows"
  retention_in_days = 365
  kms_key_id        = var.kms_key_arn
  tags              = local.tags
}

resource "aws_iam_role" "flows" {
  count = var.network == null ? 1 : 0
  name  = "${local.prefix}-flows"
  tags  = local.tags
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "vpc-flow-logs.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy" "flows" {
  count = var.network == null ? 1 : 0
  name  = "write"
  role  = aws_iam_role.flows[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
      Resource = ["${aws_cloudwatch_log_group.flows[0].arn}", "${aws_cloudwatch_log_group.flows[0].arn}:*"]
    }]
  })
}

resource "aws_flow_log" "this" {
  count           = var.network == null ? 1 : 0
  region          = var.place.location
  vpc_id          = aws_vpc.this[0].id
  traffic_type    = "ALL"
  iam_role_arn    = aws_iam_role.flows[0].arn
  log_destination = aws_cloudwatch_log_group.flows[0].arn
  tags            = local.tags
}
