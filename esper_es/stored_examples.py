"""Example inputs in the vault, so that whoever reads the log can run the model as its owner did."""

from __future__ import annotations

import logging

import orjson
import torch

from esper_es.domain.errors import IntegrityFailure, UsageError
from esper_es.example_inputs import ExampleCall, ExampleInputs
from esper_es.projections.live.plain import from_json, to_json
from esper_es.vault import AnyVault

logger = logging.getLogger(__name__)

FORMAT = 1


def store_examples(vault: AnyVault, examples: ExampleInputs) -> str | None:
    """Store example inputs; return the digest of their manifest, None where they hold more than plain values.

    Raises:
        VaultError: if they can't be stored.
    """
    tensors: dict[str, torch.Tensor] = {}

    def store(name: str, tensor: torch.Tensor) -> None:
        tensors[name] = tensor.detach()

    try:
        calls = [
            to_json({"args": call.args, "kwargs": dict(call.kwargs)}, f"call{number}", store)
            for number, call in enumerate(examples.calls)
        ]
        digests = vault.put_tensors(tensors)
    except UsageError as error:
        logger.info("the example inputs are not kept in the vault: %s", error)
        return None
    return vault.put_bytes(orjson.dumps({"format": FORMAT, "calls": calls, "tensors": digests}))


def load_examples(vault: AnyVault, digest: str) -> ExampleInputs:
    """Return stored example inputs, on the CPU.

    Raises:
        MissingTensorError, IntegrityFailure: if they are not there, or damaged.
    """
    document = orjson.loads(vault.get_bytes(digest))
    if document.get("format") != FORMAT:
        raise IntegrityFailure(
            f"example inputs have format {document.get('format')!r}, {FORMAT} was expected"
        )
    digests = document["tensors"]
    calls = [from_json(call, lambda name: vault.get(digests[name])) for call in document["calls"]]
    return ExampleInputs(tuple(ExampleCall(tuple(call["args"]), call["kwargs"]) for call in calls))
