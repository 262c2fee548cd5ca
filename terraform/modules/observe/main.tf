# Alarms and a dashboard for one region, from what AWS measures without an agent.
#
# What nodes measure themselves is on their /metrics (docs/metrics.md), for Prometheus. Where an agent brings
# it to CloudWatch, `metrics_namespace` adds the alarm on groups without a quorum.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0, < 7.0"
    }
  }
}

variable "cluster" {
  description = "The cluster's name."
  type        = string
  nullable    = false
}

variable "name" {
  description = "The region's name."
  type        = string
  nullable    = false
}

variable "location" {
  description = "Where the region is on AWS."
  type        = string
  nullable    = false
}

variable "balancers" {
  description = "The load balancers, from modules/region."
  type        = map(object({ balancer = string, targets = string }))
  nullable    = false
}

variable "instances" {
  description = "The machines' ids by node, from modules/region."
  type        = map(string)
  nullable    = false
}

variable "volumes" {
  description = "The data volumes' ids by node, from modules/region."
  type        = map(string)
  nullable    = false
}

variable "outside" {
  description = "The region's health check, from modules/dns; null for none. An object, because whether there is one has to be known when its id is not yet."
  type        = object({ health_check_id = string })
  default     = null
}

variable "topics" {
  description = "SNS topics to tell by location: the region's own one, and that of us-east-1, where Route 53 reports."
  type        = map(list(string))
  default     = {}
  nullable    = false
}

variable "metrics_namespace" {
  description = "The CloudWatch namespace that the nodes' own metrics go to; null for none."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
  nullable    = false
}

locals {
  prefix = "${var.cluster}-${var.name}"
  here   = lookup(var.topics, var.location, [])

  alarms = merge(
    {
      for kind, names in var.balancers : "${kind}-unhealthy" => {
        description = "A node is not ready for ${kind}s. One is missing during a rolling change; look at /readyz if it lasts."
        namespace   = "AWS/NetworkELB", metric = "UnHealthyHostCount", statistic = "Maximum", comparison = "GreaterThanThreshold"
        threshold   = 0, period = 60, periods = 5, missing = "notBreaching"
        dimensions  = { LoadBalancer = names.balancer, TargetGroup = names.targets }
      }
    },
    {
      for kind, names in var.balancers : "${kind}-none" => {
        description = "No node takes ${kind}s: the region is lost for them."
        namespace   = "AWS/NetworkELB", metric = "HealthyHostCount", statistic = "Minimum", comparison = "LessThanThreshold"
        threshold   = 1, period = 60, periods = 1, missing = "breaching"
        dimensions  = { LoadBalancer = names.balancer, TargetGroup = names.targets }
      }
    },
    {
      for name, id in var.instances : "${name}-status" => {
        description = "The machine of ${name} fails its checks: replace it by terraform/bin/roll."
        namespace   = "AWS/EC2", metric = "StatusCheckFailed", statistic = "Maximum", comparison = "GreaterThanThreshold"
        threshold   = 0, period = 60, periods = 3, missing = "breaching"
        dimensions  = { InstanceId = id }
      }
    },
    {
      # Each commit waits for the disks of a majority. A queue that stays is a disk that is too slow.
      for name, id in var.volumes : "${name}-disk-queue" => {
        description = "Writes of ${name} wait for its disk: raise the volume's IOPS."
        namespace   = "AWS/EBS", metric = "VolumeQueueLength", statistic = "Average", comparison = "GreaterThanThreshold"
        threshold   = 8, period = 60, periods = 10, missing = "notBreaching"
        dimensions  = { VolumeId = id }
      }
    },
    var.metrics_namespace == null ? {} : {
      "groups" = {
        description = "A node hears no quorum of a group: see \"A group is in trouble\" in docs/metrics.md."
        namespace   = var.metrics_namespace, metric = "pontoon_group_connected", statistic = "Minimum", comparison = "LessThanThreshold"
        threshold   = 1, period = 60, periods = 2, missing = "breaching"
        dimensions  = { cluster = var.cluster, region = var.name }
      }
    },
  )
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  region              = var.location
  alarm_name          = "${local.prefix}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  period              = each.value.period
  evaluation_periods  = each.value.periods
  treat_missing_data  = each.value.missing
  alarm_actions       = local.here
  ok_actions          = local.here
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "outside" {
  count               = var.outside == null ? 0 : 1
  region              = "us-east-1"
  alarm_name          = "${local.prefix}-outside"
  alarm_description   = "The region does not answer to checks from outside, so DNS sends clients elsewhere."
  namespace           = "AWS/Route53"
  metric_name         = "HealthCheckStatus"
  dimensions          = { HealthCheckId = var.outside.health_check_id }
  statistic           = "Minimum"
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  period              = 60
  evaluation_periods  = 1
  treat_missing_data  = "breaching"
  alarm_actions       = lookup(var.topics, "us-east-1", [])
  ok_actions          = lookup(var.topics, "us-east-1", [])
  tags                = var.tags
}

locals {
  widgets = [
    {
      title   = "Nodes that are ready", stat = "Minimum"
      metrics = [for kind, names in var.balancers : ["AWS/NetworkELB", "HealthyHostCount", "LoadBalancer", names.balancer, "TargetGroup", names.targets, { label = kind }]]
    },
    {
      title = "New and active connections", stat = "Sum"
      metrics = concat([
        for kind, names in var.balancers : [for metric in ["NewFlowCount", "ActiveFlowCount"] : ["AWS/NetworkELB", metric, "LoadBalancer", names.balancer, { label = "${kind} ${metric}" }]]
      ]...)
    },
    {
      title   = "Processors, in percent", stat = "Maximum"
      metrics = [for name, id in var.instances : ["AWS/EC2", "CPUUtilization", "InstanceId", id, { label = name }]]
    },
    {
      title   = "Writes that wait for a disk", stat = "Average"
      metrics = [for name, id in var.volumes : ["AWS/EBS", "VolumeQueueLength", "VolumeId", id, { label = name }]]
    },
  ]
}

resource "aws_cloudwatch_dashboard" "this" {
  region         = var.location
  dashboard_name = local.prefix
  dashboard_body = jsonencode({
    widgets = [
      for index, widget in local.widgets : {
        type   = "metric"
        x      = 12 * (index % 2)
        y      = 6 * floor(index / 2)
        width  = 12
        height = 6
        properties = {
          title   = widget.title
          region  = var.location
          stat    = widget.stat
          period  = 60
          metrics = widget.metrics
        }
      }
    ]
  })
}
