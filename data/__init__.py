"""Clips, questions, prompts and the demo set. Knows nothing of Ray, engines or training."""
