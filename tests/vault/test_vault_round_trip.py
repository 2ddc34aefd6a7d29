from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper_es.domain.errors import MissingTensorError, UsageError, VaultError
from esper_es.projections.live.tensors import TensorStore
from esper_es.vault import MemoryVault, Vault, bytes_digest, digest_of
from esper_es.vault.dtypes import DTYPES
from esper_es.vault.raw import host_bytes

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")

SHAPES = st.lists(st.integers(0, 5), min_size=0, max_size=4).map(tuple)


@st.composite
def any_tensor(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of any dtype, shape and strides, whose elements are arbitrary bits."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(SHAPES)
    count = torch.Size(shape).numel() * dtype.itemsize
    data = torch.tensor(list(draw(st.binary(min_size=count, max_size=count))), dtype=torch.uint8)
    bits = data % 2 if dtype is torch.bool else data
    tensor = bits.view(dtype).reshape(shape)
    return tensor.transpose(*draw(st.permutations(range(len(shape))))[:2]) if len(shape) > 1 else tensor


@pytest.fixture(scope="module", params=["disk", "memory"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TensorStore]:
    with (
        Vault.open(tmp_path_factory.mktemp("vault"))
        if request.param == "disk"
        else Vault.in_memory() as store
    ):
        yield store


@given(tensor=any_tensor())
def test_what_is_put_comes_back_with_its_dtype_shape_and_bits(
    shared: TensorStore, tensor: torch.Tensor
) -> None:
    digest = shared.put_tensors({"it": tensor})["it"]
    back = shared.get(digest)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert bytes(host_bytes(back)) == bytes(host_bytes(tensor))


@given(data=st.binary(max_size=300))
def test_bytes_that_are_put_come_back(shared: TensorStore, data: bytes) -> None:
    assert shared.get_bytes(shared.put_bytes(data)) == data


def test_both_vaults_satisfy_the_protocol_of_the_projections(either: Vault | MemoryVault) -> None:
    assert isinstance(either, TensorStore)


def test_tensors_of_several_write_slices_and_hash_batches_come_back(either: Vault | MemoryVault) -> None:
    tensors = {
        name: torch.randint(0, 255, (5_000_003,), dtype=torch.uint8) for name in ("one", "two", "three")
    }
    digests = either.put_tensors({**tensors, "small": torch.ones(3)})
    assert all(torch.equal(either.get(digests[name]), tensor) for name, tensor in tensors.items())


def test_more_tensors_than_one_gathering_write_takes_come_back(either: Vault | MemoryVault) -> None:
    tensors = {str(number): torch.tensor(number) for number in range(1500)}
    digests = either.put_tensors(tensors)
    assert [int(either.get(digests[name])) for name in tensors] == list(range(1500))


def test_the_digests_are_those_of_digest_of_and_bytes_digest(
    either: Vault | MemoryVault, tensors: dict[str, torch.Tensor]
) -> None:
    receipt = either.put(tensors, {"manifest": b"{}"})
    assert receipt.tensors == {name: digest_of(tensor) for name, tensor in tensors.items()}
    assert receipt.blobs == {"manifest": bytes_digest(b"{}")}


def test_a_manifest_can_be_made_from_the_digests_of_the_same_call(
    either: Vault | MemoryVault, tensors: dict[str, torch.Tensor]
) -> None:
    def manifest(digests: Mapping[str, str]) -> bytes:
        return json.dumps(dict(digests)).encode()

    receipt = either.put(tensors, {"manifest": manifest})
    assert json.loads(either.get_bytes(receipt.blobs["manifest"])) == receipt.tensors


def test_changing_what_get_returned_does_not_change_what_is_stored(either: Vault | MemoryVault) -> None:
    digest = either.put_tensors({"it": torch.zeros(3)})["it"]
    either.get(digest).fill_(1.0)
    assert torch.equal(either.get(digest), torch.zeros(3))


def test_changing_the_tensor_after_put_does_not_change_what_is_stored(either: Vault | MemoryVault) -> None:
    tensor = torch.zeros(3)
    digest = either.put_tensors({"it": tensor})["it"]
    tensor.fill_(1.0)
    assert torch.equal(either.get(digest), torch.zeros(3))


def test_a_tensor_read_under_inference_mode_can_still_be_trained(either: Vault | MemoryVault) -> None:
    digest = either.put_tensors({"it": torch.ones(3)})["it"]
    with torch.inference_mode():
        tensor = either.get(digest)
    assert not tensor.is_inference()


def test_a_tensor_is_read_to_the_cpu_whatever_the_default_device(either: Vault | MemoryVault) -> None:
    digest = either.put_tensors({"it": torch.ones(3)})["it"]
    with torch.device("meta"):
        tensor = either.get(digest)
    assert tensor.device.type == "cpu"


def test_putting_nothing_stores_nothing(either: Vault | MemoryVault) -> None:
    assert either.put({}).bytes_written == 0
    assert either.digests() == set()


def test_an_absent_tensor_is_reported_as_missing(either: Vault | MemoryVault) -> None:
    digest = digest_of(torch.ones(3))
    with pytest.raises(MissingTensorError, match=digest):
        either.get(digest)


def test_missing_names_what_is_absent_once_and_in_order(either: Vault | MemoryVault) -> None:
    stored = either.put_tensors({"it": torch.ones(3)})["it"]
    first, second = digest_of(torch.zeros(2)), bytes_digest(b"absent")
    assert either.missing([first, stored, second, first]) == [first, second]


def test_contains_tells_stored_from_absent(either: Vault | MemoryVault) -> None:
    stored = either.put_bytes(b"here")
    assert either.contains(stored)
    assert not either.contains(bytes_digest(b"absent"))


@pytest.mark.parametrize(
    "digest",
    ["", "b3:", "b3:../../etc/passwd", "b3:" + "0" * 63, "b3:" + "A" * 64, "b3:" + "0" * 64 + "\n", None],
)
def test_what_is_no_digest_is_refused_by_every_reader(either: Vault | MemoryVault, digest: str) -> None:
    for read in (either.get, either.get_bytes, either.contains):
        with pytest.raises(UsageError, match="64 lower-case hex digits"):
            read(digest)


def test_a_tensor_cannot_be_read_as_bytes_nor_bytes_as_a_tensor(either: Vault | MemoryVault) -> None:
    receipt = either.put({"it": torch.ones(1)}, {"data": b"data"})
    with pytest.raises(UsageError, match="is not a digest of bytes"):
        either.get_bytes(receipt.tensors["it"])
    with pytest.raises(UsageError, match="is not a tensor digest"):
        either.get(receipt.blobs["data"])


def test_a_tensor_that_cannot_be_stored_is_named(either: Vault | MemoryVault) -> None:
    with pytest.raises(UsageError, match=r"'layer\.weight': a meta tensor"):
        either.put_tensors({"fine": torch.ones(1), "layer.weight": torch.empty(2, device="meta")})


def test_one_bad_tensor_keeps_the_whole_call_from_storing(either: Vault | MemoryVault) -> None:
    with pytest.raises(UsageError):
        either.put_tensors({"fine": torch.ones(1), "bad": torch.empty(2, device="meta")})
    assert either.digests() == set()


def test_text_is_refused_where_bytes_are_needed(either: Vault | MemoryVault) -> None:
    with pytest.raises(UsageError, match="expected bytes, got str"):
        either.put_bytes("text")  # type: ignore[arg-type]


def test_a_closed_vault_says_so(either: Vault | MemoryVault) -> None:
    digest = either.put_bytes(b"data")
    either.close()
    with pytest.raises(VaultError, match="closed"):
        either.get_bytes(digest)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tensors_come_back_on_the_cpu(vault: Vault) -> None:
    tensor = torch.randn(7, 9)
    digest = vault.put_tensors({"it": tensor.cuda().t()})["it"]
    assert torch.equal(vault.get(digest), tensor.t())
