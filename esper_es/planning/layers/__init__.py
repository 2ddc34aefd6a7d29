"""Layers that come and go: insertions, removals, skip connections, seeds."""
