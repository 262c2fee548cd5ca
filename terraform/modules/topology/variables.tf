variable "cluster" {
  description = "The cluster's name, which certificates carry, and what its groups outlive: the loss of any region, or only of nodes and zones at home."
  type = object({
    name    = string
    survive = optional(string, "region")
  })
  nullable = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.cluster.name))
    error_message = "cluster.name must be a DNS label (a-z, 0-9, inner hyphens, at most 63 characters), because certificates carry it: \"${var.cluster.name}\"."
  }
  validation {
    condition     = contains(["region", "zone"], var.cluster.survive)
    error_message = "cluster.survive must be \"region\" or \"zone\", not \"${var.cluster.survive}\"."
  }
}

variable "regions" {
  description = "The regions by name. A node's place follows from its number, so zones are fixed once a region has nodes. subnets are ranges by zone where a network exists already. founding_nodes is how many of them were among the first members, null for all and 0 for a region that was added later; it never changes afterwards."
  type = map(object({
    cidr           = string
    zones          = list(string)
    nodes          = number
    founding_nodes = optional(number)
    location       = optional(string)
    subnets        = optional(map(object({ nodes = string, edge = string })))
  }))
  nullable = false

  validation {
    condition     = length(var.regions) > 0
    error_message = "regions is empty: a cluster needs at least one."
  }
  validation {
    # A node's name is "<region>-<number>" and a label, too; four characters are kept for "-" and the number.
    condition     = alltrue([for name, _ in var.regions : can(regex("^[a-z0-9]([a-z0-9-]{0,57}[a-z0-9])?$", name))])
    error_message = "Each region's name must be a DNS label of at most 59 characters: ${join(", ", keys(var.regions))}."
  }
  validation {
    # Node names have to be unique: "a" with an eleventh node and "a-1" with a first one would both have an "a-1-1" otherwise.
    condition = length(distinct(flatten([for name, region in var.regions : [for n in range(max(region.nodes, 0)) : "${name}-${n + 1}"]]))) == sum(concat([0], [
      for region in values(var.regions) : max(floor(region.nodes), 0)
    ]))
    error_message = "Two regions would have nodes of the same name: rename one of ${join(", ", keys(var.regions))}."
  }
  validation {
    condition     = alltrue([for region in values(var.regions) : region.nodes >= 0 && region.nodes <= 40 && floor(region.nodes) == region.nodes])
    error_message = "Each region has between 0 and 40 nodes, whole ones: ${join(", ", [for name, region in var.regions : "${name} has ${region.nodes}"])}."
  }
  validation {
    condition = alltrue([
      for region in values(var.regions) : region.founding_nodes == null ? true : region.founding_nodes >= 0 && region.founding_nodes <= 40 && floor(region.founding_nodes) == region.founding_nodes
    ])
    error_message = "founding_nodes is null or a whole number from 0 to 40."
  }
  validation {
    condition     = sum(concat([0], [for region in values(var.regions) : region.founding_nodes == null ? region.nodes : region.founding_nodes])) > 0
    error_message = "No region has a founding node: somebody must found the cluster. Only a region that was added later has founding_nodes = 0."
  }
  validation {
    condition     = alltrue([for region in values(var.regions) : can(cidrhost(region.cidr, 0)) && can(regex("^[0-9.]+/(1[6-9]|2[0-2])$", region.cidr))])
    error_message = "Each region's cidr must be an IPv4 range between /16 and /22, so that each zone has room for its nodes: ${join(", ", [for name, region in var.regions : "${name} has ${region.cidr}"])}."
  }
  validation {
    # Two ranges overlap exactly when one contains the other's first address, and the shorter prefix contains.
    condition = alltrue(flatten([
      for a, first in var.regions : [
        for b, second in var.regions : a == b ? true : try(
          cidrhost("${cidrhost(first.cidr, 0)}/${min(split("/", first.cidr)[1], split("/", second.cidr)[1])}", 0) !=
          cidrhost("${cidrhost(second.cidr, 0)}/${min(split("/", first.cidr)[1], split("/", second.cidr)[1])}", 0),
        true)
      ]
    ]))
    error_message = "Overlapping ranges can't be routed to each other: ${join(", ", [for name, region in var.regions : "${name} has ${region.cidr}"])}."
  }
  validation {
    condition     = alltrue([for region in values(var.regions) : length(region.zones) >= 1 && length(region.zones) <= 8 && length(distinct(region.zones)) == length(region.zones)])
    error_message = "Each region names between 1 and 8 zones, each once."
  }
  validation {
    condition     = alltrue([for region in values(var.regions) : region.subnets == null ? true : length(setsubtract(region.zones, keys(region.subnets))) == 0])
    error_message = "A region that has subnets has them for each of its zones."
  }
  validation {
    # With "zone" a region's voters are at home. Two zones always have one that holds a majority, so only three outlive the loss of any.
    condition     = alltrue([for region in values(var.regions) : var.cluster.survive == "region" || region.nodes == 0 || length(region.zones) >= 3])
    error_message = "Too few zones: survive = \"zone\" needs three in each region, because of two zones one holds a majority of the voters. ${join(", ", [for name, region in var.regions : "${name} has ${length(region.zones)}" if length(region.zones) < 3])}."
  }
  validation {
    condition     = alltrue([for region in values(var.regions) : length(region.zones) >= min(region.nodes, 2)])
    error_message = "Too few zones: a region of two or more nodes needs two, or the loss of one zone is the loss of the region. ${join(", ", [for name, region in var.regions : "${name} has ${length(region.zones)} for ${region.nodes} nodes" if length(region.zones) < min(region.nodes, 2)])}."
  }
  validation {
    # The placement takes the largest odd number of nodes, so the fourth (or second) node of a lone region never votes.
    condition = alltrue([
      for region in values(var.regions) : var.cluster.survive == "region" && length(var.regions) >= 3 || region.nodes == 0 || region.nodes >= 5 || region.nodes % 2 == 1
    ])
    error_message = "An even number of voters outlives no more losses than one fewer: where voters stay at home (survive = \"zone\", or fewer than three regions) a region has 1, 3 or at least 5 nodes. ${join(", ", [for name, region in var.regions : "${name} has ${region.nodes}" if contains([2, 4], region.nodes)])}."
  }
  validation {
    # A node that starts with an empty folder takes its place in the list only when more than half of the others vouch for it: with two nodes that is "all others", for ever.
    condition     = sum(concat([0], [for region in values(var.regions) : region.founding_nodes == null ? region.nodes : region.founding_nodes])) != 2
    error_message = "Two founding nodes are an even number of voters, and outlive the loss of neither: found the cluster with one, or with three."
  }
}

variable "running" {
  description = "How many nodes run in each region now, as `pontoon node list` says, to have a change refused that takes away more than the groups outlive. Empty: unknown, not checked."
  type        = map(number)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name, _ in var.running : contains(keys(var.regions), name)])
    error_message = "running names unknown regions: ${join(", ", setsubtract(keys(var.running), keys(var.regions)))}. A region is emptied (nodes = 0) and removed (`pontoon region remove`) before it leaves regions."
  }
  validation {
    # Groups have the largest odd number of voters up to five, and outlive the loss of (voters - 1) / 2 of them. With fewer than three regions, or with survive = "zone", the voters of a region's group are at home.
    condition = length(var.running) == 0 ? true : alltrue([
      for scope in(var.cluster.survive == "region" && length([for n in values(var.running) : n if n > 0]) >= 3 ? [keys(var.running)] : [for name in keys(var.running) : [name]]) :
      sum([for name in scope : max(var.running[name] - try(var.regions[name].nodes, 0), 0)]) <=
      max(0, floor((min(5, sum([for name in scope : var.running[name]]) - (sum([for name in scope : var.running[name]]) + 1) % 2) - 1) / 2))
    ])
    error_message = "This change takes away more nodes at once than the groups outlive: ${join(", ", [for name, n in var.running : "${name} from ${n} to ${try(var.regions[name].nodes, 0)}" if n > try(var.regions[name].nodes, 0)])}. Take them away in steps, and wait between them until `pontoon group list` shows a failure tolerance again."
  }
}

variable "ports" {
  description = "The port of each listener, the same on every node. dns is for the nodes' own DNS answers, where they are switched on."
  type = object({
    client     = optional(number, 10081)
    client_tls = optional(number, 10443)
    worker     = optional(number, 10086)
    peer       = optional(number, 10085)
    admin      = optional(number, 10080)
    ops        = optional(number, 10083)
    dns        = optional(number, 10053)
  })
  default  = {}
  nullable = false

  validation {
    condition     = length(distinct(values(var.ports))) == length(values(var.ports))
    error_message = "No two listeners share a port: ${jsonencode(var.ports)}."
  }
  validation {
    condition     = alltrue([for port in values(var.ports) : port >= 1024 && port <= 65535])
    error_message = "Ports are between 1024 and 65535, because nodes run without privileges: ${jsonencode(var.ports)}."
  }
}

variable "certificates" {
  description = "The nodes that have a certificate, or null where certificates are made on the way, as by the local module."
  type        = set(string)
  default     = null

  validation {
    condition     = var.certificates == null ? true : length(setsubtract(flatten([for name, region in var.regions : [for n in range(region.nodes) : "${name}-${n + 1}"]]), var.certificates)) == 0
    error_message = "Missing certificates: ${var.certificates == null ? "" : join(", ", sort(setsubtract(flatten([for name, region in var.regions : [for n in range(region.nodes) : "${name}-${n + 1}"]]), var.certificates)))}. Each node needs its own, see terraform/README.md."
  }
}

variable "platform" {
  description = "What the names of locations and zones have to look like: \"aws\", or \"any\"."
  type        = string
  default     = "any"
  nullable    = false

  validation {
    condition     = contains(["aws", "any"], var.platform)
    error_message = "platform is \"aws\" or \"any\", not \"${var.platform}\"."
  }
  validation {
    condition = var.platform == "any" ? true : alltrue([
      for name, region in var.regions : can(regex("^(af|ap|ca|eu|il|me|mx|sa|us)(-gov)?-(central|east|north|northeast|northwest|south|southeast|southwest|west)-[1-9]$", coalesce(region.location, name)))
    ])
    error_message = "Unknown region names: ${join(", ", [for name, region in var.regions : coalesce(region.location, name) if !can(regex("^(af|ap|ca|eu|il|me|mx|sa|us)(-gov)?-(central|east|north|northeast|northwest|south|southeast|southwest|west)-[1-9]$", coalesce(region.location, name)))])}. A region is called as AWS calls it, or has its AWS name as location."
  }
  validation {
    condition = var.platform == "any" ? true : alltrue([
      for name, region in var.regions : alltrue([for zone in region.zones : startswith(zone, coalesce(region.location, name))])
    ])
    error_message = "Zones of another region: ${join(", ", flatten([for name, region in var.regions : [for zone in region.zones : "${zone} in ${name}" if !startswith(zone, coalesce(region.location, name))]]))}."
  }
}
