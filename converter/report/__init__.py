"""Results for people: terminal text and HTML pages."""
