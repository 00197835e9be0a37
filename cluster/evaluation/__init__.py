"""What a model answers to questions, and what that says of it: accuracies, intervals, one model against another."""
