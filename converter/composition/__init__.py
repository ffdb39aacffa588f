"""The commands' own work: from opened sources to a plan, and from a plan to a finished directory."""
