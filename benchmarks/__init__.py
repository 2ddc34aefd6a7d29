"""Measurements: medians, and ratios against a named baseline of the same run. ``python -m benchmarks --help``."""
