# The voters are in three zones: groups outlive the loss of any zone, not that of the region.
survive = "zone"
regions = {
  us-east-1 = { cidr = "10.64.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3, founding_nodes = 3 }
}
