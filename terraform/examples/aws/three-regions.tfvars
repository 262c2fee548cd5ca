# Groups outlive the loss of any region.
survive = "region"
regions = {
  us-east-1    = { cidr = "10.64.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3, founding_nodes = 3 }
  us-west-2    = { cidr = "10.65.0.0/16", zones = ["us-west-2a", "us-west-2b", "us-west-2c"], nodes = 3, founding_nodes = 3 }
  eu-central-1 = { cidr = "10.66.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3, founding_nodes = 3 }
}
