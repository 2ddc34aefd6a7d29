"""The error of what is read from a row."""

from __future__ import annotations


class Unreadable(ValueError):
    """A stored value is not what its class needs; the message says where."""
