"""An opened checkpoint as a model: detection, key matching, framework support."""
