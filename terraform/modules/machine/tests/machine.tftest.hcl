variables {
  nodes = {
    us-east-1-1 = {
      address = "10.0.0.11"
      device  = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"
      config  = "name = \"us-east-1-1\"\njoin_token_file = \"/run/pontoon/join-token\"\n"
      secrets = {
        "/run/pontoon/join-token" = { arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:pontoon/join-AbCdEf" }
        "/run/pontoon/node.pem"   = { arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:pontoon/node-AbCdEf", key = "cert" }
      }
    }
  }
  release = { url = "https://example.com/pontoon", sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }
}

run "everything_that_a_node_needs_is_in_its_user_data" {
  command = plan
  assert {
    condition     = startswith(output.user_data["us-east-1-1"], "#cloud-config\n") && can(yamldecode(output.user_data["us-east-1-1"]))
    error_message = "The user data is no cloud-config."
  }
  assert {
    condition = toset([for file in yamldecode(output.user_data["us-east-1-1"]).write_files : file.path]) == toset([
      "/usr/local/lib/pontoon/install", "/usr/local/lib/pontoon/mount-data", "/usr/local/lib/pontoon/fetch-secrets",
      "/etc/systemd/system/pontoon.service", "/etc/systemd/system/pontoon-data.service",
      "/etc/systemd/system/pontoon-secrets.service", "/etc/systemd/system/pontoon-secrets.timer",
      "/etc/systemd/system/pontoon-ops.socket", "/etc/systemd/system/pontoon-ops.service",
      "/etc/pontoon/node.toml", "/etc/pontoon/secrets",
    ])
    error_message = "A file is missing, or one too many."
  }
  assert {
    condition = one([for file in yamldecode(output.user_data["us-east-1-1"]).write_files : file.content if file.path == "/etc/pontoon/secrets"]) == join("", [
      "/run/pontoon/join-token\tarn:aws:secretsmanager:us-east-1:123456789012:secret:pontoon/join-AbCdEf\t-\n",
      "/run/pontoon/node.pem\tarn:aws:secretsmanager:us-east-1:123456789012:secret:pontoon/node-AbCdEf\tcert\n",
    ])
    error_message = "The list of secrets is not what fetch-secrets reads."
  }
  assert {
    condition     = strcontains(output.units["us-east-1-1"]["pontoon-ops.socket"], "ListenStream=10.0.0.11:10083\n") && strcontains(output.units["us-east-1-1"]["pontoon-ops.service"], " 127.0.0.1:10083\n")
    error_message = "Probes do not reach the node."
  }
  assert {
    condition     = strcontains(output.units["us-east-1-1"]["pontoon-data.service"], "mount-data /dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0 /var/lib/pontoon pontoon\n")
    error_message = "The wrong volume is mounted."
  }
  assert {
    condition     = yamldecode(output.user_data["us-east-1-1"]).runcmd[0][2] == var.release.sha256
    error_message = "The digest of the release is not compared."
  }
}

run "missing_certificates" {
  command = plan
  variables {
    nodes = {
      a = { address = "10.0.0.11", device = "/dev/x", config = "key_file = \"/run/pontoon/node.key\"\n", secrets = {} }
    }
  }
  expect_failures = [var.nodes]
}

run "a_secret_on_disk" {
  command = plan
  variables {
    nodes = {
      a = { address = "10.0.0.11", device = "/dev/x", config = "", secrets = { "/etc/key" = { arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:x" } } }
    }
  }
  expect_failures = [var.nodes]
}

run "a_release_over_clear_text" {
  command = plan
  variables {
    release = { url = "http://example.com/pontoon", sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }
  }
  expect_failures = [var.release]
}

run "a_release_without_its_digest" {
  command = plan
  variables {
    release = { url = "https://example.com/pontoon", sha256 = "latest" }
  }
  expect_failures = [var.release]
}
