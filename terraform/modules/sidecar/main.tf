# User data for a machine that runs a worker, as one with GPUs: the sidecar beside it, and nothing else.
#
# It makes no machine, since those belong to whoever runs the workers: hand `user_data` to a launch template.
# The worker itself comes from elsewhere, as from its image; the sidecar waits until it answers.

terraform {
  required_version = ">= 1.9"
}

locals {
  arguments = concat(
    ["--worker", var.worker, "--region", var.region, "--nodes", join(",", var.nodes)],
    ["--worker-key-file", "/run/pontoon/worker-key", "--ca-file", "/run/pontoon/ca.pem"],
    ["--health", var.health, "--ops", "127.0.0.1:${var.ops_port}", "--drain-timeout", tostring(var.drain_seconds)],
    var.slots == null ? [] : ["--slots", tostring(var.slots)],
    var.version_id == null ? [] : ["--version-id", var.version_id],
  )

  # No argument has a space, a quote, "%" or "$", by the validations: systemd needs no escapes.
  unit = templatefile("${path.module}/units/pontoon-sidecar.service.tftpl", {
    worker        = var.worker
    arguments     = join(" ", local.arguments)
    drain_seconds = var.drain_seconds
  })

  user_data = join("\n", ["#cloud-config", yamlencode({
    users = ["default", { name = "pontoon", system = true, no_create_home = true, shell = "/usr/sbin/nologin" }]
    write_files = concat(
      [for script in ["install", "fetch-secrets"] : { path = "/usr/local/lib/pontoon/${script}", permissions = "0755", content = file("${path.module}/../machine/files/${script}") }],
      [
        { path = "/etc/systemd/system/pontoon-sidecar.service", permissions = "0644", content = local.unit },
        { path = "/etc/systemd/system/pontoon-secrets.service", permissions = "0644", content = file("${path.module}/../machine/units/pontoon-secrets.service") },
        { path = "/etc/systemd/system/pontoon-secrets.timer", permissions = "0644", content = file("${path.module}/../machine/units/pontoon-secrets.timer") },
        {
          path        = "/etc/pontoon/secrets"
          permissions = "0600"
          content     = "/run/pontoon/worker-key\t${var.worker_key_arn}\t-\n/run/pontoon/ca.pem\t${var.ca_arn}\t-\n"
        },
      ],
    )
    runcmd = [
      ["/usr/local/lib/pontoon/install", var.release.url, var.release.sha256],
      ["systemctl", "daemon-reload"],
      ["systemctl", "enable", "--now", "pontoon-secrets.timer", "pontoon-sidecar.service"],
    ]
  })])
}
