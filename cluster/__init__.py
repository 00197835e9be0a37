"""Launching, placing and controlling a run; evaluating; reading what a run left. Moves references, never audio."""
