"""The update: advantages, packing, the shared-prefix forward, losses and the DeepSpeed engine. Knows no Ray or vLLM."""
