"""What varies: a declaration in Optuna's own distributions, grouped by what they reach."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import math
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import Trial
from torch import nn

from harness.core.choices import chosen, holds, storable
from harness.core.errors import HarnessError, Interrupted, did_you_mean, one_line
from harness.core.names import check_metric_name, check_parameter_names
from harness.core.sources import Code, code_of, is_own, make_importable, noting_imports
from harness.metrics import METRICS
from harness.task import Task, class_names
from lightning_modules.classifier import ClassifierModule, check_training
from lightning_modules.methods import HINTON, METHODS, Criterion, make_criterion

# A tuple as a choice is warned of where it is declared; here it is stored as text.
warnings.filterwarnings("ignore", "Choices for a categorical distribution should be", UserWarning)

Distributions = Mapping[str, BaseDistribution]
METHOD = "method"
"""Name of the parameter that chooses among methods."""
LOSS_NAMES = ("temperature", "alpha")
"""What the loss of every control has, whatever the method: no name for a part of a student."""
_KINDS: Mapping[str, tuple[type, str]] = {"float": (Real, "a number"), "str": (str, "a string")}


@dataclass(frozen=True)
class Configuration:
    """One point of a space, grouped as the space is."""

    student: dict[str, Any]
    distillation: dict[str, Any]
    training: dict[str, Any]

    def params(self) -> dict[str, Any]:
        """Return every value by name."""
        return {**self.student, **self.distillation, **self.training}


@dataclass(frozen=True)
class Method:
    """A method of distillation of one's own, to be named in ``SearchSpace.distillation``.

    Attributes:
        criterion: Its class. The keywords of its ``__init__`` are what can be searched of it.
        parameters: A distribution for each of the keywords.
    """

    criterion: type[Criterion]
    parameters: Distributions = field(default_factory=dict)


@dataclass(frozen=True)
class SearchSpace:
    """A task and what may vary about its students.

    Attributes:
        task: What is being compressed.
        student: Architecture; reaches ``task.student``.
        distillation: ``temperature`` and ``alpha`` (the weight of the **hard-label** loss). Or, by name of a method
            (``lightning_modules.methods.METHODS``, or any other name with a ``Method`` of one's own), the parameters
            of each: ``method`` is searched then too, and a method's parameters exist in its own trials only.
        training: ``learning_rate`` and ``weight_decay``, as far as they vary.
        epochs: Epochs of a trial, unless the command line says otherwise.
        code: What the space file and the modules that it imports say; ``load_space`` fills it in.

    Raises:
        ValueError: If a name is unknown to what it should reach, missing, or used twice.
    """

    task: Task
    student: Distributions
    distillation: Mapping[str, BaseDistribution | Distributions | Method]
    training: Distributions = field(default_factory=dict)
    epochs: int = 20
    code: Code = field(default_factory=Code, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check_task()
        for group, plain in (("student", False), ("training", True)):
            kept = {name: storable(name, dist, plain=plain) for name, dist in getattr(self, group).items()}
            object.__setattr__(self, group, kept)
        for method, parameters in self.methods.items():
            self._check_method(method)
            taken = sorted(set(self.student) & set(LOSS_NAMES))
            if taken:
                raise ValueError(
                    f"student must not name {taken[0]!r}, which is the loss's, in every control too; "
                    "call the argument of student() otherwise."
                )
            names = [*self.student, METHOD, *parameters, *self.training]
            if len(set(names)) < len(names):
                twice = sorted({name for name in names if names.count(name) > 1})
                raise ValueError(f"a parameter must stand in one group only, but got {', '.join(twice)} in several.")
            _check_names("distillation", parameters, _keywords(self.criteria[method].__init__), all_needed=True)
            for name, distribution in parameters.items():
                if self.distributions[name] != distribution:
                    raise ValueError(
                        f"{name} must have one range in all methods that have it, but got {distribution} and "
                        f"{self.distributions[name]}."
                    )
        _check_names(
            "training", self.training, _keywords(ClassifierModule.__init__) & {"learning_rate", "weight_decay"}
        )
        check_parameter_names(self.distributions)
        self._check_domains()

    def _check_method(self, method: str) -> None:
        """Check that there is a criterion of the name: one of ``METHODS``, or the space's own."""
        criterion = self.criteria.get(method)
        if criterion is None:
            raise ValueError(
                f"distillation must name methods among {', '.join(METHODS)}, or give a Method(criterion, parameters), "
                f"but got {method!r}{did_you_mean(method, METHODS, otherwise='.')}"
            )
        if not (isinstance(criterion, type) and issubclass(criterion, Criterion)):
            raise ValueError(f"method {method!r} must have a class of Criterion, but got {criterion!r}.")
        if criterion is not METHODS.get(method, criterion):
            raise ValueError(f"method {method!r} must have another name than those of {', '.join(METHODS)}.")

    def _check_task(self) -> None:
        task = self.task
        for name, epochs in (("epochs", self.epochs), ("teacher_epochs", task.teacher_epochs)):
            if not isinstance(epochs, int) or epochs < 1:
                raise ValueError(f"{name} must be at least 1, a whole number, but got {epochs!r}.")
        if task.metric_direction not in ("maximize", "minimize"):
            raise ValueError(
                f"metric_direction must be 'maximize' or 'minimize', but got {task.metric_direction!r}"
                f"{did_you_mean(task.metric_direction, ('maximize', 'minimize'), otherwise='.')}"
            )
        check_metric_name(task.metric_name, METRICS)
        class_names(task)
        rate = task.teacher_learning_rate
        if not isinstance(rate, Real) or not 0 < rate < math.inf:
            raise ValueError(f"teacher_learning_rate must be a positive number, but got {rate!r}.")

    def _check_domains(self) -> None:
        """See that losses and optimizer take the ends of every range, and each choice; what lies between, they take."""
        for method, parameters in self.methods.items():
            _check_kinds(parameters, self.criteria[method].__init__)
            _check_ends(f"method {method!r}", parameters, self.criteria[method])
        _check_kinds(self.training, ClassifierModule.__init__)
        _check_ends("the optimizer", self.training, check_training)

    @cached_property
    def methods(self) -> dict[str, Distributions]:
        """Return the parameters of each method by its name."""
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
        own = {name: value.criterion for name, value in self.distillation.items() if isinstance(value, Method)}
        known = {name: METHODS[name] for name in self.methods if name in METHODS}
        return {**known, **own}

    def criterion(self, configuration: Configuration) -> Criterion:
        """Return a fresh criterion, to be set up before it is used, of a configuration's method and its parameters.

        Labels alone, which any space's controls are trained on, are a case of ``soft_target``.
        """
        parameters = dict(configuration.distillation)
        method = parameters.pop(METHOD, HINTON)
        return self.criteria[method](**parameters) if method in self.criteria else make_criterion(method, **parameters)

    @cached_property
    def _method(self) -> dict[str, BaseDistribution]:
        """Return the choice of the method, where there is one."""
        searched = any(isinstance(value, Mapping) for value in self._distributions_of_methods().values())
        return {METHOD: CategoricalDistribution(list(self.methods))} if searched else {}

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every parameter's distribution by name, in the order of their declaration; no trial has all methods'."""
        parameters = {name: dist for group in self.methods.values() for name, dist in group.items()}
        return {**self.student, **self._method, **parameters, **self.training}

    @cached_property
    def branches(self) -> dict[str, dict[str, BaseDistribution]]:
        """Return the distributions of a trial of each method, by name."""
        return {
            method: {**self.student, **self._method, **parameters, **self.training}
            for method, parameters in self.methods.items()
        }

    def branch_of(self, params: Mapping[str, Any]) -> dict[str, BaseDistribution] | None:
        """Return the distributions of a whole configuration; ``None`` if ``params`` are none."""
        branch = self.branches.get(params.get(METHOD, next(iter(self.methods))), {})
        return branch if branch.keys() == params.keys() else None

    def fault(self, values: Mapping[str, Any]) -> str | None:
        """Return why some values by name are none of the space's; ``None`` if they are."""
        for name, value in values.items():
            distribution = self.distributions.get(name)
            if distribution is None:
                return f"{name!r} is no parameter of the space{did_you_mean(name, self.distributions)}"
            if not holds(distribution, value):
                return f"{name} is {value!r}, and the space has {distribution}"
        return None

    def fixed(self, values: Mapping[str, str]) -> SearchSpace:
        """Return the space with some parameters held at a value, given as text.

        Where alpha is held at 1 the teacher has no say, and so its temperature has none: it is held too, in the middle
        of its range, unless it is given.

        Raises:
            HarnessError: If a name is unknown, a value is outside its range, or alpha is held at 1 for several methods.
        """
        unknown = sorted(set(values) - set(self.distributions))
        if unknown:
            raise HarnessError(
                f"--fix must name a parameter of the space ({', '.join(self.distributions)}), but got {unknown[0]!r}"
                f"{did_you_mean(unknown[0], self.distributions, otherwise='.')}"
            )

        def narrowed(group: Distributions) -> Distributions:
            return {name: _held(name, dist, values[name]) if name in values else dist for name, dist in group.items()}

        methods = {name: narrowed(group) for name, group in self.methods.items()}
        if METHOD in values:
            _held(METHOD, self.distributions[METHOD], values[METHOD])
            methods = {values[METHOD]: methods[values[METHOD]]}
            elsewhere = sorted(set(values) - set(self.branches[values[METHOD]]))
            if elsewhere:
                raise HarnessError(f"--fix {elsewhere[0]} reaches nothing where method is {values[METHOD]!r}.")
        shipped = {
            name: group for name, group in methods.items() if name in METHODS
        }  # of others, alpha may be anything
        alone = [name for name, group in shipped.items() if "alpha" in values and _is_alone(group)]
        if alone and len(methods) > 1:
            raise HarnessError(
                "--fix alpha=1 is labels alone, whatever the temperature, beside methods that have no alpha or are the "
                f"same then; name one too: --fix alpha=1 --fix {METHOD}={alone[0]}."
            )
        if alone and "temperature" not in values:
            group = methods[alone[0]]
            held = _held("temperature", group["temperature"], str(_middle(group["temperature"])))
            methods = {alone[0]: {**group, "temperature": held}}
        return replace(
            self,
            student=narrowed(self.student),
            distillation={name: Method(self.criteria[name], group) for name, group in methods.items()}
            if self._method
            else methods[HINTON],
            training=narrowed(self.training),
        )

    @property
    def own_methods(self) -> list[str]:
        """Return names of the methods whose criterion the space brings."""
        return [name for name in self.methods if name not in METHODS]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Return names of the parameters of a student and of its training; ``tuned``: those of training that vary."""
        return {
            "student": list(self.student),
            "training": list(self.training),
            "tuned": [name for name, distribution in self.training.items() if not distribution.single()],
        }

    def suggest(self, trial: Trial) -> Configuration:
        """Return the trial's configuration: what it has already, and the sampler's word on the rest."""

        def suggested(group: Distributions) -> dict[str, Any]:
            return {name: _suggest(trial, name, distribution) for name, distribution in group.items()}

        student, chosen = suggested(self.student), suggested(self._method)
        parameters = suggested(self.methods[chosen.get(METHOD, next(iter(self.methods)))])
        return Configuration(student, {**chosen, **parameters}, suggested(self.training))

    def configuration(self, params: Mapping[str, Any]) -> Configuration:
        """Return the whole configuration that ``params`` name, in its groups."""
        branch = self.methods[params.get(METHOD, next(iter(self.methods)))]
        return Configuration(
            student={name: params[name] for name in self.student},
            distillation={name: params[name] for name in (*self._method, *branch)},
            training={name: params[name] for name in self.training},
        )

    def middle(self, method: str | None = None) -> dict[str, Any]:
        """Return the middle of every range (of its logarithm where it is sampled so): a neutral place to begin.

        Args:
            method: The method; ``None`` takes the first one.
        """
        method = next(iter(self.methods)) if method is None else method
        middle = {name: _middle(distribution) for name, distribution in self.branches[method].items()}
        return middle | ({METHOD: method} if self._method else {})

    def build_student(self, architecture: Mapping[str, Any]) -> nn.Module:
        """Return a student with fresh weights, of an architecture whose choices are as storages keep them."""
        return self.task.student(**{name: chosen(self.student[name], value) for name, value in architecture.items()})

    def architectures(self, *, limit: int) -> list[dict[str, Any]] | None:
        """Every architecture that the space can reach, or ``None`` if they are uncountable or more than ``limit``."""
        choices = [listed(distribution, limit) for distribution in self.student.values()]
        if any(values is None for values in choices):
            return None
        if math.prod(len(values) for values in choices if values is not None) > limit:
            return None
        return [dict(zip(self.student, combination, strict=True)) for combination in itertools.product(*choices)]  # type: ignore[arg-type]

    def declaration(self) -> dict[str, Any]:
        """Return the space as JSON-like values: what a study is compared by when it is resumed."""
        return {name: json.loads(distribution_to_json(dist)) for name, dist in self.distributions.items()}


def load_space(file: Path, epochs: int | None = None) -> SearchSpace:
    """Run a space file and return its ``SPACE``. What stands in its folder can be imported, as from any script.

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
    module = _run(file)
    if not hasattr(module, "SPACE"):
        raise HarnessError(f"space file {file} must set SPACE to a SearchSpace, but sets none.")
    space = module.SPACE
    if not isinstance(space, SearchSpace):
        raise HarnessError(f"space file {file} must set SPACE to a SearchSpace, but SPACE is {space!r}.")
    return replace(space, code=code_of(file), epochs=epochs or space.epochs)


def _run(file: Path) -> ModuleType:
    """Run a space file as a module.

    Raises:
        HarnessError: If it fails, in whatever way it does.
    """
    name = f"kd_space_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    make_importable(file)
    sys.modules[name] = module  # dataclasses and pickling look a class's module up here
    try:
        with noting_imports():
            spec.loader.exec_module(module)
    except Interrupted:  # a signal; it is not the file's doing
        raise
    except BaseException as error:  # sys.exit() too: what a space file does must not end the program in silence
        del sys.modules[name]
        raise HarnessError(f"space file {file}{line_of(error, file)}: {_told(error, file)}") from error
    return module


def _told(error: BaseException, file: Path) -> str:
    """Return what an error of a space file says, and where, if it comes from another file of the user's."""
    if _is_syntax_of(error, file):
        return f"{type(error).__name__}: {error.msg}"  # else it says file and line again
    said = str(error).strip() and one_line(error)
    if isinstance(error, SystemExit):
        said = f"it ends the program (exit code {error.code or 0}); it must set SPACE and return"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(Path(frame.filename))]
    place = ""
    if frames and Path(frames[-1].filename).resolve() != file.resolve():
        place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    return f"{type(error).__name__}{said and ': '}{said}{place}"


def _is_users(file: Path) -> bool:
    """Return whether a file of a traceback is the user's, and not of this package nor of an installed one."""
    return is_own(file) and file.is_file() and not file.resolve().is_relative_to(Path(__file__).resolve().parent)


def _is_syntax_of(error: BaseException, file: Path) -> TypeGuard[SyntaxError]:
    if not isinstance(error, SyntaxError) or not error.filename:
        return False
    return Path(error.filename).resolve() == file.resolve()


def line_of(error: BaseException, file: Path) -> str:
    """Return where in a space file an error comes from, as ``", line 3"``; empty where it comes from elsewhere."""
    if _is_syntax_of(error, file):
        return f", line {error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == file.resolve()
    ]
    return f", line {lines[-1]}" if lines else ""


def _keywords(function: Any) -> set[str]:
    """Return the names that a function takes by keyword."""
    parameters = inspect.signature(function).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {each.name for each in parameters if each.name != "self" and each.kind not in variadic}


def _check_names(group: str, given: Distributions, known: set[str], *, all_needed: bool = False) -> None:
    unknown, missing = sorted(set(given) - known), sorted(known - set(given))
    if unknown:
        raise ValueError(
            f"{group} must name some of {sorted(known)}, but got {unknown[0]!r}, which would reach nothing"
            f"{did_you_mean(unknown[0], known, otherwise='.')}"
        )
    if all_needed and missing:
        raise ValueError(
            f"{group} must name {sorted(known)}, but {missing[0]!r} is missing; "
            "a distribution of one value holds it fixed."
        )


def member(distribution: BaseDistribution, value: float) -> Any:
    """Return the value of a distribution that equals ``value``, of its own type; ``None`` if there is none."""
    if isinstance(distribution, CategoricalDistribution):
        return next((choice for choice in distribution.choices if choice == value), None)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not holds(distribution, value):
        return None
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case FloatDistribution():
            return trial.suggest_float(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case IntDistribution():
            return trial.suggest_int(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
    raise AssertionError(f"unknown distribution {distribution!r}")


def _check_kinds(group: Distributions, function: Any) -> None:
    """Check that parameters are the numbers and names of layers that a function is annotated with."""
    for name, distribution in group.items():
        annotation = inspect.signature(function).parameters[name].annotation
        kind, word = _KINDS.get(getattr(annotation, "__name__", annotation), (object, ""))
        for value in _ends(distribution):
            if not isinstance(value, kind):
                raise ValueError(f"{name} must be {word}, but {value!r} is one of its values.")


def _check_ends(what: str, group: Distributions, make: Callable[..., object]) -> None:
    """Check that ``make`` takes each parameter's ends, or choices, beside the middle of the others."""
    middle = {name: _middle(distribution) for name, distribution in group.items()}
    for values in (middle, *({**middle, name: end} for name, dist in group.items() for end in _ends(dist))):
        try:
            make(**values)
        except (TypeError, ValueError) as error:
            told = ", ".join(f"{name}={value!r}" for name, value in values.items())
            raise ValueError(
                f"{what} must take all that its ranges hold, but does not take {told}: {one_line(error)}"
            ) from error


def _ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low, distribution.high


def _is_alone(group: Distributions) -> bool:
    """Return whether a method's alpha is held at 1."""
    return "alpha" in group and listed(group["alpha"], 1) == [1]


def _held(name: str, distribution: BaseDistribution, text: str) -> BaseDistribution:
    """Return the distribution of the one value that ``text`` says."""
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if str(choice) == text:
                return CategoricalDistribution([choice])
        near = did_you_mean(text, map(str, distribution.choices), otherwise=".")
        raise HarnessError(f"--fix {name} must be one of {list(distribution.choices)}, but got {text!r}{near}")
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    kind = float if isinstance(distribution, FloatDistribution) else int
    try:
        value = kind(text)
    except ValueError:
        raise HarnessError(f"--fix {name} must be a number ({kind.__name__}), but got {text!r}.") from None
    if not holds(distribution, value):
        step = f" in steps of {distribution.step}" if distribution.step not in (None, 1) else ""
        raise HarnessError(f"--fix {name} must lie in [{distribution.low}, {distribution.high}]{step}, but got {text}.")
    if isinstance(distribution, FloatDistribution):
        return FloatDistribution(value, value, log=distribution.log)
    return IntDistribution(int(value), int(value), log=distribution.log)


def ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    """Return every choice, or the lowest and the highest value; one alone where nothing varies."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    return (low,) if distribution.single() else (low, high)


def _middle(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    value = math.sqrt(low * high) if distribution.log else (low + high) / 2
    if distribution.step is not None:
        value = low + round((value - low) / distribution.step) * distribution.step
    return round(value) if isinstance(distribution, IntDistribution) else value


def listed(distribution: BaseDistribution, limit: int) -> list[Any] | None:
    """Return every value of a distribution, or ``None`` if they are uncountable or more than ``limit``."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return [distribution.low]
    if isinstance(distribution, FloatDistribution):
        low, high, step = distribution.low, distribution.high, distribution.step
        if step is None:
            return None
        count = round((high - low) / step) + 1
        return [min(low + i * step, high) for i in range(count)] if count <= limit else None
    count = (distribution.high - distribution.low) // distribution.step + 1
    return list(range(distribution.low, distribution.high + 1, distribution.step)) if count <= limit else None
