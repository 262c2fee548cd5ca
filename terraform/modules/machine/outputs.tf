output "user_data" {
  description = "The user data of each node, in clear."
  value       = local.user_data

  precondition {
    # The limit of EC2 is on what is sent, which is compressed ("Instance user data", EC2 guide). Base64 is 4 characters for 3 bytes.
    condition     = alltrue([for text in values(local.user_data) : length(base64gzip(text)) * 3 / 4 < 16384])
    error_message = "A node's user data is beyond the 16384 bytes that EC2 takes, because the list of first members is that long."
  }
}

output "user_data_base64" {
  description = "The same as EC2 takes it, compressed."
  value       = { for name, text in local.user_data : name => base64gzip(text) }
}

output "units" {
  description = "The systemd units of each node by file name."
  value       = local.units
}
