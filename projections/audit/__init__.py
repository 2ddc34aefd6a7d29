"""The audit tables: plain SQL over every model of a log, and the questions that they answer."""

from esper_es.projections.audit.audit import Audit
from esper_es.projections.audit.projector import project, rebuild
from esper_es.projections.audit.question import Answer, Question

__all__ = ["Answer", "Audit", "Question", "project", "rebuild"]
