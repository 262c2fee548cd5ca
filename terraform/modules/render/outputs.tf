output "files" {
  description = "Each node's configuration file, by name."
  value       = local.files
}
