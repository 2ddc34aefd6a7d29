"""Captures, read back as a restore would read them, and found to be what the log says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import define, field

from esper_es.capture import LoadedCapture
from esper_es.domain.architecture import TRANSIENT, TensorSpec
from esper_es.domain.canonical import Json
from esper_es.domain.errors import EsperError, IntegrityFailure
from esper_es.domain.state import CapturePoint, ModelState
from esper_es.fingerprints import fingerprint_of_capture
from esper_es.vault import Vault


@define
class CaptureReader:
    """Reads captures from a vault, each tensor once.

    Attributes:
        digests: of the tensors that were read and found whole.
        nbytes: their bytes.
    """

    vault: Vault
    digests: set[str] = field(factory=set)
    nbytes: int = 0
    _broken: dict[str, EsperError] = field(factory=dict)

    def problems(self, state: ModelState, point: CapturePoint) -> Iterator[EsperError]:
        """Yield what is wrong with a capture; nothing if a restore would find all that it needs.

        It reads the manifest and every tensor that it names, and compares the fingerprint of the model and of
        its architecture with those that the log recorded.
        """
        try:
            capture = LoadedCapture(self.vault, point.manifest)
            recomputed = fingerprint_of_capture(capture.document, capture.digests)
            architecture = capture.document["architecture"]
        except EsperError as error:
            yield error
            return
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            yield IntegrityFailure(f"{point.manifest} is no manifest of a capture: {error!r}")
            return
        for digest in capture.digests.values():
            problem = self.problem(digest)
            if problem is not None:
                yield problem
        if recomputed != point.model_fingerprint:
            yield IntegrityFailure(
                f"the capture of version {point.version} holds the model {recomputed}, the log says "
                f"{point.model_fingerprint}"
            )
        expected = state.restorable[point.version].lineage.architecture
        held = expected.with_transients(_transients(capture.document["module"]))
        if architecture not in (expected.fingerprint, held.fingerprint):
            yield IntegrityFailure(
                f"the capture of version {point.version} holds the architecture {architecture}, the log says "
                f"{expected.fingerprint}"
            )

    def problem(self, digest: str) -> EsperError | None:
        """Return what is wrong with a tensor, if anything is."""
        if digest in self.digests:
            return None
        if digest not in self._broken:
            try:
                self.nbytes += self.vault.get(digest).nbytes
            except EsperError as error:
                self._broken[digest] = error
            else:
                self.digests.add(digest)
        return self._broken.get(digest)


def _transients(properties: Mapping[str, Json]) -> dict[str, TensorSpec]:
    """The buffers outside the state dict that a capture holds."""
    return {
        name: TensorSpec(tuple(each["shape"]), each["dtype"], TRANSIENT)
        for name, each in properties.items()
        if each["role"] == TRANSIENT
    }
