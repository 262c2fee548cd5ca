variables {
  cluster = { name = "prod", survive = "region" }
  nodes = {
    us-east-1-1 = { name = "us-east-1-1", region = "us-east-1", address = "10.0.0.11", founding = true }
    us-east-1-2 = { name = "us-east-1-2", region = "us-east-1", address = "10.0.0.12", founding = false }
  }
  members = [{ name = "us-east-1-1", region = "us-east-1", peer = "10.0.0.11:10085" }]
  ports   = { client = 10081, client_tls = 10443, worker = 10086, peer = 10085, admin = 10080, ops = 10083 }
  paths = {
    data        = "/var/lib/pontoon/data"
    join_token  = "/run/pontoon/join-token"
    ca          = "/run/pontoon/ca.pem"
    cert        = "/run/pontoon/{node}.pem"
    key         = "/run/pontoon/{node}.key"
    client_cert = "/run/pontoon/client.pem"
    client_key  = "/run/pontoon/client.key"
  }
  client_balancers = ["10.0.128.0/20"]
}

run "a_founder_has_the_members_and_does_not_join" {
  command = plan
  assert {
    condition     = output.files["us-east-1-1"] == <<-EOT
      name = "us-east-1-1"
      region = "us-east-1"
      data_dir = "/var/lib/pontoon/data"

      [cluster]
      name = "prod"
      join_token_file = "/run/pontoon/join-token"
      survive = "region"
      join = false

      [[cluster.members]]
      name = "us-east-1-1"
      region = "us-east-1"
      peer = "10.0.0.11:10085"

      [listen]
      admin = "10.0.0.11:10080"
      client = "127.0.0.1:10081"
      client_tls = "10.0.0.11:10443"
      ops = "127.0.0.1:10083"
      peer = "10.0.0.11:10085"
      worker = "10.0.0.11:10086"
      client_tls_proxy_from = ["10.0.128.0/20"]

      [advertise]
      client = "10.0.0.11:10443"

      [tls]
      ca_file = "/run/pontoon/ca.pem"
      cert_file = "/run/pontoon/us-east-1-1.pem"
      client_cert_file = "/run/pontoon/client.pem"
      client_key_file = "/run/pontoon/client.key"
      key_file = "/run/pontoon/us-east-1-1.key"

      [log]
      format = "text"
    EOT
    error_message = output.files["us-east-1-1"]
  }
}

run "a_later_node_joins" {
  command = plan
  assert {
    condition     = strcontains(output.files["us-east-1-2"], "\njoin = true\n") && strcontains(output.files["us-east-1-2"], "cert_file = \"/run/pontoon/us-east-1-2.pem\"")
    error_message = output.files["us-east-1-2"]
  }
}

run "another_node_changes_no_file" {
  command = plan
  variables {
    nodes = {
      us-east-1-1 = { name = "us-east-1-1", region = "us-east-1", address = "10.0.0.11", founding = true }
      us-east-1-3 = { name = "us-east-1-3", region = "us-east-1", address = "10.0.0.13", founding = false }
    }
  }
  assert {
    condition     = output.files["us-east-1-1"] == run.a_founder_has_the_members_and_does_not_join.files["us-east-1-1"]
    error_message = "A node more restarts one that was there."
  }
}

run "quotes_and_backslashes_stay_text" {
  command = plan
  variables {
    paths = {
      data       = "C:\\a \"b\"\n"
      join_token = "/t"
      ca         = "/ca"
      cert       = "/c"
      key        = "/k"
    }
    limits = { streams_max = 7 }
  }
  assert {
    condition     = strcontains(output.files["us-east-1-1"], "data_dir = \"C:\\\\a \\\"b\\\"\\n\"\n") && strcontains(output.files["us-east-1-1"], "[limits]\nstreams_max = 7\n")
    error_message = output.files["us-east-1-1"]
  }
}

run "missing_certificates_beyond_loopback" {
  command = plan
  variables {
    paths = { data = "/d", join_token = "/t" }
  }
  expect_failures = [var.paths]
}

run "a_certificate_without_its_key" {
  command = plan
  variables {
    paths = { data = "/d", join_token = "/t", ca = "/ca", cert = "/c" }
  }
  expect_failures = [var.paths]
}

run "a_clients_certificate_without_its_key" {
  command = plan
  variables {
    paths = { data = "/d", join_token = "/t", ca = "/ca", cert = "/c", key = "/k", client_cert = "/cc" }
  }
  expect_failures = [var.paths]
}

run "a_token_in_place_of_its_hash" {
  command = plan
  variables {
    admin_token_sha256 = "secret"
  }
  expect_failures = [var.admin_token_sha256]
}

run "no_first_member" {
  command = plan
  variables {
    members = []
  }
  expect_failures = [var.members]
}

run "an_unknown_log_format" {
  command = plan
  variables {
    log = { format = "xml" }
  }
  expect_failures = [var.log]
}

run "nodes_answer_dns_with_where_clients_reach_them" {
  command = plan
  variables {
    client_addresses = { us-east-1-2 = "198.51.100.7:443" }
    dns_service = {
      zone         = "grpc.example.com"
      name_servers = ["ns.us-east-1.example.com"]
      prefixes     = { "10.0.0.0/16" = "us-east-1", "2001:db8::/32" = "us-east-1" }
    }
  }
  assert {
    condition = strcontains(output.files["us-east-1-1"], <<-EOT

      [dns_service]
      listen = "10.0.0.11:10053"
      name_servers = ["ns.us-east-1.example.com"]
      zone = "grpc.example.com"

      [dns_service.prefixes]
      "10.0.0.0/16" = "us-east-1"
      "2001:db8::/32" = "us-east-1"

      [log]
    EOT
    )
    error_message = output.files["us-east-1-1"]
  }
  assert {
    condition     = strcontains(output.files["us-east-1-1"], "[advertise]\nclient = \"10.0.0.11:10443\"\n") && strcontains(output.files["us-east-1-2"], "[advertise]\nclient = \"198.51.100.7:443\"\n")
    error_message = "Answers of DNS would lead past the load balancer."
  }
}

run "clients_in_clear_text_reach_a_node_where_it_listens_for_them" {
  command = plan
  variables {
    client_clear = true
  }
  assert {
    condition     = !strcontains(output.files["us-east-1-1"], "[advertise]")
    error_message = output.files["us-east-1-1"]
  }
}

run "a_zone_that_is_no_name" {
  command = plan
  variables {
    dns_service = { zone = "grpc.example.com.", name_servers = ["ns.example.com"] }
  }
  expect_failures = [var.dns_service]
}

run "a_zone_without_servers" {
  command = plan
  variables {
    dns_service = { zone = "grpc.example.com", name_servers = [] }
  }
  expect_failures = [var.dns_service]
}

run "a_prefix_with_bits_behind_it" {
  command = plan
  variables {
    dns_service = { zone = "grpc.example.com", name_servers = ["ns.example.com"], prefixes = { "10.0.0.1/16" = "us-east-1" } }
  }
  expect_failures = [var.dns_service]
}

run "a_prefix_in_an_unknown_region" {
  command = plan
  variables {
    dns_service = { zone = "grpc.example.com", name_servers = ["ns.example.com"], prefixes = { "10.0.0.0/16" = "us-wset-1" } }
  }
  expect_failures = [var.dns_service]
}

run "a_ttl_of_no_time" {
  command = plan
  variables {
    dns_service = { zone = "grpc.example.com", name_servers = ["ns.example.com"], ttl_seconds = 0 }
  }
  expect_failures = [var.dns_service]
}

run "a_client_address_without_a_port" {
  command = plan
  variables {
    client_addresses = { us-east-1-2 = "198.51.100.7" }
  }
  expect_failures = [var.client_addresses]
}
