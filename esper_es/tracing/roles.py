"""What a dimension of a tensor does for the channels it holds."""

from __future__ import annotations

from typing import Literal

Role = Literal["producer", "affine", "statistic", "table", "repeated", "consumer"]
"""``producer`` makes the channels (rows of a weight, an added bias or position table, an embedding's
columns), ``affine`` scales or shifts them (norms, layer scales), ``statistic`` measures them (running mean
and variance), ``table`` adds numbers that are not trained to them (positions in a buffer), ``repeated`` holds the same
numbers for each of them (a blur filter in a buffer), ``consumer`` reads them (the input columns of a weight)."""

PRECEDENCE: tuple[Role, ...] = ("consumer", "producer", "affine", "statistic", "table", "repeated")
"""Of several roles that a tied or twice-called tensor plays, the first of these is *the* role. A dimension
that consumes as well as produces counts as consumer: zero-filling it is safe for both."""
