"""Results, plans and findings as people read them: text for terminals of any width."""
