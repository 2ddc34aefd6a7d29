"""Widths of layers: which channels go together, what new ones hold, and the proof that every route is kept."""
