from __future__ import annotations

import hashlib
import struct
import warnings

import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from esper_es.domain.errors import UsageError
from esper_es.vault import bytes_digest, digest_of
from esper_es.vault.raw import host_bytes


def float_of(bits: int) -> torch.Tensor:
    return torch.tensor(struct.unpack("<i", struct.pack("<I", bits))[0], dtype=torch.int32).view(
        torch.float32
    )


def test_the_digest_of_a_tensor_is_blake3_over_dtype_shape_and_bytes() -> None:
    tensor = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    content = b"esper-es tensor 1\nfloat32\n2,3\n" + struct.pack("<6f", 1, 2, 3, 4, 5, 6)
    assert digest_of(tensor) == "b3:" + blake3(content).hexdigest()


def test_digests_written_by_released_versions_never_change() -> None:
    assert digest_of(torch.arange(6, dtype=torch.float32).reshape(2, 3)) == GOLDEN_MATRIX
    assert digest_of(torch.tensor(True)) == GOLDEN_TRUE


def test_the_digest_of_bytes_is_their_sha256() -> None:
    assert bytes_digest(b"manifest") == "sha256:" + hashlib.sha256(b"manifest").hexdigest()


@given(data=st.data())
def test_the_digest_does_not_depend_on_strides(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(0, 4), min_size=0, max_size=4))
    tensor = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    order = data.draw(st.permutations(range(len(shape))))
    back = [order.index(dimension) for dimension in range(len(shape))]
    strided = tensor.permute(order).contiguous().permute(back)
    assert digest_of(strided) == digest_of(tensor)


def test_the_digest_of_a_channels_last_tensor_is_that_of_its_logical_order() -> None:
    tensor = torch.randn(2, 3, 4, 5)
    assert digest_of(tensor.to(memory_format=torch.channels_last)) == digest_of(tensor)


def test_an_expanded_tensor_has_the_digest_of_its_materialised_copy() -> None:
    expanded = torch.tensor([1.0, 2.0]).expand(3, 2)
    assert digest_of(expanded) == digest_of(expanded.clone())


def test_lazy_conjugation_is_resolved_before_hashing() -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j])
    assert digest_of(tensor.conj()) == digest_of(tensor.conj().resolve_conj())


def test_lazy_negation_is_resolved_before_hashing() -> None:
    negated = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert negated.is_neg()
    assert digest_of(negated) == digest_of(negated.resolve_neg())


def test_a_parameter_has_the_digest_of_its_data() -> None:
    data = torch.randn(3)
    assert digest_of(torch.nn.Parameter(data)) == digest_of(data)


def test_zero_and_negative_zero_differ() -> None:
    assert digest_of(torch.tensor(0.0)) != digest_of(torch.tensor(-0.0))


def test_the_same_nan_has_one_digest_and_another_payload_another() -> None:
    quiet, other = float_of(0x7FC00000), float_of(0x7FC00001)
    assert digest_of(quiet) == digest_of(quiet.clone())
    assert digest_of(quiet) != digest_of(other)


def test_equal_bytes_of_another_dtype_differ() -> None:
    tensor = torch.randn(4)
    assert digest_of(tensor) != digest_of(tensor.view(torch.int32))


@pytest.mark.parametrize(
    ("one", "other"), [((), (1,)), ((0,), (0, 3)), ((0, 3), (3, 0)), ((2, 3), (3, 2)), ((1, 12), (11, 2))]
)
def test_another_shape_differs(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert digest_of(torch.zeros(one)) != digest_of(torch.zeros(other))


def test_a_contiguous_cpu_tensor_is_hashed_where_it_lies() -> None:
    tensor = torch.zeros(4, dtype=torch.uint8)
    view = host_bytes(tensor)
    tensor.fill_(9)
    assert bytes(view) == b"\x09\x09\x09\x09"


def _fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.empty(3)


def _quantized() -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8)


def _nested() -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_quantized, "quantized"),
        (lambda: torch.ones(2, 2).to_sparse(), "sparse_coo"),
        (_nested, "nested"),
        (lambda: torch.empty(3, device="meta"), "meta"),
        (torch.nn.UninitializedParameter, "lazy"),
        (_fake, "FakeTensor"),
        (lambda: [1.0, 2.0], "expected a torch.Tensor, got list"),
    ],
)
def test_what_has_no_dense_bytes_is_refused_with_its_reason(make: object, reason: str) -> None:
    assert callable(make)
    with pytest.raises(UsageError, match=reason):
        digest_of(make())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_tensor_has_the_digest_of_its_cpu_copy() -> None:
    tensor = torch.randn(3, 5)
    assert digest_of(tensor.cuda()) == digest_of(tensor)


GOLDEN_MATRIX = "b3:2e9ca7a192191caa1d6323002e1ead080109e646d63c762f60c3259804e28af4"
GOLDEN_TRUE = "b3:6e729c98906886af565daacdd2e61217e3d345ed3ee5f9f227d5846bb37fc351"
