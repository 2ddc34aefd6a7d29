"""What came of trying surgery on the zoo."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Outcome:
    """One surgery on one model.

    Attributes:
        species: name of the model.
        surgery: ``"grow"``, ``"shrink"``, ``"larger heads"``, ``"smaller heads"``, ``"insert"``, ``"remove"`` or
            ``"skip"``.
        target: the layer.
        refused: why it was not done; empty when it was.
        moved: how far the outputs are from those that they should be, relative to the largest; None where
            nothing says what they should be.
        bounded: whether they may differ by the order of sums only.
        wrong: the laws that did not hold.
        seconds: for the surgery alone.
    """

    species: str
    surgery: str
    target: str
    refused: str = ""
    moved: float | None = None
    bounded: bool = True
    wrong: tuple[str, ...] = ()
    seconds: float = 0.0


@frozen(kw_only=True)
class Version:
    """What a replay in another process must come to."""

    model: str
    number: int
    fingerprint: str
