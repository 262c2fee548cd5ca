output "user_data" {
  description = "User data for cloud-init, in clear."
  value       = local.user_data
}

output "user_data_base64" {
  description = "The same as a launch template takes it, compressed."
  value       = base64gzip(local.user_data)
}

output "units" {
  description = "The systemd unit by file name."
  value       = { "pontoon-sidecar.service" = local.unit }
}
