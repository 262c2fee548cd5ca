# What a machine needs to be a node: cloud-init's user data with scripts, systemd units and configuration.
#
# The ops port has no TLS, so it stays on loopback and a socket unit forwards to it from the network; that
# keeps `insecure` off, which would also let sidecars in clear text come. The image brings cloud-init, systemd
# 245 or later, bash, curl, python3, e2fsprogs and the AWS CLI, as Amazon Linux 2023 does.

terraform {
  required_version = ">= 1.9"
}

locals {
  units = {
    for name, node in var.nodes : name => {
      "pontoon.service"         = templatefile("${path.module}/units/pontoon.service.tftpl", { node = name })
      "pontoon-data.service"    = templatefile("${path.module}/units/pontoon-data.service.tftpl", { node = name, device = node.device })
      "pontoon-secrets.service" = file("${path.module}/units/pontoon-secrets.service")
      "pontoon-secrets.timer"   = file("${path.module}/units/pontoon-secrets.timer")
      "pontoon-ops.socket"      = templatefile("${path.module}/units/pontoon-ops.socket.tftpl", { node = name, address = node.address, port = var.ops_port })
      "pontoon-ops.service"     = templatefile("${path.module}/units/pontoon-ops.service.tftpl", { node = name, port = var.ops_port })
    }
  }

  scripts = { for script in ["install", "mount-data", "fetch-secrets"] : script => file("${path.module}/files/${script}") }

  user_data = {
    for name, node in var.nodes : name => join("\n", ["#cloud-config", yamlencode({
      users = ["default", { name = "pontoon", system = true, no_create_home = true, shell = "/usr/sbin/nologin" }]
      write_files = concat(
        [for script, content in local.scripts : { path = "/usr/local/lib/pontoon/${script}", permissions = "0755", content = content }],
        [for unit, content in local.units[name] : { path = "/etc/systemd/system/${unit}", permissions = "0644", content = content }],
        [
          { path = "/etc/pontoon/node.toml", permissions = "0644", content = node.config },
          {
            path        = "/etc/pontoon/secrets"
            permissions = "0600"
            content     = join("", [for path, secret in node.secrets : "${path}\t${secret.arn}\t${coalesce(secret.key, "-")}\n"])
          },
        ],
      )
      runcmd = [
        ["/usr/local/lib/pontoon/install", var.release.url, var.release.sha256],
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", "--now", "pontoon-data.service", "pontoon-ops.socket", "pontoon-secrets.timer", "pontoon.service"],
      ]
    })])
  }
}
