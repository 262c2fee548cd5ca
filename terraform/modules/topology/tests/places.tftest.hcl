variables {
  cluster = { name = "prod" }
  regions = {
    us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3 }
    us-west-2    = { cidr = "10.1.0.0/16", zones = ["us-west-2a", "us-west-2b"], nodes = 3 }
    eu-central-1 = { cidr = "10.2.0.0/20", zones = ["eu-central-1a", "eu-central-1b"], nodes = 2 }
  }
  platform = "aws"
}

run "nodes_are_spread_over_zones" {
  command = plan
  assert {
    condition     = [for n in range(1, 4) : output.nodes["us-east-1-${n}"].zone] == ["us-east-1a", "us-east-1b", "us-east-1c"]
    error_message = "The nodes of us-east-1 are not one a zone."
  }
  assert {
    condition     = [for n in range(1, 4) : output.nodes["us-west-2-${n}"].zone] == ["us-west-2a", "us-west-2b", "us-west-2a"]
    error_message = "The nodes of us-west-2 do not go around its zones."
  }
}

run "addresses_lie_in_the_subnet_of_their_zone_and_are_unique" {
  command = plan
  assert {
    condition = alltrue([
      for node in values(output.nodes) :
      cidrhost("${node.address}/${split("/", output.regions[node.region].subnets[node.zone].nodes)[1]}", 0) == cidrhost(output.regions[node.region].subnets[node.zone].nodes, 0)
    ])
    error_message = "A node's address is outside of its zone's subnet."
  }
  assert {
    condition     = length(distinct([for node in values(output.nodes) : node.address])) == 8
    error_message = "Two nodes share an address."
  }
  assert {
    condition     = output.nodes["us-east-1-1"].address == "10.0.0.11" && output.nodes["eu-central-1-2"].address == "10.2.1.12"
    error_message = "Addresses have moved: nodes that run would be replaced."
  }
}

run "a_node_more_moves_nobody_and_changes_no_first_member" {
  command = plan
  variables {
    regions = {
      us-east-1      = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 11, founding_nodes = 3 }
      us-west-2      = { cidr = "10.1.0.0/16", zones = ["us-west-2a", "us-west-2b"], nodes = 2, founding_nodes = 3 }
      eu-central-1   = { cidr = "10.2.0.0/20", zones = ["eu-central-1a", "eu-central-1b"], nodes = 2 }
      ap-northeast-1 = { cidr = "10.3.0.0/16", zones = ["ap-northeast-1a", "ap-northeast-1c"], nodes = 2, founding_nodes = 0 }
    }
  }
  assert {
    condition     = output.nodes["us-east-1-1"].address == "10.0.0.11" && output.nodes["us-east-1-3"].zone == "us-east-1c"
    error_message = "A node that was there has moved."
  }
  assert {
    condition = [for member in output.members : member.name] == [
      "eu-central-1-1", "eu-central-1-2", "us-east-1-1", "us-east-1-2", "us-east-1-3", "us-west-2-1", "us-west-2-2", "us-west-2-3"
    ]
    error_message = "The list of first members, a part of the cluster's id, has changed."
  }
  assert {
    condition     = !output.nodes["us-east-1-4"].founding && !output.nodes["ap-northeast-1-1"].founding && output.nodes["us-west-2-2"].founding
    error_message = "Who joins and who founds is wrong."
  }
  assert {
    condition     = !contains(keys(output.nodes), "us-west-2-3") && length(output.nodes) == 17
    error_message = "A first member that has left must not run."
  }
}

run "the_first_ten_members_are_in_the_order_of_numbers" {
  command = plan
  variables {
    regions  = { r = { cidr = "10.0.0.0/16", zones = ["a", "b", "c"], nodes = 11 } }
    platform = "any"
  }
  assert {
    condition     = output.members[1].name == "r-2" && output.members[10].name == "r-11"
    error_message = "Members are not in the order of their numbers."
  }
}

run "a_network_that_exists_keeps_its_subnets" {
  command = plan
  variables {
    platform = "any"
    regions = {
      r = {
        cidr = "10.0.0.0/16", zones = ["a", "b", "c"], nodes = 3
        subnets = {
          a = { nodes = "10.0.8.0/24", edge = "10.0.16.0/28" }
          b = { nodes = "10.0.9.0/24", edge = "10.0.17.0/28" }
          c = { nodes = "10.0.10.0/24", edge = "10.0.18.0/28" }
        }
      }
    }
  }
  assert {
    condition     = output.nodes["r-2"].address == "10.0.9.12" && output.members[2].peer == "10.0.10.13:10085" && output.regions["r"].subnets["c"].edge == "10.0.18.0/28"
    error_message = jsonencode(output.nodes)
  }
}
