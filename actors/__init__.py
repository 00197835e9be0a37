"""Thin Ray actors around the other rooms' code: audio, rollout, reward, learner rank, rollout log."""
