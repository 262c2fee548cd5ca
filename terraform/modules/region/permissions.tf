# What a node may do on AWS: read its own secrets, and the release where that lies on S3. Each node has a
# role of its own, so that none can read another one's key.

resource "aws_iam_role" "node" {
  for_each = var.nodes
  name     = "${var.cluster}-${each.key}"
  tags     = merge(local.tags, { "pontoon:node" = each.key })
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "ec2.amazonaws.com" } }]
  })
}

locals {
  release_arn = startswith(var.release.url, "s3://") ? "arn:aws:s3:::${trimprefix(var.release.url, "s3://")}" : null
}

resource "aws_iam_role_policy" "node" {
  for_each = var.nodes
  name     = "secrets-and-release"
  role     = aws_iam_role.node[each.key].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Effect   = "Allow"
        Action   = ["secretsmanager:GetSecretValue"]
        Resource = [var.secrets.join_token, var.secrets.ca, var.secrets.client, var.secrets.nodes[each.key]]
      }],
      local.release_arn == null ? [] : [{ Effect = "Allow", Action = ["s3:GetObject"], Resource = [local.release_arn] }],
      # Not the key of volumes, which EC2 uses by itself.
      length(var.secrets.kms_key_arns) == 0 ? [] : [{ Effect = "Allow", Action = ["kms:Decrypt"], Resource = var.secrets.kms_key_arns }],
    )
  })
}

# A shell without an open port or a key: the session manager.
resource "aws_iam_role_policy_attachment" "node" {
  for_each   = var.nodes
  role       = aws_iam_role.node[each.key].name
  policy_arn = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
}

resource "aws_iam_instance_profile" "node" {
  for_each = var.nodes
  name     = "${var.cluster}-${each.key}"
  role     = aws_iam_role.node[each.key].name
  tags     = local.tags
}
