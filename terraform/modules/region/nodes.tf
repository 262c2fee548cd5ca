# The nodes: an address and a volume that stay, and a machine that may be replaced.

resource "aws_network_interface" "node" {
  for_each        = var.nodes
  region          = var.place.location
  subnet_id       = local.node_subnets[each.value.zone]
  private_ips     = [each.value.address]
  security_groups = [aws_security_group.nodes.id]
  description     = "Pontoon node ${each.key}"
  tags            = merge(local.tags, { Name = each.key, "pontoon:node" = each.key })
}

resource "aws_ebs_volume" "node" {
  for_each          = var.nodes
  region            = var.place.location
  availability_zone = each.value.zone
  type              = "gp3"
  size              = var.volume.size
  iops              = var.volume.iops
  throughput        = var.volume.throughput
  encrypted         = true
  kms_key_id        = var.kms_key_arn
  tags              = merge(local.tags, { Name = each.key, "pontoon:node" = each.key })

  # A node without its log is another member: its votes are lost with the volume. Taking a node out for good
  # is a step of its own, see "Remove a node" in terraform/README.md.
  lifecycle {
    prevent_destroy = true
  }
}

module "machine" {
  source   = "../machine"
  release  = var.release
  ops_port = var.ports.ops
  nodes = {
    for name, node in var.nodes : name => {
      address = node.address
      # The link that udev makes of the volume's id, whatever the order of devices is.
      device = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${replace(aws_ebs_volume.node[name].id, "-", "")}"
      config = var.files[name]
      secrets = {
        "/run/pontoon/join-token" = { arn = var.secrets.join_token }
        "/run/pontoon/ca.pem"     = { arn = var.secrets.ca }
        "/run/pontoon/node.pem"   = { arn = var.secrets.nodes[name], key = "cert" }
        "/run/pontoon/node.key"   = { arn = var.secrets.nodes[name], key = "key" }
        "/run/pontoon/client.pem" = { arn = var.secrets.client, key = "cert" }
        "/run/pontoon/client.key" = { arn = var.secrets.client, key = "key" }
      }
    }
  }
}

resource "aws_instance" "node" {
  for_each             = var.nodes
  region               = var.place.location
  ami                  = var.image
  instance_type        = var.instance_type
  iam_instance_profile = aws_iam_instance_profile.node[each.key].name
  user_data_base64     = module.machine.user_data_base64[each.key]
  ebs_optimized        = true
  monitoring           = true
  # Nobody ends a node by hand; bin/roll replaces it, which the second line is for.
  disable_api_termination = true
  force_destroy           = true
  # A machine that shuts down is stopped and comes back, with its address and volume.
  instance_initiated_shutdown_behavior = "stop"
  tags                                 = merge(local.tags, { Name = each.key, "pontoon:node" = each.key })

  primary_network_interface {
    network_interface_id = aws_network_interface.node[each.key].id
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_type = "gp3"
    encrypted   = true
    kms_key_id  = var.kms_key_arn
  }

  # Another image, type or configuration is carried out by terraform/bin/roll, one node at a time. A type would be
  # changed by stopping the machines, all at once.
  lifecycle {
    ignore_changes = [ami, instance_type, user_data_base64]
  }
}

resource "aws_volume_attachment" "node" {
  for_each    = var.nodes
  region      = var.place.location
  device_name = "/dev/sdf"
  volume_id   = aws_ebs_volume.node[each.key].id
  instance_id = aws_instance.node[each.key].id
  # The machine shuts down first, so that the node drains and the file system is closed.
  stop_instance_before_detaching = true
}
