"""The Hugging Face Hub: sources fetched from it, results pushed to it.

``huggingface_hub`` is imported when a reference turns out to be an id of the Hub, not before.
"""
