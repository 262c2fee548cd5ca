variables {
  service = "pontoon.example.com"
  regions = {
    us-east-1    = { location = "us-east-1", client = { ipv4 = ["192.0.2.2", "192.0.2.1"] }, worker = { ipv4 = ["192.0.2.3"] } }
    eu-central-1 = { location = "eu-central-1", client = { ipv4 = ["192.0.2.9"], ipv6 = ["2001:db8::9"] }, worker = {} }
  }
  nodes = {
    us-east-1-1    = { region = "us-east-1", address = "10.0.0.11" }
    us-east-1-2    = { region = "us-east-1", address = "10.0.1.12" }
    eu-central-1-1 = { region = "eu-central-1", address = "10.2.0.11" }
  }
}

run "clients_get_the_nearest_healthy_region_with_a_low_ttl" {
  command = plan
  assert {
    condition = output.records["pontoon.example.com A us-east-1"] == {
      key   = "pontoon.example.com A us-east-1", name = "pontoon.example.com", type = "A", ttl = 15, values = tolist(["192.0.2.1", "192.0.2.2"])
      scope = "public", location = "us-east-1", set = "us-east-1", health = "us-east-1"
    }
    error_message = jsonencode(output.records["pontoon.example.com A us-east-1"])
  }
  assert {
    condition     = output.records["workers.pontoon.example.com A us-east-1"].health == "us-east-1"
    error_message = "Sidecars would be sent to a region that is lost."
  }
  assert {
    condition     = output.records["pontoon.example.com AAAA eu-central-1"].values == tolist(["2001:db8::9"]) && !contains(keys(output.records), "pontoon.example.com AAAA us-east-1")
    error_message = "IPv6 addresses are where there are none, or missing where there are."
  }
  assert {
    condition     = output.records["eu-central-1.pontoon.example.com A"].values == tolist(["192.0.2.9"]) && output.records["workers.us-east-1.pontoon.example.com A"].values == tolist(["192.0.2.3"])
    error_message = "A region can't be called by its name."
  }
}

run "peers_are_found_by_srv_records_in_the_private_zone" {
  command = plan
  assert {
    condition = output.records["_pontoon-peer._tcp.internal.pontoon.example.com SRV"].values == tolist([
      "0 0 10085 eu-central-1-1.nodes.internal.pontoon.example.com.",
      "0 0 10085 us-east-1-1.nodes.internal.pontoon.example.com.",
      "0 0 10085 us-east-1-2.nodes.internal.pontoon.example.com.",
    ])
    error_message = jsonencode(output.records["_pontoon-peer._tcp.internal.pontoon.example.com SRV"])
  }
  assert {
    condition     = length(output.records["_pontoon-worker._tcp.us-east-1.internal.pontoon.example.com SRV"].values) == 2
    error_message = "A region's SRV record names nodes of another one."
  }
  assert {
    condition     = alltrue([for record in values(output.records) : record.scope == (startswith(record.values[0], "10.") || record.type == "SRV" ? "private" : "public")])
    error_message = "A private address is public, or the reverse."
  }
  assert {
    # A network that knows the private zone asks nobody else for what is below its name.
    condition     = alltrue([for record in values(output.records) : endswith(record.name, ".${output.private_zone}") == (record.scope == "private")])
    error_message = "The private zone would hide a public name, or lacks a private one."
  }
  assert {
    condition = alltrue(flatten([
      for record in values(output.records) : record.type != "SRV" ? [true] : [
        for value in record.values : contains(keys(output.records), "${trimsuffix(split(" ", value)[3], ".")} A")
      ]
    ]))
    error_message = "An SRV record names a target without an address (RFC 2782)."
  }
}

run "two_regions_at_one_location" {
  command = plan
  variables {
    regions = {
      a = { location = "us-east-1", client = { ipv4 = ["192.0.2.1"] }, worker = {} }
      b = { location = "us-east-1", client = { ipv4 = ["192.0.2.2"] }, worker = {} }
    }
    nodes = {}
  }
  expect_failures = [var.regions]
}

run "a_region_that_clients_cannot_reach" {
  command = plan
  variables {
    regions = { a = { location = "us-east-1", client = {}, worker = {} } }
    nodes   = {}
  }
  expect_failures = [var.regions]
}

run "a_region_with_the_name_of_the_private_zone" {
  command = plan
  variables {
    regions = { internal = { location = "us-east-1", client = { ipv4 = ["192.0.2.1"] }, worker = {} } }
    nodes   = {}
  }
  expect_failures = [var.regions]
}

run "a_node_of_an_unknown_region" {
  command = plan
  variables {
    nodes = { x-1 = { region = "x", address = "10.0.0.1" } }
  }
  expect_failures = [var.nodes]
}

run "a_name_with_a_dot_at_its_end" {
  command = plan
  variables {
    service = "pontoon.example.com."
  }
  expect_failures = [var.service]
}

run "a_ttl_that_keeps_clients_at_a_lost_region" {
  command = plan
  variables {
    ttl = 300
  }
  expect_failures = [var.ttl]
}

run "a_zone_is_delegated_to_the_nodes" {
  command = plan
  variables {
    delegation = {
      zone = "near.pontoon.example.com"
      servers = {
        "ns1.us-east-1.pontoon.example.com"    = { ipv4 = ["192.0.2.21"] }
        "ns1.eu-central-1.pontoon.example.com" = { ipv4 = ["192.0.2.29"], ipv6 = ["2001:db8::29"] }
      }
    }
  }
  assert {
    condition     = output.records["near.pontoon.example.com NS"].values == tolist(["ns1.eu-central-1.pontoon.example.com.", "ns1.us-east-1.pontoon.example.com."])
    error_message = jsonencode(output.records["near.pontoon.example.com NS"])
  }
  assert {
    condition = alltrue([
      for server in output.records["near.pontoon.example.com NS"].values : contains(keys(output.records), "${trimsuffix(server, ".")} A")
    ])
    error_message = "A server of the zone has no address."
  }
  assert {
    condition     = output.records["ns1.eu-central-1.pontoon.example.com AAAA"].values == tolist(["2001:db8::29"]) && output.records["ns1.us-east-1.pontoon.example.com A"].scope == "public"
    error_message = jsonencode(output.records)
  }
}

run "the_services_own_name_is_delegated" {
  command = plan
  variables {
    delegation = { zone = "example.com", servers = { "ns1.example.net" = { ipv4 = ["192.0.2.1"] }, "ns2.example.net" = { ipv4 = ["192.0.2.2"] } } }
  }
  expect_failures = [var.delegation]
}

run "a_zone_with_one_server" {
  command = plan
  variables {
    delegation = { zone = "near.pontoon.example.com", servers = { "ns1.example.net" = { ipv4 = ["192.0.2.1"] } } }
  }
  expect_failures = [var.delegation]
}

run "a_server_in_the_zone_that_it_answers_for" {
  command = plan
  variables {
    delegation = { zone = "near.pontoon.example.com", servers = { "ns1.near.pontoon.example.com" = { ipv4 = ["192.0.2.1"] }, "ns2.example.net" = { ipv4 = ["192.0.2.2"] } } }
  }
  expect_failures = [var.delegation]
}

run "a_delegated_zone_that_the_private_one_hides" {
  command = plan
  variables {
    delegation = { zone = "near.internal.pontoon.example.com", servers = { "ns1.example.net" = { ipv4 = ["192.0.2.1"] }, "ns2.example.net" = { ipv4 = ["192.0.2.2"] } } }
  }
  expect_failures = [var.delegation]
}
