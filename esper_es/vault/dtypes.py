"""The dtypes that can be stored, by the names written into packs. Names from data resolve only here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

# Types that the oldest supported torch (2.6) does not have are looked up by these constants only.
_RECENT = ("float8_e8m0fnu", "float4_e2m1fn_x2")

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "bool": torch.bool,
        "uint8": torch.uint8,
        "uint16": torch.uint16,
        "uint32": torch.uint32,
        "uint64": torch.uint64,
        "int8": torch.int8,
        "int16": torch.int16,
        "int32": torch.int32,
        "int64": torch.int64,
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
        "float32": torch.float32,
        "float64": torch.float64,
        "complex32": torch.complex32,
        "complex64": torch.complex64,
        "complex128": torch.complex128,
        "float8_e4m3fn": torch.float8_e4m3fn,
        "float8_e4m3fnuz": torch.float8_e4m3fnuz,
        "float8_e5m2": torch.float8_e5m2,
        "float8_e5m2fnuz": torch.float8_e5m2fnuz,
        **{name: getattr(torch, name) for name in _RECENT if hasattr(torch, name)},
    }
)

DTYPE_NAMES: Mapping[torch.dtype, str] = MappingProxyType({dtype: name for name, dtype in DTYPES.items()})
