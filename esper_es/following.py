"""Which averages follow the model of a run."""

from __future__ import annotations

from torch import nn

from esper_es.domain.architecture import Architecture
from esper_es.domain.errors import UsageError
from esper_es.inference_tensors import require_none
from esper_es.projections.live.describe import describe
from esper_es.projections.live.followers import Follower
from esper_es.projections.live.names import named_tensors
from esper_es.session import Session


def follow(session: Session, average: object) -> None:
    """Change a copy of the live module along with it from now on.

    Raises:
        UsageError: if it is no copy of it, follows already, or was made under ``torch.inference_mode``.
    """
    if not isinstance(average, nn.Module):
        raise UsageError(f"follow takes an nn.Module, got {type(average).__name__}")
    if any(follower.average is average for follower in session.live.followers):
        raise UsageError("this average follows the model already")
    module = _copy_in(average, session.state.architecture)
    require_none(module)
    mine = {id(tensor) for _, tensor, _ in named_tensors(session.live.module)}
    shared = [name for name, tensor, _ in named_tensors(module) if id(tensor) in mine]
    if module is session.live.module or shared:
        raise UsageError(
            f"what follows must be a copy, and it shares {shared[:3] or 'everything'} with the model; "
            "make it with copy.deepcopy or torch.optim.swa_utils.AveragedModel"
        )
    session.live.followers.append(Follower(average, module))


def unfollow(session: Session, average: object) -> None:
    """Leave a copy as it is from now on.

    Raises:
        UsageError: if it does not follow.
    """
    for follower in session.live.followers:
        if follower.average is average:
            session.live.followers.remove(follower)
            return
    raise UsageError("this average does not follow the model")


def check_followers(session: Session) -> None:
    """Check that the copies still have the structure of the live module.

    Raises:
        UsageError: otherwise, saying where they differ.
    """
    for follower in session.live.followers:
        found, wanted = describe(follower.module), session.state.architecture
        if not found.fits(wanted):
            raise UsageError(
                f"an average that follows the model was changed by itself: {_difference(found, wanted)}; "
                "run.unfollow(...) it, or make it anew"
            )


def _copy_in(average: nn.Module, architecture: Architecture) -> nn.Module:
    """Return the copy of a model that an average is, or holds as its child ``module``."""
    child = average._modules.get("module")
    candidates = [average, *([child] if child is not None else [])]
    found = [describe(candidate) for candidate in candidates]
    for candidate, described in zip(candidates, found, strict=True):
        if described.fits(architecture):
            return candidate
    raise UsageError(
        f"what follows must have the structure of the model, and this has another: "
        f"{_difference(found[-1], architecture)}; copy the model as it is now"
    )


def _difference(found: Architecture, wanted: Architecture) -> str:
    """Say where two architectures differ."""
    for path in (*wanted.nodes, *found.nodes):
        mine, theirs = found.nodes.get(path), wanted.nodes.get(path)
        if mine == theirs:
            continue
        where = path or "(root)"
        if mine is None or theirs is None:
            return f"only {'the model' if mine is None else 'the copy'} has {where!r}"
        return f"{where!r} is {mine} in the copy, and {theirs} in the model"
    return "shared modules, tied tensors or added connections differ"
