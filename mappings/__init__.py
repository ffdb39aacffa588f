"""The mapping tables: one TOML file a family, and what the families share."""
