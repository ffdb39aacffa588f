"""The commands' own work: from opened sources to a plan, from a plan to a finished directory."""
