"""The mapping tables: one TOML file an architecture, and what they share."""
