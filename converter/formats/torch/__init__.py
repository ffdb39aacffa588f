"""Files of ``torch.save``: zip and legacy archives, and a pickle reader that executes nothing."""
