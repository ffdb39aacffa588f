"""Does a warm start help? Training of composed models on real text, warm and cold."""
