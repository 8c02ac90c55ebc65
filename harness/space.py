"""The search space: a declaration of what varies in Optuna's distributions, grouped by what they reach."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, distribution_to_json
from optuna.trial import Trial
from torch import nn

from harness.core.choices import chosen, holds, storable
from harness.core.errors import HarnessError, did_you_mean
from harness.core.names import check_parameter_names
from harness.core.sources import Code, code_of
from harness.space_checks import (
    TEACHER,
    Distributions,
    check_criterion,
    check_ends,
    check_kinds,
    check_names,
    check_task,
    keywords_of,
)
from harness.space_families import Choice, family_groups, kept_families
from harness.space_files import run_space_file
from harness.space_initial import check_initial, hands_teacher, needs_teacher
from harness.space_layers import FamilyLayers, check_family_layers, kept_family_layers, student_layers_of
from harness.space_module import LABELS, OWN_TRAINING, check_module_space
from harness.space_ranges import hold, listed, middle_of, suggest
from harness.space_training import (
    check_training_group,
    check_training_names,
    hold_idle,
    storable_training,
    training_with,
)
from harness.task import Task, declared_metrics, has_own_training
from lightning_modules.methods import HINTON, METHODS, Criterion, make_criterion
from lightning_modules.training import Training

# A tuple as a choice is warned of where it is declared; here it is stored as text.
warnings.filterwarnings("ignore", "Choices for a categorical distribution should be", UserWarning)

METHOD = "method"
"""Name of the parameter that chooses among methods."""
LABELS_ALONE = {LABELS: 1.0, "temperature": 1.0}
"""Distillation parameters with all weight on the labels; the temperature then has no effect."""
Branch = tuple[str, str]
"""The name of a method and of a family of students; the latter is empty where there are no families."""
LOSS_NAMES = ("temperature", "alpha")
"""Parameters of every control's loss, whatever the method: a parameter of the student can't have these names."""
_HOW_METHODS = (
    "; this space has one method: search one whose name ends in -methods (--help lists the spaces), or name methods in "
    "a space file, as distillation={'soft_target': {…}, 'hint': {…}}."
)


def is_own_control(params: Mapping[str, Any]) -> bool:
    """Return whether a trial was trained on labels alone itself: its ``alpha`` is 1.

    The parameter ``alpha`` weighs the labels in every method that ships; what it is in a space's own method only that
    method knows.
    """
    return params.get(LABELS) == 1.0 and params.get(METHOD, HINTON) in METHODS


@dataclass(frozen=True)
class Configuration:
    """One point of a space, grouped as the space is.

    Attributes:
        student: Values of the architecture.
        distillation: Values of the method.
        training: Values of the training.
        initial: What the student's weights start from.
        is_taught: Whether the teacher's outputs are at hand; not for a control.
    """

    student: dict[str, Any]
    distillation: dict[str, Any]
    training: dict[str, Any]
    initial: dict[str, Any] = field(default_factory=dict)
    is_taught: bool = True

    def params(self) -> dict[str, Any]:
        """Return every value by name."""
        return {**self.student, **self.distillation, **self.training, **self.initial}


@dataclass(frozen=True)
class Method:
    """A user's own method of distillation, for ``SearchSpace.distillation``.

    Attributes:
        criterion: Its class. The keywords of its ``__init__`` can be searched.
        parameters: A distribution for each of the keywords.
    """

    criterion: type[Criterion]
    parameters: Distributions = field(default_factory=dict)


@dataclass(frozen=True)
class SearchSpace:
    """A task and what may vary about its students.

    Attributes:
        task: What is being compressed.
        student: Architecture; reaches ``task.student``, or ``task.module``. Families of students with parameters of
            their own are a ``Choice``.
        distillation: ``temperature`` and ``alpha`` (the weight of the **hard-label** loss). Or, by name of a method
            (``lightning_modules.methods.METHODS``, or any other name with a ``Method`` of one's own), the parameters
            of each: ``method`` is searched then too, and a method's parameters exist in its own trials only. Of a
            task with ``module``: other keywords of it, ``alpha`` among them, if it is to have a control.
        training: Keywords of ``lightning_modules.training.Training``, as far as they vary; they win over
            ``task.training``. Of a task with ``module``: other keywords of it, which its tuned controls vary.
        initial: Start weights: ``start`` alone, a choice of ``"scratch"`` (as ``student()`` gives them), ``"layers"``
            and ``"pruned"`` (of the teacher, ``lightning_modules.initial``), and files of safetensors.
        epochs: Epochs of a trial, unless the command line says otherwise.
        code: The source code of the space file and of the modules that it imports; set by ``load_space``.
        chooser: The parameter that chooses a family of students; set by a ``Choice``, and empty without one.
        families: The names of the parameters of each family; set by a ``Choice``.
        layers: Of families of students, their names of layers by those that methods name, as
            ``{"lcnet": {"late": "blocks.5"}, "resnet": {"late": "layer4"}}`` for a ``student_layer`` called ``late``.
            A name that a family is given no other for is the layer's own.

    Raises:
        ValueError: If a parameter's name is unknown to the function that it should reach, missing, or used twice.
    """

    task: Task
    student: Distributions
    distillation: Mapping[str, BaseDistribution | Distributions | Method]
    training: Distributions = field(default_factory=dict)
    initial: Distributions = field(default_factory=dict)
    epochs: int = 20
    code: Code = field(default_factory=Code, repr=False, compare=False)
    chooser: str = ""
    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    layers: FamilyLayers = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_task(self.task, epochs=self.epochs)
        if isinstance(self.student, Choice):
            object.__setattr__(self, "chooser", self.student.name)
            object.__setattr__(self, "families", self.student.names)
        object.__setattr__(self, "student", {name: storable(name, dist) for name, dist in self.student.items()})
        if self.trains_itself:
            groups = {"student": self.student, "distillation": self.distillation, "training": self.training}
            check_module_space(self.task, groups)
            object.__setattr__(self, "training", {name: storable(name, dist) for name, dist in self.training.items()})
        else:
            object.__setattr__(self, "training", storable_training(self.training))
            self._check_methods()
        if self.layers:
            check_family_layers(self.layers, self.families, student_layers_of(self.criteria, self.methods))
        object.__setattr__(self, "initial", {name: storable(name, dist) for name, dist in self.initial.items()})
        others = itertools.chain(self.student, self.training, self._method, *self.methods.values())
        check_initial(self.initial, set(others))
        check_parameter_names(self.distributions)
        for metric in declared_metrics(self.task)[1:]:
            if metric.name in self.distributions:
                raise ValueError(f"metric {metric.name!r} must have another name than a parameter; rename one of them.")

    def _check_methods(self) -> None:
        """Check the methods, their parameters and the training group against what they reach."""
        for method, parameters in self.methods.items():
            check_criterion(method, self.criteria.get(method))
            taken = sorted(set(self.student) & set(LOSS_NAMES))
            if taken:
                raise ValueError(
                    f"student must not name {taken[0]!r}, which is the loss's, in every control too; "
                    "call the argument of student() otherwise."
                )
            if self.hands_teacher and TEACHER in self.student:
                raise ValueError(f"student must not name {TEACHER!r}, which student() is handed; leave it out.")
            names = [*self.student, METHOD, *parameters, *self.training]
            if len(set(names)) < len(names):
                twice = sorted({name for name in names if names.count(name) > 1})
                raise ValueError(f"a parameter must stand in one group only, but got {', '.join(twice)} in several.")
            check_names("distillation", parameters, keywords_of(self.criteria[method].__init__), all_needed=True)
            for name, distribution in parameters.items():
                if self.distributions[name] != distribution:
                    raise ValueError(
                        f"{name} must have one range in all methods that have it, but got {distribution} and "
                        f"{self.distributions[name]}."
                    )
        check_training_names(self.training)
        self._check_domains()

    def _check_domains(self) -> None:
        """Check that losses and training accept each choice, and the ends of every range."""
        for method, parameters in self.methods.items():
            check_kinds(parameters, self.criteria[method].__init__)
            check_ends(f"method {method!r}", parameters, self.criteria[method])
        check_training_group(self.task.training, self.training)

    @cached_property
    def trains_itself(self) -> bool:
        """Return whether students train themselves (``Task.module``), without a method and a ``Training``."""
        return has_own_training(self.task)

    @cached_property
    def methods(self) -> dict[str, Distributions]:
        """Return the parameters of each method by its name; of students that train themselves under one name."""
        if self.trains_itself:
            return {OWN_TRAINING: {name: storable(name, dist) for name, dist in self.distillation.items()}}  # type: ignore[arg-type]
        given = {
            name: value if isinstance(value, Mapping) else storable(name, value, plain=True)
            for name, value in self._distributions_of_methods().items()
        }
        nested = {name: value for name, value in given.items() if isinstance(value, Mapping)}
        flat = {name: value for name, value in given.items() if not isinstance(value, Mapping)}
        if nested and flat:
            raise ValueError(f"distillation must name either parameters or methods, but got {sorted(given)}.")
        return {
            method: {name: storable(name, dist, plain=True) for name, dist in parameters.items()}
            for method, parameters in (nested or {HINTON: flat}).items()
        }

    def _distributions_of_methods(self) -> dict[str, Any]:
        """Return what ``distillation`` declares, each ``Method`` by its parameters, as those of ``METHODS`` are."""
        return {
            name: value.parameters if isinstance(value, Method) else value for name, value in self.distillation.items()
        }

    @cached_property
    def criteria(self) -> dict[str, type[Criterion]]:
        """Return the criterion of each method by its name."""
        if self.trains_itself:
            return {}
        own = {name: value.criterion for name, value in self.distillation.items() if isinstance(value, Method)}
        known = {name: METHODS[name] for name in self.methods if name in METHODS}
        return {**known, **own}

    def criterion(self, configuration: Configuration) -> Criterion:
        """Return a fresh criterion of a configuration's method and parameters. It must be set up before it is used.

        The loss of labels alone, which the controls of any space are trained with, is a case of ``soft_target``.
        """
        parameters = dict(configuration.distillation)
        method = parameters.pop(METHOD, HINTON)
        known = method in self.criteria
        criterion = self.criteria[method](**parameters) if known else make_criterion(method, **parameters)
        criterion.layer_names = self.layer_names(configuration.student)
        return criterion

    def training_of(self, configuration: Configuration) -> Training:
        """Return how a configuration's student is trained: as it says, and else as the task does."""
        values = {name: configuration.training[name] for name in self.varied_training}
        return training_with(self.task.training, self.varied_training, values)

    @property
    def varied_training(self) -> Distributions:
        """Return the keywords of ``Training`` that vary: none where students train themselves."""
        return {} if self.trains_itself else self.training

    def layer_names(self, architecture: Mapping[str, Any]) -> Mapping[str, str]:
        """Return what an architecture's family calls layers, by the names that methods have for them."""
        return self.layers.get(architecture[self.chooser], {}) if self.chooser else {}

    def labels_alone(self, configuration: Configuration) -> Configuration:
        """Return a configuration without its teacher, as controls are trained."""
        parameters = {**configuration.distillation, LABELS: 1.0} if self.trains_itself else dict(LABELS_ALONE)
        return replace(configuration, distillation=parameters, is_taught=False)

    @cached_property
    def _method(self) -> dict[str, BaseDistribution]:
        """Return the choice of the method, where there is one."""
        searched = any(isinstance(value, Mapping) for value in self._distributions_of_methods().values())
        return {METHOD: CategoricalDistribution(list(self.methods))} if searched else {}

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Return every parameter's distribution by name, in declaration order; a trial has those of one method."""
        parameters = {name: dist for group in self.methods.values() for name, dist in group.items()}
        return {**self.student, **self._method, **parameters, **self.training, **self.initial}

    @cached_property
    def branches(self) -> dict[Branch, dict[str, BaseDistribution]]:
        """Return the distributions of a trial of each method and family, by name."""
        return {
            (method, family): {
                **{name: self.student[name] for name in group},
                **self._method,
                **parameters,
                **self.training,
                **self.initial,
            }
            for method, parameters in self.methods.items()
            for family, group in self.student_groups.items()
        }

    @cached_property
    def student_groups(self) -> dict[str, dict[str, BaseDistribution]]:
        """Return the distributions of each family's students, the choice held; all under "" without families."""
        return family_groups(self.student, self.chooser, self.families)

    def branch_key(self, params: Mapping[str, Any]) -> Branch:
        """Return the method and the family of a configuration."""
        return params.get(METHOD, next(iter(self.methods))), params.get(self.chooser, "") if self.chooser else ""

    def branch_of(self, params: Mapping[str, Any]) -> dict[str, BaseDistribution] | None:
        """Return the distributions of a configuration's parameters; ``None`` if it is not complete."""
        branch = self.branches.get(self.branch_key(params), {})
        return branch if branch.keys() == params.keys() else None

    def architecture_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of a configuration's parameters that are its student's."""
        return {name: params[name] for name in self.student if name in params}

    def fault(self, values: Mapping[str, Any]) -> str | None:
        """Return why values by name do not belong to the space; ``None`` if they do."""
        for name, value in values.items():
            distribution = self.distributions.get(name)
            if distribution is None:
                return f"{name!r} is no parameter of the space{did_you_mean(name, self.distributions)}"
            if not holds(distribution, value):
                return f"{name} is {value!r}, and the space has {distribution}"
        return None

    def fixed(self, values: Mapping[str, str]) -> SearchSpace:
        """Return the space with some parameters held at a value, given as text.

        Where alpha is held at 1, the loss does not depend on the teacher, and so not on the temperature and the like:
        they are held too, in the middle of their ranges, unless they are given. So is what has no effect beside a
        training parameter, as the momentum beside AdamW.

        Raises:
            HarnessError: If a name is unknown, a value is outside its range, or alpha is held at 1 for several methods.
        """
        unknown = sorted(set(values) - set(self.distributions))
        if unknown:
            asks_for_methods = unknown[0] == METHOD and not self.trains_itself
            remedy = did_you_mean(unknown[0], self.distributions, otherwise=".")
            raise HarnessError(
                f"--fix must name a parameter of the space ({', '.join(self.distributions)}), but got {unknown[0]!r}"
                f"{_HOW_METHODS if asks_for_methods else remedy}"
            )

        def narrowed(group: Distributions) -> Distributions:
            return {name: hold(name, dist, values[name]) if name in values else dist for name, dist in group.items()}

        methods = {name: narrowed(group) for name, group in self.methods.items()}
        if METHOD in values:
            hold(METHOD, self.distributions[METHOD], values[METHOD])
            methods = {values[METHOD]: methods[values[METHOD]]}
            self._check_reaches(values, METHOD, 0)
        student, families = narrowed(self.student), self.families
        if self.chooser in values:
            self._check_reaches(values, self.chooser, 1)
            student, families = kept_families(student, self.chooser, families, values)
        shipped = {name: group for name, group in methods.items() if name in METHODS}  # alpha weighs the labels there
        alone = [name for name, group in shipped.items() if "alpha" in values and _is_labels_alone(group)]
        if alone and len(methods) > 1:
            raise HarnessError(
                "--fix alpha=1 is labels alone, whatever the temperature, beside methods that have no alpha or are the "
                f"same then; name one too: --fix alpha=1 --fix {METHOD}={alone[0]}."
            )
        if alone:
            methods = {alone[0]: _held_idle(methods[alone[0]], values)}
        return replace(
            self,
            student=student,
            families=families,
            layers=kept_family_layers(self.layers, families, student_layers_of(self.criteria, methods))
            if self.layers
            else {},
            distillation={name: Method(self.criteria[name], group) for name, group in methods.items()}
            if self._method
            else next(iter(methods.values())),
            training=narrowed(self.training)
            if self.trains_itself
            else hold_idle(self.task.training, narrowed(self.training)),
            initial=narrowed(self.initial),
        )

    def _check_reaches(self, values: Mapping[str, str], decides: str, place: int) -> None:
        """Check that each value that is held exists beside the one that is held of what decides.

        Args:
            values: What is held, as text.
            decides: The method's or the family's parameter.
            place: Its place in the key of a branch.
        """
        of_it = [branch for key, branch in self.branches.items() if key[place] == values[decides]]
        elsewhere = sorted(set(values) - {name for branch in of_it for name in branch})
        if elsewhere:
            raise HarnessError(f"--fix {elsewhere[0]} reaches nothing where {decides} is {values[decides]!r}.")

    @property
    def own_methods(self) -> list[str]:
        """Return the names of the methods whose criterion the space defines itself."""
        return [name for name in self.criteria if name not in METHODS]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Return the names of parameters by group; ``tuned``: those of training that vary."""
        return {
            **({"initial": list(self.initial)} if self.initial else {}),
            "student": list(self.student),
            "training": list(self.training),
            "tuned": [name for name, distribution in self.training.items() if not distribution.single()],
        }

    def suggest(self, trial: Trial) -> Configuration:
        """Return a trial's configuration: the values that it has already, and suggested ones for the rest."""

        def suggested(group: Distributions) -> dict[str, Any]:
            return {name: suggest(trial, name, distribution) for name, distribution in group.items()}

        family = suggest(trial, self.chooser, self.student[self.chooser]) if self.chooser else ""
        student = suggested({name: self.student[name] for name in self.student_groups[family]})
        chosen = suggested(self._method)
        parameters = suggested(self.methods[chosen.get(METHOD, next(iter(self.methods)))])
        training, initial = suggested(self.training), suggested(self.initial)
        return Configuration(student, {**chosen, **parameters}, training, initial)

    def configuration(self, params: Mapping[str, Any]) -> Configuration:
        """Return the configuration of these parameters, in its groups."""
        branch = self.methods[params.get(METHOD, next(iter(self.methods)))]
        return Configuration(
            student={name: params[name] for name in self.student_groups[self.branch_key(params)[1]]},
            distillation={name: params[name] for name in (*self._method, *branch)},
            training={name: params[name] for name in self.training},
            initial={name: params[name] for name in self.initial},
        )

    def middle(self, method: str | None = None, family: str | None = None) -> dict[str, Any]:
        """Return the middle of every range (of its logarithm where it is sampled so): a neutral starting point.

        Args:
            method: The method; ``None`` takes the first one.
            family: The family of students; ``None`` takes the first one.
        """
        method = next(iter(self.methods)) if method is None else method
        family = next(iter(self.student_groups)) if family is None else family
        middle = {name: middle_of(distribution) for name, distribution in self.branches[method, family].items()}
        return middle | ({METHOD: method} if self._method else {}) | ({self.chooser: family} if self.chooser else {})

    @cached_property
    def hands_teacher(self) -> bool:
        """Return whether ``student()``, or ``module()``, is handed the frozen teacher."""
        return hands_teacher(self.task)

    @property
    def needs_teacher(self) -> bool:
        """Return whether the teacher's network is at hand wherever students are trained."""
        return needs_teacher(self.task, self.initial)

    def build_student(self, values: Mapping[str, Any], teacher: nn.Module | None = None) -> nn.Module:
        """Return a student with fresh weights.

        Args:
            values: Of its architecture, as storages keep them. Of a student that trains itself, also of any other
                parameter; those that are missing are in the middle of their ranges.
            teacher: A copy of the teacher of its own, where the task is handed one.
        """
        every = self.middle() | dict(values) if self.trains_itself else values
        given = {name: chosen(self.distributions[name], every[name]) for name in every if name not in self.initial}
        make = self.task.module if self.trains_itself else self.task.student
        return make(**given, **({TEACHER: teacher} if self.hands_teacher else {}))

    def building(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of a trial's parameters that its student is built from."""
        if not self.trains_itself:
            return self.architecture_of(params)
        return {name: value for name, value in params.items() if name not in self.initial}

    def architectures(self, *, limit: int) -> list[dict[str, Any]] | None:
        """Return every architecture of the space, or ``None`` if they are uncountable or more than ``limit``."""
        found: list[dict[str, Any]] = []
        for group in self.student_groups.values():
            choices = [values for one in group.values() if (values := listed(one, limit)) is not None]
            if len(choices) < len(group) or len(found) + math.prod(map(len, choices)) > limit:
                return None
            found += [dict(zip(group, combination, strict=True)) for combination in itertools.product(*choices)]
        return found

    def declaration(self) -> dict[str, Any]:
        """Return the space as JSON-like values: a resumed study's must be those that it was begun with."""
        declared = {name: json.loads(distribution_to_json(dist)) for name, dist in self.distributions.items()}
        if not self.chooser:
            return declared
        layers = {family: dict(names) for family, names in self.layers.items() if names}
        families = {name: list(group) for name, group in self.families.items()}
        return {**declared, "families": families, **({"layers": layers} if layers else {})}


def load_space(file: Path, epochs: int | None = None) -> SearchSpace:
    """Run a space file and return its ``SPACE``. Modules in its folder can be imported, as from any script.

    Args:
        file: The space file.
        epochs: Epochs of a trial instead of those that the file says.

    Raises:
        HarnessError: If there is no such file, it fails or ends the program, or it holds no ``SearchSpace`` of that
            name.
    """
    if not file.is_file():
        found = f"{str(file)!r} is a folder" if file.is_dir() else f"there is no file {str(file)!r}"
        raise HarnessError(f"--space must be a name or a Python file, but {found}.")
    module = run_space_file(file)
    if not hasattr(module, "SPACE"):
        raise HarnessError(f"space file {file} must set SPACE to a SearchSpace, but sets none.")
    space = module.SPACE
    if not isinstance(space, SearchSpace):
        raise HarnessError(f"space file {file} must set SPACE to a SearchSpace, but SPACE is {space!r}.")
    return replace(space, code=code_of(file), epochs=epochs or space.epochs)


def _held_idle(group: Distributions, values: Mapping[str, str]) -> Distributions:
    """Return the parameters of a method whose alpha is 1, with all that then has no effect held in the middle."""
    return {name: dist if name in values else hold(name, dist, str(middle_of(dist))) for name, dist in group.items()}


def _is_labels_alone(group: Distributions) -> bool:
    """Return whether a method's alpha is held at 1."""
    return "alpha" in group and listed(group["alpha"], 1) == [1]
