"""Which channel feeds which: provenance by one execution of the real model.

``trace`` runs a model while every tensor carries *shadows*, the ids of the channels that its indices hold.
One rule per operator (``rule_table``) moves them and states two relations: indices that are the *same*
channel, and *bundles* that can only come and go together. From their classes ``Trace`` answers which
dimensions of which tensors must be resized with a layer (``WidthGroup``), ``growth`` and ``selection`` say
where each new index comes from, and ``prove`` compares a second trace, taken after the surgery, with the
first.

What is not known is never guessed: an operator without a rule pins every channel it touches.
"""

from esper_es.tracing.call_order import CallOrder
from esper_es.tracing.calls import ModuleCall
from esper_es.tracing.explanation import Explanation
from esper_es.tracing.frames import Frame, Frames
from esper_es.tracing.groups import Member, Pin, Reduction, WidthGroup
from esper_es.tracing.growth import Growth, Refusal, group_growth, group_selection, growth, selection
from esper_es.tracing.heads import freed, head_size, places_in_heads, reads, sides_of_heads
from esper_es.tracing.operation import Operation
from esper_es.tracing.outputs import Outputs, turned
from esper_es.tracing.proof import prove
from esper_es.tracing.provenance import Trace
from esper_es.tracing.readings import Reading, counts_heads, readings, readings_beside, weighing
from esper_es.tracing.roles import Role
from esper_es.tracing.rule_table import rule
from esper_es.tracing.slots import TracedTensor
from esper_es.tracing.tracer import Watcher, trace
from esper_es.tracing.wholes import as_whole, claimed, misread

__all__ = [
    "CallOrder",
    "Explanation",
    "Frame",
    "Frames",
    "Growth",
    "Member",
    "ModuleCall",
    "Operation",
    "Outputs",
    "Pin",
    "Reading",
    "Reduction",
    "Refusal",
    "Role",
    "Trace",
    "TracedTensor",
    "Watcher",
    "WidthGroup",
    "as_whole",
    "claimed",
    "counts_heads",
    "freed",
    "group_growth",
    "group_selection",
    "growth",
    "head_size",
    "misread",
    "places_in_heads",
    "prove",
    "readings",
    "readings_beside",
    "reads",
    "rule",
    "selection",
    "sides_of_heads",
    "trace",
    "turned",
    "weighing",
]
