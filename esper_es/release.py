"""Which release of the package this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Return the version of esper-es, or ``"unknown"`` when it runs from an unpackaged tree."""
    try:
        return version("esper-es")
    except PackageNotFoundError:
        return "unknown"
