"""Plain twins: modules of ours as ``torch.fx.GraphModule``, which carries its code along and needs no class of ours."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule

from esper_es.domain.canonical import Json
from esper_es.projections.live.modules import Bypass, GatedResidual, NoOp, Residual, SeedSlot
from esper_es.projections.live.results import filled

_SELF_CONTAINED = ("value", "tuple", "list", "dict")
"""Forms of a result that Python's own types can hold."""


def twin_of(module: nn.Module) -> nn.Module | None:
    """Return a module of torch's with the same function, over the same children; None where there is none.

    A seed that does not take part yet is left out.
    """
    make = _TWINS.get(type(module))
    twin = None if make is None else make(module)
    if twin is not None:
        twin.training = module.training
    return twin


def _residual(module: Residual) -> nn.Module:
    graph = Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(operator.add, (x, graph.call_module("body", (x,)))))
    return _with_children(GraphModule({"body": module.body}, graph, "Residual"), module)


def _gated_residual(module: GatedResidual) -> nn.Module:
    graph = Graph()
    x = graph.placeholder("x")
    share = graph.call_function(operator.mul, (graph.get_attr("gate"), graph.call_module("body", (x,))))
    graph.output(graph.call_function(operator.add, (x, share)))
    return _with_children(
        GraphModule({"gate": module.gate, "body": module.body}, graph, "GatedResidual"), module
    )


def _with_children(twin: GraphModule, module: nn.Module) -> GraphModule:
    """Give a twin the children that its graph does not call: layers that were inserted behind others of them."""
    for name, child in module._modules.items():
        if name not in twin._modules:
            twin.add_module(name, child)
    return twin


def _noop(module: NoOp) -> nn.Module:
    graph = Graph()
    graph.output(graph.call_function(torch.zeros_like, (graph.placeholder("x"),)))
    return GraphModule({}, graph, "NoOp")


def _slot(module: SeedSlot) -> nn.Module:
    if not module._mixes:
        return nn.Identity()
    graph = Graph()
    x = graph.placeholder("x")
    share = graph.call_function(operator.mul, (graph.get_attr("alpha"), graph.call_module("kernel", (x,))))
    graph.output(graph.call_function(operator.add, (x, share)))
    return GraphModule({"alpha": module.alpha, "kernel": module.kernel}, graph, "SeedSlot")


def _bypass(module: Bypass) -> nn.Module | None:
    position, keyword, *inner = module.let_through
    if position != 0 or inner or module.kept or not _self_contained(module.returned):
        return None
    graph = Graph()
    stream = graph.placeholder(str(keyword or "x"))
    graph.placeholder("*args")
    graph.placeholder("**kwargs")
    bridge = module._modules.get("bridge")
    if bridge is not None:
        stream = graph.call_module("bridge", (stream,))
    graph.output(filled(module.returned, stream, (), {}))
    twin = GraphModule({} if bridge is None else {"bridge": bridge}, graph, "Bypass")
    return _with_children(twin, module)


def _self_contained(template: Json) -> bool:
    if template is None or isinstance(template, str):
        return True
    ((form, content),) = template.items()
    if form not in _SELF_CONTAINED:
        return False
    if form == "value":
        return True
    return all(_self_contained(item[1] if form == "dict" else item) for item in content)


def handing_over(module: nn.Module) -> GraphModule:
    """Return a forward hook that sends a module's output through another module."""
    graph = Graph()
    output = [graph.placeholder(name) for name in ("module", "args", "output")][-1]
    graph.output(graph.call_module("following", (output,)))
    return GraphModule({"following": module}, graph, "Following")


def standing_by() -> GraphModule:
    """Return a forward hook that does nothing: torch's fused paths step aside before it."""
    graph = Graph()
    for name in ("module", "args", "output"):
        graph.placeholder(name)
    graph.output(None)
    return GraphModule({}, graph, "StandingBy")


_TWINS: dict[type[nn.Module], Callable[[Any], nn.Module | None]] = {
    Residual: _residual,
    GatedResidual: _gated_residual,
    NoOp: _noop,
    SeedSlot: _slot,
    Bypass: _bypass,
}
