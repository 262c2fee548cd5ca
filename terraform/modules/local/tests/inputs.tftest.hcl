# What local clusters refuse, and that they decide as clusters elsewhere do. That they run is tests/local.py's.

variables {
  cluster = { name = "local" }
  regions = {
    us-east    = { cidr = "127.60.0.0/18", zones = ["a", "b", "c"], nodes = 1, founding_nodes = 1 }
    us-west    = { cidr = "127.60.64.0/18", zones = ["a", "b", "c"], nodes = 2, founding_nodes = 1 }
    eu-central = { cidr = "127.60.128.0/18", zones = ["a", "b", "c"], nodes = 1, founding_nodes = 1 }
  }
  # Nothing is started by a plan, so any file will do.
  binary = "main.tf"
  folder = "/tmp/pontoon-never-made"
  zone   = "local.pontoon.test"
}

run "the_same_inputs_give_the_same_cluster" {
  command = plan
  assert {
    condition     = output.nodes["us-west-2"].client == "127.60.68.12:10081" && length(output.members) == 3
    error_message = jsonencode(output.nodes)
  }
  assert {
    condition     = strcontains(output.files["us-west-2"], "join = true\n") && strcontains(output.files["us-west-1"], "join = false\n")
    error_message = "Who joins and who founds is wrong."
  }
  assert {
    condition     = strcontains(output.files["us-west-1"], "ca_file = \"/tmp/pontoon-never-made/tls/ca.pem\"") && !strcontains(output.files["us-west-1"], "insecure")
    error_message = "A local cluster talks TLS unless told not to."
  }
}

run "each_node_answers_for_the_zone_with_where_clients_reach_it" {
  command = plan
  assert {
    condition = strcontains(output.files["us-west-2"], <<-EOT
      [dns_service]
      listen = "127.60.68.12:10053"
      name_servers = ["eu-central-1.client.local.pontoon.test","us-east-1.client.local.pontoon.test","us-west-1.client.local.pontoon.test"]
      zone = "local.pontoon.test"

      [dns_service.prefixes]
      "127.60.0.0/18" = "us-east"
      "127.60.128.0/18" = "eu-central"
      "127.60.64.0/18" = "us-west"
    EOT
    )
    error_message = output.files["us-west-2"]
  }
  assert {
    condition     = output.nodes["us-west-2"].dns == "127.60.68.12:10053" && !strcontains(output.files["us-west-2"], "[advertise]")
    error_message = "Clients would be sent elsewhere than to the ports of this example."
  }
}

run "a_later_region_changes_no_file" {
  command = plan
  variables {
    regions = {
      us-east    = { cidr = "127.60.0.0/18", zones = ["a", "b", "c"], nodes = 1, founding_nodes = 1 }
      us-west    = { cidr = "127.60.64.0/18", zones = ["a", "b", "c"], nodes = 2, founding_nodes = 1 }
      eu-central = { cidr = "127.60.128.0/18", zones = ["a", "b", "c"], nodes = 1, founding_nodes = 1 }
      ap-south   = { cidr = "127.60.192.0/18", zones = ["a", "b", "c"], nodes = 1, founding_nodes = 0 }
    }
  }
  assert {
    condition     = output.files["us-west-2"] == run.the_same_inputs_give_the_same_cluster.files["us-west-2"]
    error_message = "A region more would start every node again."
  }
}

run "an_unknown_region_is_lost" {
  command = plan
  variables {
    lost = ["us-wset"]
  }
  expect_failures = [var.lost]
}

run "two_lost_regions_would_lose_the_quorum" {
  command = plan
  variables {
    lost = ["us-east", "us-west"]
  }
  expect_failures = [var.lost]
}

run "a_range_beyond_loopback" {
  command = plan
  variables {
    regions = { us-east = { cidr = "10.0.0.0/16", zones = ["a"], nodes = 1 } }
  }
  expect_failures = [var.regions]
}

run "a_binary_that_is_not_there" {
  command = plan
  variables {
    binary = "no/such/file"
  }
  expect_failures = [var.binary]
}

run "a_folder_that_depends_on_where_one_stands" {
  command = plan
  variables {
    folder = "data"
  }
  expect_failures = [var.folder]
}

run "half_a_worker" {
  command = plan
  variables {
    workers_per_region = 0.5
  }
  expect_failures = [var.workers_per_region]
}
