"""Families of students: a parameter chooses one, and each has parameters of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

Distributions = Mapping[str, BaseDistribution]


class Choice(Mapping[str, BaseDistribution]):
    """The ``student`` group of a space whose students are of several families.

    ``Choice("family", lcnet={"width": …}, resnet={"width": …, "depth": …})``: a trial has the parameters of its own
    family, and ``family`` itself. Names that can't be keywords are given as a dict: ``Choice("family", {"a:b": {}})``.

    Args:
        name: Name of the parameter that chooses; ``task.student`` is called with it too.
        families: The parameters of each family by name.
        more: The same as keywords.

    Raises:
        ValueError: If there is no family, a family's parameter is called as the choice, or one has several ranges.
    """

    def __init__(
        self, name: str, families: Mapping[str, Distributions] = MappingProxyType({}), /, **more: Distributions
    ) -> None:
        self.name = name
        self.families = {**families, **more}
        if not isinstance(name, str) or not name:
            raise ValueError(f"a Choice must have the name of the parameter that chooses, but got {name!r}.")
        if not self.families:
            raise ValueError(f"Choice({name!r}, …) must have a family, as Choice({name!r}, small={{…}}, large={{…}}).")
        for family, group in self.families.items():
            if not isinstance(group, Mapping):
                raise ValueError(
                    f"family {family!r} of Choice({name!r}, …) must have its parameters in a dict, {{}} if it has "
                    f"none, but got {group!r}."
                )
            if name in group:
                raise ValueError(f"a parameter of family {family!r} must not be called {name!r}, which chooses.")
            for parameter, distribution in group.items():
                other = self.distributions[parameter]
                if other != distribution:
                    raise ValueError(
                        f"{parameter} must have one range in all families that have it, but got {distribution} and "
                        f"{other}."
                    )

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the choice, and the parameters of all families, by name."""
        parameters: dict[str, BaseDistribution] = {}
        for group in self.families.values():
            for name, distribution in group.items():
                parameters.setdefault(name, distribution)
        return {self.name: CategoricalDistribution(list(self.families)), **parameters}

    def __getitem__(self, name: str) -> BaseDistribution:
        return self.distributions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.distributions)

    def __len__(self) -> int:
        return len(self.distributions)

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the parameters of each family."""
        return {family: tuple(group) for family, group in self.families.items()}


def family_groups(
    student: Distributions, chooser: str, families: Mapping[str, tuple[str, ...]]
) -> dict[str, dict[str, BaseDistribution]]:
    """Return the distributions of each family's students, the choice among them; all under "" where there are none.

    Args:
        student: Every parameter of a student.
        chooser: The one that chooses a family; empty where there are none.
        families: The names of the parameters of each family.
    """
    if not chooser:
        return {"": dict(student)}
    return {
        family: {chooser: CategoricalDistribution([family]), **{name: student[name] for name in names}}
        for family, names in families.items()
    }


def kept_families(
    student: Distributions, chooser: str, families: Mapping[str, tuple[str, ...]], held: Mapping[str, Any]
) -> tuple[dict[str, BaseDistribution], dict[str, tuple[str, ...]]]:
    """Return a group and its families without those that a held choice leaves out.

    Args:
        student: Every parameter of a student, held ones narrowed.
        chooser: The parameter that chooses a family; empty where there are none.
        families: The names of the parameters of each family.
        held: Values that are held, by name.
    """
    if not chooser or chooser not in held:
        return dict(student), dict(families)
    kept = {str(held[chooser]): families[str(held[chooser])]}
    names = {chooser, *next(iter(kept.values()))}
    return {name: one for name, one in student.items() if name in names}, kept
