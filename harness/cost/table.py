"""The cost table: costs of the teacher and of architectures, known before a trial trains."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from harness.core.metric import Costs
from harness.cost.base import BackendConditions, Conditions, backends
from harness.cost.counting import Counts
from harness.metrics import METRICS, cost_metrics

MOST_ARCHITECTURES = 256  # a space of more is measured architecture by architecture, when a trial asks for it


class CostTable:
    """The costs of the teacher and of every architecture measured so far, each backend's under one set of conditions.

    Args:
        conditions: The conditions that the backends measured under, by name of the backend.
        teacher: The teacher's costs by metric name, without those that are not known.
        students: The same of architectures, as ``key_of`` names them.
        members: Where several teach as one, the costs of each.
        uncounted: Operations of students that multiply and have no formula, so that MACs of some can't be counted.
    """

    def __init__(
        self,
        conditions: Mapping[str, Conditions],
        teacher: Costs,
        students: Mapping[str, Costs],
        members: Sequence[Costs] = (),
        uncounted: Sequence[str] = (),
    ) -> None:
        self.conditions = BackendConditions(conditions)
        self.teacher = teacher
        self.students = dict(students)
        self.members = tuple(members)
        self.uncounted = tuple(uncounted)

    def __getitem__(self, architecture: Mapping[str, Any]) -> Costs:
        return self.students[key_of(architecture)]

    @property
    def is_of_all_backends(self) -> bool:
        """Return whether every backend that is listed has measured it."""
        return all(backend.name in self.conditions for backend in backends())

    def add(self, other: CostTable) -> None:
        """Add the students of another table of the same conditions, and take the wider spread of the two."""
        for name, conditions in self.conditions.items():
            both = BackendConditions({"": conditions, "other": other.conditions[name]})
            self.conditions[name] = replace(conditions, spread=both.spread)
        self.students |= other.students

    def metrics(self, architecture: Mapping[str, Any]) -> dict[str, float]:
        """Return an architecture's known costs and its comparison with the teacher, by metric name."""
        return cost_metrics(self[architecture], self.teacher)

    def to_json(self) -> str:
        """Return the table as text."""
        return json.dumps(
            {
                "conditions": {name: asdict(conditions) for name, conditions in self.conditions.items()},
                "teacher": self.teacher,
                "students": self.students,
                **({"members": self.members} if self.members else {}),
                **({"uncounted": self.uncounted} if self.uncounted else {}),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> CostTable:
        """Return the table that ``to_json`` wrote.

        Raises:
            ValueError: If the text is no such table.
        """
        try:
            content = json.loads(text)
            conditions = {name: Conditions(**one) for name, one in content["conditions"].items()}
            students, members = dict(content["students"]), [dict(one) for one in content.get("members", ())]
            needed = _always_known(conditions)
            for costs in students.values():  # a teacher may be known by its answers alone
                if lacking := needed - costs.keys():
                    raise ValueError(f"no cost table: {sorted(lacking)[0]} is missing")
            return cls(conditions, dict(content["teacher"]), students, members, content.get("uncounted", ()))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no cost table: {error!r}") from error


def _always_known(measured_by: Mapping[str, Any]) -> set[str]:
    """Return the names of the costs that a network has if backends of these names have measured it."""
    declared = [metric for backend in backends() if backend.name in measured_by for metric in backend.metrics]
    names = [*Counts._fields, *(metric.name for metric in declared if metric.is_measured)]
    return {name for name in names if not METRICS[name].may_be_unknown}


def total_costs(costs: Sequence[Costs]) -> dict[str, float]:
    """Return the costs of networks that run one after the other on the same inputs, as far as all of them are known."""
    measured = [name for name in METRICS if all(name in one for one in costs)]
    return {name: METRICS[name].combine(one[name] for one in costs) for name in measured}


def key_of(architecture: Mapping[str, Any]) -> str:
    """Return the name of an architecture in a cost table, as in ``{"width": 8}``."""
    return json.dumps(dict(architecture), sort_keys=True)
