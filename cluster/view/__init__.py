"""A page that shows runs while they are written, and afterwards: `python -m cluster.view RUN`.

Reads a run's files alone and imports nothing of the loop that writes them.
"""
