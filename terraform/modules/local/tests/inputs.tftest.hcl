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
