"""Software and hardware, as facts tell of them."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Environment:
    """Software and hardware under which facts were made."""

    esper_es: str
    python: str
    torch: str
    device: str
    cpu_capability: str
    threads: int
    deterministic: bool
    default_dtype: str
    code_commit: str | None = None
