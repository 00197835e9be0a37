"""Scores of completions: the parser of answers, built-in rewards and plug-ins. Knows no Ray."""
