# Each bad input is refused with a message, before anything is made of it.

variables {
  cluster = { name = "prod" }
  regions = {
    us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3 }
    us-west-2    = { cidr = "10.1.0.0/16", zones = ["us-west-2a", "us-west-2b", "us-west-2c"], nodes = 3 }
    eu-central-1 = { cidr = "10.2.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3 }
  }
  platform = "aws"
}

run "too_few_zones_for_nodes" {
  command = plan
  variables {
    regions = {
      us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3 }
      us-west-2    = { cidr = "10.1.0.0/16", zones = ["us-west-2a"], nodes = 3 }
      eu-central-1 = { cidr = "10.2.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3 }
    }
  }
  expect_failures = [var.regions]
}

run "too_few_zones_to_survive_the_loss_of_one" {
  command = plan
  variables {
    cluster = { name = "prod", survive = "zone" }
    regions = {
      us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3 }
      us-west-2    = { cidr = "10.1.0.0/16", zones = ["us-west-2a", "us-west-2b"], nodes = 3 }
      eu-central-1 = { cidr = "10.2.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3 }
    }
  }
  expect_failures = [var.regions]
}

run "an_even_number_of_voters_at_home" {
  command = plan
  variables {
    cluster = { name = "prod", survive = "zone" }
    regions = {
      us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3 }
      us-west-2    = { cidr = "10.1.0.0/16", zones = ["us-west-2a", "us-west-2b", "us-west-2c"], nodes = 4 }
      eu-central-1 = { cidr = "10.2.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3 }
    }
  }
  expect_failures = [var.regions]
}

run "an_even_number_of_voters_in_a_lone_region" {
  command = plan
  variables {
    regions = {
      us-east-1 = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 2, founding_nodes = 1 }
    }
  }
  expect_failures = [var.regions]
}

run "two_founding_nodes" {
  command = plan
  variables {
    regions = {
      us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 1 }
      us-west-2    = { cidr = "10.1.0.0/16", zones = ["us-west-2a", "us-west-2b", "us-west-2c"], nodes = 1 }
      eu-central-1 = { cidr = "10.2.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 1, founding_nodes = 0 }
    }
  }
  expect_failures = [var.regions]
}

run "nobody_founds" {
  command = plan
  variables {
    regions = {
      us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3, founding_nodes = 0 }
      us-west-2    = { cidr = "10.1.0.0/16", zones = ["us-west-2a", "us-west-2b", "us-west-2c"], nodes = 3, founding_nodes = 0 }
      eu-central-1 = { cidr = "10.2.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3, founding_nodes = 0 }
    }
  }
  expect_failures = [var.regions]
}

run "equal_ranges" {
  command = plan
  variables {
    regions = {
      us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3 }
      us-west-2    = { cidr = "10.0.0.0/16", zones = ["us-west-2a", "us-west-2b", "us-west-2c"], nodes = 3 }
      eu-central-1 = { cidr = "10.2.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3 }
    }
  }
  expect_failures = [var.regions]
}

run "a_range_inside_another" {
  command = plan
  variables {
    regions = {
      us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3 }
      us-west-2    = { cidr = "10.0.64.0/20", zones = ["us-west-2a", "us-west-2b", "us-west-2c"], nodes = 3 }
      eu-central-1 = { cidr = "10.2.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3 }
    }
  }
  expect_failures = [var.regions]
}

run "a_range_that_is_too_small" {
  command = plan
  variables {
    regions = {
      us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3 }
      us-west-2    = { cidr = "10.1.0.0/24", zones = ["us-west-2a", "us-west-2b", "us-west-2c"], nodes = 3 }
      eu-central-1 = { cidr = "10.2.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3 }
    }
  }
  expect_failures = [var.regions]
}

run "a_range_that_is_none" {
  command = plan
  variables {
    regions = {
      us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3 }
      us-west-2    = { cidr = "10.1.0.0", zones = ["us-west-2a", "us-west-2b", "us-west-2c"], nodes = 3 }
      eu-central-1 = { cidr = "10.2.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3 }
    }
  }
  expect_failures = [var.regions]
}

run "a_fraction_of_a_node" {
  command = plan
  variables {
    regions = {
      us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3 }
      us-west-2    = { cidr = "10.1.0.0/16", zones = ["us-west-2a", "us-west-2b", "us-west-2c"], nodes = 2.5 }
      eu-central-1 = { cidr = "10.2.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3 }
    }
  }
  expect_failures = [var.regions]
}

run "no_region" {
  command = plan
  variables {
    regions = {}
  }
  expect_failures = [var.regions]
}

run "a_cluster_name_that_is_no_label" {
  command = plan
  variables {
    cluster = { name = "Prod_1" }
  }
  expect_failures = [var.cluster]
}

run "an_unknown_survival" {
  command = plan
  variables {
    cluster = { name = "prod", survive = "planet" }
  }
  expect_failures = [var.cluster]
}

run "an_unknown_region_name" {
  command = plan
  variables {
    regions = {
      us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3 }
      eu-central-1 = { cidr = "10.2.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3 }
      us-wset-2    = { cidr = "10.1.0.0/16", zones = ["us-wset-2a", "us-wset-2b", "us-wset-2c"], nodes = 3 }
    }
  }
  expect_failures = [var.platform]
}

run "a_zone_of_another_region" {
  command = plan
  variables {
    regions = {
      us-east-1 = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-west-2b", "us-east-1c"], nodes = 3 }
    }
  }
  expect_failures = [var.platform]
}

run "missing_certificates" {
  command = plan
  variables {
    certificates = ["us-east-1-1", "us-east-1-2"]
  }
  expect_failures = [var.certificates]
}

run "two_listeners_on_one_port" {
  command = plan
  variables {
    ports = { client = 10086 }
  }
  expect_failures = [var.ports]
}

run "a_privileged_port" {
  command = plan
  variables {
    ports = { client_tls = 443 }
  }
  expect_failures = [var.ports]
}

run "a_running_region_that_is_unknown" {
  command = plan
  variables {
    running = { us-east-1 = 3, us-west-1 = 3 }
  }
  expect_failures = [var.running]
}

run "three_nodes_fewer_at_once_would_lose_the_quorum" {
  command = plan
  variables {
    running = { us-east-1 = 6, us-west-2 = 3, eu-central-1 = 3 }
  }
  expect_failures = [var.running]
}

run "two_of_three_voters_at_home_at_once" {
  command = plan
  variables {
    cluster = { name = "prod", survive = "zone" }
    regions = {
      us-east-1    = { cidr = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3 }
      us-west-2    = { cidr = "10.1.0.0/16", zones = ["us-west-2a", "us-west-2b", "us-west-2c"], nodes = 1, founding_nodes = 3 }
      eu-central-1 = { cidr = "10.2.0.0/16", zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"], nodes = 3 }
    }
    running = { us-east-1 = 3, us-west-2 = 3, eu-central-1 = 3 }
  }
  expect_failures = [var.running]
}

run "two_nodes_fewer_of_eleven_are_outlived" {
  command = plan
  variables {
    running = { us-east-1 = 5, us-west-2 = 3, eu-central-1 = 3 }
  }
  assert {
    condition     = length(output.nodes) == 9
    error_message = "A change that five voters outlive was refused."
  }
}

run "a_zone_without_its_subnet" {
  command = plan
  variables {
    regions = {
      us-east-1 = {
        cidr    = "10.0.0.0/16", zones = ["us-east-1a", "us-east-1b", "us-east-1c"], nodes = 3
        subnets = { us-east-1a = { nodes = "10.0.8.0/24", edge = "10.0.16.0/28" } }
      }
    }
  }
  expect_failures = [var.regions]
}
