"""Where a new module is registered so that it runs behind a layer, under any ``forward``.

In a plain ``nn.Sequential`` that the model calls, it becomes a named child in order. Elsewhere it becomes a
named child of the layer's parent, and the layer becomes a host that runs it on its output. Parents whose
children are iterated or indexed (``ModuleList``, ``ModuleDict``) never get a child; the nearest ancestor does,
or the layer itself where all ancestors are containers.
"""

from __future__ import annotations

from attrs import frozen
from torch import nn

from esper_es.domain.architecture import Connection, join_path, split_path
from esper_es.domain.edits import AddModule, Connect, Edit
from esper_es.domain.errors import Refused, UsageError
from esper_es.planning.observation import Observation
from esper_es.planning.scene import NewModule, Scene
from esper_es.projections.live.hosting import original_class
from esper_es.projections.live.names import module_at


@frozen
class Place:
    """Where a new module goes.

    Attributes:
        path: its path.
        after: sibling that it follows in a Sequential, or None.
        hosted: whether the layer must host it.
    """

    path: str
    after: str | None
    hosted: bool


def place_after(scene: Scene, observation: Observation, layer: str, name: str) -> Place:
    """Find the place for a module called ``name`` behind ``layer``.

    Raises:
        UsageError: if the name can't name a module.
        Refused: if it is taken.
    """
    require_module_name(name)
    root = scene.live.module
    parent_path, local = split_path(layer)
    parent = module_at(root, parent_path)
    if is_sequential(parent) and observation.runs_inside(layer, parent_path):
        place = Place(join_path(parent_path, name), local, hosted=False)
    else:
        require_own_forward(root, layer)
        place = Place(join_path(owner_of(root, layer), name), None, hosted=True)
    require_free(root, place.path)
    return place


def require_own_forward(root: nn.Module, layer: str) -> None:
    """Check that a layer that is to host something runs the forward of its class.

    Raises:
        Refused: otherwise.
    """
    if "forward" in module_at(root, layer).__dict__:
        raise Refused(
            f"the forward of {layer!r} was replaced on the object itself, which goes around all that is added; "
            "replace it in a subclass",
            "replaced_forward",
        )


def is_sequential(module: nn.Module) -> bool:
    """Say whether a module runs its children in order and nothing else."""
    return isinstance(module, nn.Sequential) and original_class(module).forward is nn.Sequential.forward


_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def owner_of(root: nn.Module, path: str) -> str:
    """Return the nearest ancestor of ``path`` to which a child can be added without being run or iterated over.

    Where all ancestors are containers, as in a model that is one ``nn.Sequential``, it is the layer itself.

    Raises:
        Refused: if that is a container too.
    """
    owner, _ = split_path(path)
    while owner and isinstance(module_at(root, owner), _CONTAINERS):
        owner, _ = split_path(owner)
    if not isinstance(module_at(root, owner), _CONTAINERS):
        return owner
    if isinstance(module_at(root, path), _CONTAINERS):
        raise Refused(
            f"{path!r} and all that hold it are containers, which would run a new module by themselves; name a "
            "layer inside",
            "no_owner",
        )
    return path


def require_module_name(name: str) -> None:
    """Check that a name can be a child's.

    Raises:
        UsageError: otherwise.
    """
    if not isinstance(name, str) or not name or "." in name or not name.replace("-", "_").isprintable():
        raise UsageError(f"a layer's name is a non-empty string without dots, got {name!r}")
    if name.startswith("_"):
        raise UsageError(f"a layer's name must not begin with an underscore, got {name!r}")


def require_free(root: nn.Module, path: str) -> None:
    """Check that nothing is called ``path`` yet.

    Raises:
        Refused: otherwise.
    """
    parent_path, name = split_path(path)
    parent = module_at(root, parent_path)
    if _has(parent, name):
        raise Refused(f"{path!r} is taken; choose another name", "name_taken")


def _has(parent: nn.Module, name: str) -> bool:
    """Say whether a module holds something under a name, whatever its ``__getattr__`` would make up."""
    held = (parent.__dict__, parent._parameters, parent._buffers, parent._modules)
    return any(name in entries for entries in held) or any(name in vars(cls) for cls in type(parent).__mro__)


def placing_edits(scene: Scene, place: Place, new: NewModule, layer: str) -> tuple[Edit, ...]:
    """Return the edits that put a new module into its place behind ``layer``."""
    add = AddModule(place.path, new.fragment, place.after, new.initial, like=layer)
    if not place.hosted:
        return (add,)
    connection = Connection(f"after:{place.path}", "after", layer, layer, place.path, next_order(scene))
    return (add, Connect(connection))


def next_order(scene: Scene) -> int:
    """Return the order of a connection added now."""
    return max((c.order for c in scene.state.architecture.connections), default=-1) + 1
