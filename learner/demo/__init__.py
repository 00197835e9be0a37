"""The demo's models: a tiny one, and a small one of pretrained parts, both warmed up on the demo's questions."""
