variables {
  nodes          = ["workers.us-east-1.pontoon.example.com:10086", "10.0.0.11:10086"]
  region         = "us-east-1"
  known_regions  = ["us-east-1", "us-west-2"]
  worker_key_arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:worker-AbCdEf"
  ca_arn         = "arn:aws:secretsmanager:us-east-1:123456789012:secret:ca-AbCdEf"
  release        = { url = "s3://bucket/pontoon", sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }
  slots          = 8
}

run "the_sidecar_attaches_by_tls_in_its_region" {
  command = plan
  assert {
    condition     = strcontains(output.units["pontoon-sidecar.service"], "ExecStart=/usr/local/bin/pontoon sidecar --worker 127.0.0.1:8001 --region us-east-1 --nodes workers.us-east-1.pontoon.example.com:10086,10.0.0.11:10086 --worker-key-file /run/pontoon/worker-key --ca-file /run/pontoon/ca.pem --health grpc --ops 127.0.0.1:10087 --drain-timeout 300 --slots 8\n")
    error_message = output.units["pontoon-sidecar.service"]
  }
  assert {
    condition     = strcontains(output.units["pontoon-sidecar.service"], "TimeoutStopSec=330\n")
    error_message = "systemd would kill it before sessions had their time."
  }
  assert {
    condition     = length(yamldecode(output.user_data).write_files) == 6
    error_message = "A file is missing, or one too many."
  }
}

run "an_unknown_region_name" {
  command = plan
  variables {
    region = "us-wset-2"
  }
  expect_failures = [var.region]
}

run "no_node" {
  command = plan
  variables {
    nodes = []
  }
  expect_failures = [var.nodes]
}

run "an_argument_in_a_path" {
  command = plan
  variables {
    health = "http:/ok --insecure"
  }
  expect_failures = [var.health]
}

run "a_key_in_place_of_its_secret" {
  command = plan
  variables {
    worker_key_arn = "pnt_w_something"
  }
  expect_failures = [var.worker_key_arn]
}

run "missing_certificates" {
  command = plan
  variables {
    ca_arn = ""
  }
  expect_failures = [var.ca_arn]
}
