"""What a run would take, and how it would scale, before anything is started: sizes, settings and arithmetic."""
