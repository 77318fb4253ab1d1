"""Studies: grids of configurations and searches over them, without Ray."""
