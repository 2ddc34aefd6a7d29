"""The four surgeries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from weakref import WeakKeyDictionary

from torch import nn

from esper_es.domain.canonical import Json
from esper_es.domain.constraints import SurgeryConstraints
from esper_es.domain.envelope import Cause
from esper_es.domain.errors import UsageError
from esper_es.example_inputs import normalized
from esper_es.operations import Request, arguments_as_json, perform
from esper_es.planning.layers.insertion import plan_add_layer
from esper_es.planning.layers.new_layers import require_tree
from esper_es.planning.layers.removal import plan_remove_layer
from esper_es.planning.layers.skip import plan_add_skip_connection, plan_remove_skip_connection
from esper_es.planning.provenance import traced
from esper_es.planning.scene import Planner
from esper_es.planning.width import plan_modify_layer_width
from esper_es.planning.widths.gradmax import Loss
from esper_es.planning.widths.importance import Importance, l2_importance
from esper_es.result import SurgeryResult
from esper_es.session import Session
from esper_es.shadow import on_a_copy
from esper_es.standalone import in_memory_session
from esper_es.tracing import Explanation, Trace
from esper_es.width_explanation import explained_width


class ModelSurgeon:
    """Performs surgery on models: on the one of a run (``run.surgeon``), or on any given as ``model``.

    Alone, as ``ModelSurgeon()``, it keeps a log in memory for each model it is given, as long as that lives; it keeps
    no model alive. No constraints hold there unless they are given.

    Args:
        session: of the run, for ``run.surgeon``.
        constraints: for models given as ``model``.
        example_inputs: for models given as ``model``; guessed from the first layer otherwise.
    """

    def __init__(
        self,
        session: Session | None = None,
        *,
        constraints: SurgeryConstraints | None = None,
        example_inputs: object = None,
    ) -> None:
        self._session = session
        self._constraints = constraints
        self._example_inputs = example_inputs
        self._sessions: WeakKeyDictionary[nn.Module, Session] = WeakKeyDictionary()
        self.operation_history: list[SurgeryResult] = []

    def add_layer(
        self,
        model: nn.Module | None = None,
        after_layer: str = "",
        new_layer: nn.Module | Mapping[str, Json] | None = None,
        layer_name: str = "",
        connection_type: str = "sequential",
        *,
        cause: Cause | None = None,
    ) -> SurgeryResult:
        """Insert a layer after another.

        Args:
            model: only for a surgeon without a run.
            after_layer: path of the layer to insert behind.
            new_layer: a module composed of registered layer kinds (it is copied), or a spec such as
                ``{"type": "linear", "in_features": 8, "out_features": 8}``.
            layer_name: name of the new layer, beside ``after_layer``.
            connection_type: ``"sequential"`` or ``"residual"``, which starts by adding nothing: a spec with its last
                affine layer at zero, a module behind a gate at zero.
            cause: who and why.

        Raises:
            UsageError: for misuse of the API; a layer that can't be inserted is refused in the result.
        """
        if new_layer is None:
            raise UsageError("add_layer needs new_layer: a module or a layer spec")
        if isinstance(new_layer, nn.Module):
            require_tree(new_layer)
        arguments = {"new_layer": new_layer, "layer_name": layer_name, "connection_type": connection_type}
        planner = partial(
            plan_add_layer,
            after_layer=after_layer,
            new_layer=new_layer,
            layer_name=layer_name,
            connection_type=connection_type,
        )
        return self._perform(model, "add_layer", after_layer, arguments, cause, planner)

    def remove_layer(
        self,
        model: nn.Module | None = None,
        layer_name: str = "",
        bridge_strategy: str = "direct",
        *,
        calibration: Sequence[object] = (),
        cause: Cause | None = None,
    ) -> SurgeryResult:
        """Remove a layer and bridge the gap.

        Args:
            model: only for a surgeon without a run.
            layer_name: path of the layer. Connections inside of it go with it; skips that end in it end in what takes
                its place.
            bridge_strategy: ``"direct"``: let the input through, by an adapter where shapes differ; ``"learned"``:
                an affine adapter fitted to what the layer did.
            calibration: batches, each as ``example_inputs``, for the fit besides the example inputs; give
                many more rows than the layer has inputs. ``bridge_r2`` in the result is of these rows,
                ``bridge_r2_held_out`` of the last fifth of them, for a bridge fitted to the others; where they
                are too few for that, it is None, and so is ``function_preserved``.
            cause: who and why.

        Raises:
            UsageError: for misuse of the API.
        """
        session = self._session_for(model)
        if not isinstance(calibration, (list, tuple)):
            raise UsageError(f"calibration is a list of batches, each as example_inputs; got {calibration!r}")
        batches = tuple(normalized(batch, session.live.module) for batch in calibration)
        arguments = {"bridge_strategy": bridge_strategy}
        planner = partial(
            plan_remove_layer, layer_name=layer_name, bridge_strategy=bridge_strategy, calibration=batches
        )
        return self._perform(model, "remove_layer", layer_name, arguments, cause, planner)

    def modify_layer_width(
        self,
        model: nn.Module | None = None,
        layer_name: str = "",
        new_width: int = 0,
        initialization: str = "function_preserving",
        *,
        unit: str = "channels",
        dimension: str | int = "out",
        importance: Importance | Callable[..., object] | None = None,
        loss: Loss | None = None,
        cause: Cause | None = None,
    ) -> SurgeryResult:
        """Widen or narrow a layer (channels, neurons, heads); all that it feeds or is fed by it follows.

        Args:
            model: only for a surgeon without a run.
            layer_name: path of the layer.
            new_width: size of the dimension afterwards, counted by ``unit``. Where the outputs are cut into parts that
                go different ways, new ones are like the last, or shared out among the parts as the code cuts them.
            initialization: of new entries. ``"function_preserving"``: incoming weights are drawn (He et al. 2015),
                outgoing ones zero, so that the outputs stay bit for bit; under a LayerNorm or RMSNorm over the
                channels by rescaling it (LEMON, Wang et al. 2023), up to rounding where the model allows it. Where
                it does not (a norm whose output enters the stream it is to see, a softmax over the channels), the
                result's ``function_preserved`` is False. Under spectral norm they stay in evaluation, and what stays of
                a narrowed layer computes what it did; in training the norm is estimated anew.
                ``"kaiming"``, ``"xavier"``: incoming weights drawn by that law, outgoing ones zero, norms as they
                are. ``"zeros"``: incoming zero, outgoing drawn; refused where such units would never learn (behind
                a ReLU). ``"net2wider"``: copies of old units, outgoing weights shared out (Chen et al. 2016).
                ``"gradmax"``: between two linear layers or convolutions, incoming weights of largest gradient, outgoing
                zero (Evci et al. 2022).
            unit: ``"channels"``, or ``"units"``: what comes and goes as one (heads, key-value groups), or ``"heads"``:
                the same, but where an attention has one head, or a ``GroupNorm`` one group, all its channels count as
                that one, though each could come and go by itself; or ``"head_size"``: the channels of each head of
                queries, keys and values, whose number stays. Rotary frequencies are lengthened where old ones end, and
                all layers that share them change together; where the code scales scores by the size of heads, as the
                example inputs show in evaluation, queries make up for it. Narrowing keeps the channels of largest
                importance, over all heads.
            dimension: ``"out"``, ``"in"``, or the number of a dimension of the layer's weight.
            importance: for narrowing: takes a copy of the model, in eval mode and with gradients enabled, and the
                ``WidthGroup``; returns a number per unit; the L2 norm of the producing weights by default.
            loss: for ``"gradmax"``: takes a copy of the model, runs it on a batch, returns the scalar loss.
            cause: who and why.

        Raises:
            UsageError: for misuse of the API.
        """
        arguments = {
            "new_width": new_width,
            "initialization": initialization,
            "unit": unit,
            "dimension": dimension,
        }
        planner = partial(
            plan_modify_layer_width,
            layer_name=layer_name,
            new_width=new_width,
            initialization=initialization,
            importance=importance or l2_importance,  # type: ignore[arg-type]
            unit=unit,
            dimension=dimension,
            loss=loss,
        )
        return self._perform(model, "modify_layer_width", layer_name, arguments, cause, planner)

    def add_skip_connection(
        self,
        model: nn.Module | None = None,
        from_layer: str = "",
        to_layer: str = "",
        connection_type: str = "add",
        *,
        cause: Cause | None = None,
    ) -> SurgeryResult:
        """Let the output of one layer join the output of a later one on the same path.

        Args:
            model: only for a surgeon without a run.
            from_layer: path of the earlier layer.
            to_layer: path of the later layer.
            connection_type: ``"add"``; where shapes differ, on the example inputs or on longer ones, through a
                projection that starts at zero; or ``"concat"``: both outputs side by side through a projection that
                starts by letting the later one through.
            cause: who and why.

        Raises:
            UsageError: for misuse of the API.
        """
        arguments = {"from_layer": from_layer, "connection_type": connection_type}
        planner = partial(
            plan_add_skip_connection,
            from_layer=from_layer,
            to_layer=to_layer,
            connection_type=connection_type,
        )
        return self._perform(model, "add_skip_connection", to_layer, arguments, cause, planner)

    def remove_skip_connection(
        self,
        model: nn.Module | None = None,
        from_layer: str = "",
        to_layer: str = "",
        *,
        cause: Cause | None = None,
    ) -> SurgeryResult:
        """Take a skip connection away again, with the projection that it runs through.

        Args:
            model: only for a surgeon without a run.
            from_layer: path of the earlier layer.
            to_layer: path of the later layer.
            cause: who and why.

        Raises:
            UsageError: for misuse of the API; where there is no such connection, the result says so.
        """
        planner = partial(plan_remove_skip_connection, from_layer=from_layer, to_layer=to_layer)
        return self._perform(
            model, "remove_skip_connection", to_layer, {"from_layer": from_layer}, cause, planner
        )

    def trace(self, model: nn.Module | None = None) -> Trace:
        """Trace which channel feeds which, on a copy of the model."""
        session = self._session_for(model)
        return on_a_copy(session.live.module, lambda shadow: traced(shadow, session.examples))

    def explain(
        self, layer_name: str, model: nn.Module | None = None, dimension: str | int = "out"
    ) -> Explanation:
        """Return what grows together with a layer, and what is pinned or fixed, and why.

        What no operator pins is tried on a copy: the model's own code may fix it all the same. The explanation
        prints for a person; ``as_dict()`` and ``as_json()`` are for programs.

        Raises:
            UsageError: if the layer has no width.
        """
        return explained_width(self._session_for(model), layer_name, dimension)

    def _perform(
        self,
        model: nn.Module | None,
        operation: str,
        target: str,
        arguments: Mapping[str, object],
        cause: Cause | None,
        planner: Planner,
    ) -> SurgeryResult:
        request = Request(
            operation=operation,
            target=target,
            arguments=arguments_as_json(arguments),
            cause=cause or Cause(),
        )
        result = perform(self._session_for(model), request, planner)
        self.operation_history.append(result)
        return result

    def _session_for(self, model: nn.Module | None) -> Session:
        if self._session is not None:
            if model is not None and model is not self._session.live.module:
                raise UsageError(
                    "this surgeon belongs to a run; leave model out, or use ModelSurgeon() alone"
                )
            return self._session
        if not isinstance(model, nn.Module):
            raise UsageError("ModelSurgeon() alone needs model=...; or attach the model and use run.surgeon")
        if model not in self._sessions:
            self._sessions[model] = in_memory_session(model, self._example_inputs, self._constraints)
        return self._sessions[model]
