run "the_first_apply_founds" {
  variables {
    regions = { a = { nodes = 3 }, b = { nodes = 1 } }
  }
  assert {
    condition     = output.nodes == { a = 3, b = 1 }
    error_message = jsonencode(output.nodes)
  }
}

run "later_sizes_and_regions_change_no_first_member" {
  variables {
    regions = { a = { nodes = 5 }, b = { nodes = 0 }, c = { nodes = 3 } }
  }
  assert {
    condition     = output.nodes == { a = 3, b = 1, c = 0 }
    error_message = jsonencode(output.nodes)
  }
}

run "what_is_said_wins" {
  variables {
    regions = { a = { nodes = 5, founding_nodes = 2 }, b = { nodes = 1 } }
  }
  assert {
    condition     = output.nodes == { a = 2, b = 1 }
    error_message = jsonencode(output.nodes)
  }
}
