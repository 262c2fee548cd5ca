# Remembers how many nodes each region was founded with.
#
# The list of first members is a part of the cluster's id, so it must not follow the number of nodes
# when that changes. An explicit founding_nodes wins, and outlives the loss of the state.

terraform {
  required_version = ">= 1.9"
}

variable "regions" {
  description = "The regions with the number of their nodes, and of their first members where that is said."
  type        = map(object({ nodes = number, founding_nodes = optional(number) }))
  nullable    = false
}

resource "terraform_data" "first" {
  input = { for name, region in var.regions : name => region.nodes }

  lifecycle {
    ignore_changes = [input]
  }
}

output "nodes" {
  description = "The number of first members by region; 0 for a region that came later."
  value = {
    for name, region in var.regions : name => (
      region.founding_nodes != null ? region.founding_nodes : try(terraform_data.first.output[name], 0)
    )
  }
}
