"""Students of every kind are looked at before a teacher is made; what can't be trained is one line that names it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor, nn

from harness.core.content import tensors_digest
from harness.core.errors import HarnessError, Unfit, advice_of
from harness.networks.deployment import check_deployed
from harness.networks.logits import numbers_fault
from harness.networks.student_checks import LayerCheck, Students, check_students
from harness.networks.students import build_student
from harness.preparation.method_checks import check_student_layers, student_layers
from harness.preparation.teacher_checks import check_outputs, check_pair, check_teacher
from harness.settings import Settings
from harness.space import SearchSpace
from harness.task import Task
from harness.teachers.make import find_teacher
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.outputs import Classification

Builder = Callable[..., nn.Module]


def mlp(width: int, classes: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes))


def a_split(size: int = 20) -> Split:
    inputs = torch.randn(size, 4, generator=torch.Generator().manual_seed(size))
    return Split(inputs, torch.arange(size) % 2)


def some_data(**more: Any) -> TensorDataModule:
    return TensorDataModule(train=a_split(40), val=a_split(), test=a_split(10), **more)


class Built(Task):
    """A task whose students a function builds."""

    def __init__(self, build: Builder, teacher: Callable[[], nn.Module] = lambda: mlp(32)) -> None:
        self._build, self._teacher = build, teacher

    def data(self, data_dir: Path | None) -> TensorDataModule:
        return some_data()

    def teacher(self) -> nn.Module:
        return self._teacher()

    def student(self, **architecture: Any) -> nn.Module:
        return self._build(**architecture)


SOFT_TARGET = {"temperature": IntDistribution(1, 1), "alpha": IntDistribution(1, 1)}
HINTS = {"student_layer": CategoricalDistribution(["0", "3"]), "teacher_layer": CategoricalDistribution(["0"])}


def space_of(build: Builder, *, layers: bool = False, **student: Any) -> SearchSpace:
    weight = IntDistribution(1, 3)
    return SearchSpace(
        task=Built(build),
        student=student or {"width": IntDistribution(1, 3)},
        distillation={"hint": {"hint_weight": weight, **HINTS}} if layers else SOFT_TARGET,
    )


def looked_at(space: SearchSpace, data: TensorDataModule | None = None) -> Students:
    return check_students(space, data or some_data(), lambda name: nullcontext(), layers=student_layers(space))


def test_every_architecture_is_looked_at_and_what_changes_nothing_is_named() -> None:
    def build(width: int, depth: int, unused: int) -> nn.Module:
        return nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)), mlp(width))

    ranges = {"width": IntDistribution(1, 3), "depth": IntDistribution(0, 2), "unused": IntDistribution(5, 9)}
    students = looked_at(space_of(build, **ranges))
    assert students.classes == 2 and students.checked == 3 * 3 * 5
    assert students.without_effect == ["unused"]


def test_what_is_computed_counts_as_a_change_in_train_mode_too() -> None:
    students = looked_at(
        space_of(
            lambda drop, act: nn.Sequential(nn.Linear(4, 8), getattr(nn, act)(), nn.Dropout(drop), nn.Linear(8, 2)),
            drop=CategoricalDistribution([0.0, 0.5]),
            act=CategoricalDistribution(["ReLU", "Tanh"]),
        )
    )
    assert students.without_effect == []


def test_of_an_endless_space_every_value_and_the_corners_are_looked_at() -> None:
    seen: set[tuple[int, int]] = set()

    def build(width: int, depth: int) -> nn.Module:
        seen.add((width, depth))
        return mlp(width)

    looked_at(space_of(build, width=IntDistribution(1, 10_000), depth=IntDistribution(1, 20)))
    assert {depth for _, depth in seen} == set(range(1, 21))
    assert {(1, 1), (1, 20), (10_000, 1), (10_000, 20)} <= seen


def test_students_with_the_same_weights_whatever_the_seed_are_named() -> None:
    def seeded_apart(width: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return mlp(width)

    assert looked_at(space_of(seeded_apart)).unseeded == "student(width=2)"
    assert looked_at(space_of(mlp)).unseeded is None


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_an_empty_layer_is_named_with_the_range_to_mend() -> None:
    def plain(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))

    found = looked_at(space_of(plain, width=IntDistribution(0, 3)))
    assert str(found.empty_layer) == (
        "student(width=0) has an empty layer: its 0.weight is [0, 4]; begin the range of width at 1."
    )
    assert found.unseeded is None  # it has next to nothing to draw, which is no sign of a seed
    assert looked_at(space_of(plain)).empty_layer is None
    found = looked_at(space_of(lambda size: plain(int(size == "some")), size=CategoricalDistribution(["some", "none"])))
    assert found.empty_layer is not None and found.empty_layer.remedy.startswith("give each layer a unit at least")

    def marked(width: int) -> nn.Module:  # an empty vector that tells a device is no layer
        network = plain(width)
        network.register_parameter("place", nn.Parameter(torch.empty(0)))
        return network

    assert looked_at(space_of(marked)).empty_layer is None


def test_an_error_of_a_width_below_1_says_where_its_range_should_begin() -> None:
    space = space_of(lambda width, depth: mlp(width), width=IntDistribution(-3, 8), depth=IntDistribution(0, 2))
    with pytest.raises(RuntimeError, match="negative dimension -3") as raised:
        looked_at(space)
    assert advice_of(raised.value) == "begin the ranges of width and depth at 1"
    with pytest.raises(NameError) as unknown:  # a name that is not there is no matter of a range
        looked_at(space_of(lambda width: nowhere, width=IntDistribution(-3, 8)))  # type: ignore[name-defined] # noqa: F821
    assert advice_of(unknown.value) == ""


def test_a_layer_that_some_students_lack_is_named_with_the_architecture_before_a_teacher_is_made() -> None:
    space = space_of(
        lambda width, depth: mlp(width) if depth > 1 else nn.Sequential(nn.Linear(4, 2)),
        layers=True,
        width=IntDistribution(1, 3),
        depth=IntDistribution(1, 3),
    )
    students = looked_at(space)
    words = (
        r"^method 'hint' can't be searched with student\(width=\d, depth=1\): a layer must be one of 0, but got '3'; "
    )
    with pytest.raises(HarnessError, match=words):
        check_student_layers(space, students)


def test_a_student_that_lacks_a_layer_is_told_from_those_that_have_it_wherever_it_is_in_a_large_space() -> None:
    built = []

    def build(width: int, depth: int) -> nn.Module:
        built.append((width, depth))
        return nn.Sequential(nn.Linear(4, 2)) if (width, depth) == (77, 5) else mlp(width)

    space = space_of(build, layers=True, width=IntDistribution(1, 1000), depth=IntDistribution(1, 9))
    has_layers = LayerCheck(space, some_data(), student_layers(space))
    assert has_layers({"width": 76, "depth": 5}) and not has_layers({"width": 77, "depth": 5})
    assert not has_layers({"width": 77, "depth": 5}) and built == [(76, 5), (77, 5)]  # each is built once
    assert LayerCheck(space, some_data(), [])({"width": 77, "depth": 5})


class Huge(nn.Module):
    """Asks for more memory than there is."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + torch.empty(2**60)


def test_a_student_that_memory_does_not_suffice_for_is_left_to_its_trial() -> None:
    def build(width: int) -> nn.Module:
        if width == 900:
            raise MemoryError
        return nn.Sequential(*mlp(2), Huge()) if width == 1000 else mlp(width)

    space = space_of(build, layers=True, width=IntDistribution(1, 1000))
    has_layers = LayerCheck(space, some_data(), student_layers(space))
    assert has_layers({"width": 900}) and has_layers({"width": 1000}) and has_layers({"width": 5})

    class Deploying(Built):
        def deployed(self, student: nn.Module) -> nn.Module:
            return nn.Sequential(student)

    check_deployed(replace(space, task=Deploying(build)), some_data(), lambda name: nullcontext(), classes=2)


BACKBONE, NORM = nn.Linear(4, 4), nn.BatchNorm1d(4)
WEIGHT = nn.Parameter(torch.randn(4, 4))


def with_weight(weight: nn.Parameter) -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.weight = weight
    return layer


def frozen(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).requires_grad_(False)


SHARED: dict[str, tuple[nn.Module, str]] = {
    "a layer": (BACKBONE, r"its layer '0' \(Linear\) is the same one"),
    "a weight": (with_weight(WEIGHT), r"its layer '0' \(Linear\) is the same one"),
    "statistics": (frozen(NORM), r"its layer '0' \(BatchNorm1d\) is the same one"),
}


@pytest.mark.parametrize("what", SHARED)
def test_what_is_trained_and_made_outside_of_student_is_refused(what: str) -> None:
    module, words = SHARED[what]
    with pytest.raises(Unfit, match=rf"^student\(width=2\) must share nothing .*{words} .*copy\.deepcopy"):
        looked_at(space_of(lambda width: nn.Sequential(module, mlp(width))))


def test_a_weight_of_new_layers_that_is_shared_and_a_student_that_is_kept_are_refused() -> None:
    with pytest.raises(Unfit, match=r"its '0.weight' has the same memory"):
        looked_at(space_of(lambda width: nn.Sequential(with_weight(WEIGHT), mlp(width))))
    with pytest.raises(Unfit, match=r"the whole network is the same one"):
        looked_at(space_of(functools.cache(lambda width: mlp(width))))


@pytest.mark.parametrize("module", [frozen(BACKBONE), frozen(NORM).eval(), nn.ReLU()])
def test_what_is_frozen_or_has_no_weights_may_be_shared(module: nn.Module) -> None:
    assert looked_at(space_of(lambda width: nn.Sequential(module, mlp(width)))).classes == 2
    assert looked_at(space_of(lambda width: nn.Sequential(copy.deepcopy(BACKBONE), mlp(width)))).classes == 2


def test_a_student_that_seeds_itself_is_refused_and_one_that_draws_nothing_is_not() -> None:
    def seeded(width: int) -> nn.Module:
        torch.manual_seed(0)
        return mlp(width)

    with pytest.raises(Unfit, match=r"sets a seed of its own: all begin alike; call no torch\.manual_seed"):
        looked_at(space_of(seeded))
    ready = mlp(2).state_dict()

    def loaded(width: int) -> nn.Module:
        with torch.random.fork_rng():
            network = mlp(2)
        network.load_state_dict(ready)
        return network

    assert looked_at(space_of(loaded)).classes == 2


class Odd(nn.Module):
    """Answers with what a function makes of the logits."""

    def __init__(self, change: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.net, self.change = mlp(2), change

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.change(self.net(inputs))


class WithExtraState(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"step": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


def nan_for_some(logits: torch.Tensor) -> torch.Tensor:
    return logits.index_fill(0, torch.arange(3), float("nan"))


UNFIT: dict[str, tuple[Builder, str]] = {
    "nothing": (lambda width: None, "must give a torch.nn.Module, but gives NoneType"),  # type: ignore[return-value, arg-type]
    "no parameter": (lambda width: nn.Flatten(), "must have a parameter that can be trained, but has none"),
    "all frozen": (lambda width: mlp(2).requires_grad_(False), "but all its 6 are frozen"),
    "on the meta device": (lambda width: mlp(2).to("meta"), r"its '0.weight' is on the meta device"),
    "state that is no tensor": (
        lambda width: WithExtraState(4, 2),
        "must keep tensors alone in its state_dict, but '_extra_state' is a dict",
    ),
    "more than logits": (
        lambda width: Odd(lambda z: (z, z)),
        "must answer with a tensor, or an object with .logits, but gives a tuple",
    ),
    "one logit": (lambda width: mlp(2, 1), r"logits of shape \(16, C\), C at least 2, but gives shape \(16, 1\)"),
    "classes": (lambda width: Odd(lambda z: z.argsort(1)), "floating-point logits, but gives torch.int64"),
    "NaN for some": (lambda width: Odd(nan_for_some), "has NaN for 3 of 16 samples in its logits"),
    "infinity": (lambda width: Odd(lambda z: z.exp() / 0), "has infinity for 16 of 16 samples"),
    "everything masked": (lambda width: Odd(lambda z: z - torch.inf), "has nothing but -inf for 16 of 16 samples"),
    "a label masked": (
        lambda width: Odd(lambda z: z.index_fill(1, torch.tensor([1]), -torch.inf)),
        "holds the true class of 8 of 16 samples impossible",
    ),
    "other classes": (lambda width: mlp(2, 2 + width), r"student\(width=\d\) has \d logits and others 4"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_a_student_that_can_not_be_trained_or_kept_is_one_line(what: str) -> None:
    build, words = UNFIT[what]
    with pytest.raises(Unfit, match=words) as caught:
        looked_at(space_of(build))
    assert "\n" not in str(caught.value) and caught.value.remedy


@pytest.mark.filterwarnings("ignore")
def test_a_quantized_student_is_refused() -> None:
    def build(width: int) -> nn.Module:
        return torch.ao.quantization.quantize_dynamic(mlp(width), {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-any-return, attr-defined, no-untyped-call]

    with pytest.raises(Unfit, match=r"must compute in floating point, but is quantized \(torch\.ao\.nn\.quantized"):
        looked_at(space_of(build))


@pytest.mark.parametrize(
    ("deployed", "told"),
    [
        (lambda student: student, None),
        (lambda student: copy.deepcopy(student), None),
        (lambda student: nn.Sequential(student, nn.Linear(2, 3)), "must have the classes of the student, but has 3"),
        (lambda student: nn.Sequential(student, nn.Flatten(0)), r"must give 16 samples logits of shape \(16, C\)"),
        (
            lambda student: torch.ao.quantization.quantize_dynamic(student.eval(), {nn.Linear}, dtype=torch.qint8),  # type: ignore[attr-defined, no-untyped-call]
            r"must compute in floating point, but is quantized .* after the search",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_deployed_is_seen_to_answer_as_the_student_and_to_be_kept(
    deployed: Callable[[nn.Module], nn.Module], told: str | None
) -> None:
    class Deploying(Built):
        def deployed(self, student: nn.Module) -> nn.Module:
            return deployed(student)

    space = SearchSpace(task=Deploying(mlp), student={"width": IntDistribution(1, 3)}, distillation=SOFT_TARGET)
    refusal = pytest.raises(Unfit, match=rf"deployed\(student\(width=2\)\) {told}") if told else nullcontext()
    with refusal:
        check_deployed(space, some_data(), lambda name: nullcontext(), classes=2)


def test_a_state_that_a_call_changes_is_refused() -> None:
    class Positions(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.net = mlp(width)
            self.register_buffer("pos", None)

        def forward(self, inputs: Tensor) -> Tensor:
            self.pos = torch.zeros(4) if self.pos is None else self.pos
            return self.net(inputs + self.pos)  # type: ignore[no-any-return]

    with pytest.raises(Unfit, match=r"student\(width=2\) must have the same state_dict .* its forward adds 'pos'; reg"):
        check_pair(mlp(32), space_of(Positions), some_data(), Students(classes=2))
    settings = Settings(space_name="s", space_file=Path("s.py"), study="s")
    with pytest.raises(Unfit, match=r"the teacher must have the same state_dict .* its forward adds 'pos'; register"):
        find_teacher(replace(space_of(mlp), task=Built(mlp, lambda: Positions(4))), some_data(), "0", settings)


def test_a_float_student_of_a_file_called_quantized_and_what_adds_floats_for_quantization_are_taken() -> None:
    class Mine(nn.Sequential):
        pass

    Mine.__module__ = "quantized_mlp"

    class Adds(Mine):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.sum = mlp(2), torch.ao.nn.quantized.FloatFunctional()  # type: ignore[no-untyped-call]

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.sum.add(self.net(inputs), self.net(inputs))  # type: ignore[no-any-return, no-untyped-call]

    assert looked_at(space_of(lambda width: Mine(mlp(width)))).classes == 2
    assert looked_at(space_of(lambda width: Adds())).classes == 2


class Graph(nn.Module):
    """Multiplies with a sparse matrix."""

    def __init__(self, matrix: torch.Tensor, persistent: bool = False) -> None:
        super().__init__()
        self.net = mlp(3)
        self.register_buffer("adjacency", matrix, persistent=persistent)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.net((self.adjacency @ inputs.T).T)  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_sparse_buffer_is_taken_where_it_is_not_kept_and_told_from_another() -> None:
    eye = torch.eye(4)
    ones = torch.ones(4, 4).to_sparse()
    for sparse in (eye.to_sparse(), eye.to_sparse_csr(), ones):
        assert looked_at(space_of(lambda width, sparse=sparse: Graph(sparse))).classes == 2
    given = (eye.to_sparse(), eye.to_sparse_csr(), 2 * eye.to_sparse(), eye.roll(1, 0).to_sparse(), ones)
    digests = [tensors_digest({"a": one}) for one in given]
    assert digests[0] == digests[1] and len(set(digests)) == 4
    with pytest.raises(Unfit, match=r"dense tensors alone in its state_dict, but 'adjacency' is torch\.sparse_coo"):
        looked_at(space_of(lambda width: Graph(eye.to_sparse(), persistent=True)))


def test_fewer_logits_than_labels_are_refused_and_more_are_taken() -> None:
    data = some_data()
    data.splits["test"] = Split(torch.randn(3, 4), torch.tensor([0, 1, 2]))
    with pytest.raises(Unfit, match=r"labels of test go up to 2, but student\(width=2\) has 2 logits"):
        looked_at(space_of(mlp), data)
    data.splits["val"] = Split(torch.randn(2, 4), torch.tensor([0, 2]))
    with pytest.raises(Unfit, match="labels of val and test go up to 2"):
        looked_at(space_of(mlp), data)
    assert looked_at(space_of(lambda width: mlp(width, 1000)), data).classes == 1000


def test_batches_of_one_are_refused_where_a_student_can_not_be_trained_on_them() -> None:
    with pytest.raises(Unfit, match=r"can't be trained on batches of one sample: .*; choose a batch_size above 1"):
        looked_at(space_of(mlp), some_data(batch_size=1))
    assert looked_at(space_of(lambda width: nn.Linear(4, 2)), some_data(batch_size=1)).classes == 2


def test_lazy_layers_learn_their_sizes_and_get_the_weights_of_their_seed() -> None:
    space = space_of(lambda width: nn.Sequential(nn.LazyLinear(width), nn.LazyBatchNorm1d(), nn.LazyLinear(2)))
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        networks.append(build_student(space, {"width": 3}, some_data()))
    weights = [network.state_dict()["0.weight"] for network in networks]
    assert (
        weights[0].shape == (3, 4) and torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    )
    assert all(part.training for part in networks[0].modules())


def paired(student: nn.Module, teacher: nn.Module) -> None:
    space = space_of(lambda width: student)
    check_pair(teacher, space, some_data(), Students(classes=2))


def test_teacher_and_student_share_nothing_that_is_trained_and_have_the_same_classes() -> None:
    teacher = mlp(8)
    with pytest.raises(Unfit, match=r"student\(width=2\) must share nothing .* its '0.weight' is the teacher's own"):
        paired(nn.Sequential(teacher[0], nn.Linear(8, 2)), teacher)
    teacher[0].requires_grad_(False)
    paired(nn.Sequential(teacher[0], nn.Linear(8, 2)), teacher)
    with pytest.raises(Unfit, match="the teacher has 3 logits, and students have 2"):
        paired(mlp(2), mlp(8, 3))


def test_a_class_that_the_student_alone_holds_impossible_is_refused() -> None:
    def masked(z: torch.Tensor) -> torch.Tensor:
        return z.where(torch.nn.functional.one_hot(torch.arange(16) % 2, 2).bool()[: len(z)], -torch.inf)

    with pytest.raises(Unfit, match=r"holds a class impossible, .*, that the teacher does not, for 16"):
        paired(Odd(masked), mlp(8))
    paired(Odd(masked), Odd(masked))
    paired(mlp(2), Odd(masked))


def test_a_layer_that_the_teacher_lacks_is_refused_before_it_is_trained() -> None:
    space = space_of(lambda width: mlp(width), layers=True)
    students = looked_at(space)
    check_teacher(mlp(8), space, some_data(), students)
    with pytest.raises(HarnessError, match="the teacher must have the layers that the space names: a layer"):
        check_teacher(Odd(lambda z: z), space, some_data(), students)


def test_what_is_stored_of_a_teacher_is_told_by_split_and_how_many() -> None:
    good = {"train": {"logits": torch.zeros(5, 2)}, "val": {"logits": torch.zeros(4, 2), "a": torch.zeros(4, 3, 2)}}
    check_outputs("the teacher", good, Classification())
    masked = torch.tensor([[0.0, -torch.inf]])
    check_outputs("the teacher", {"val": {"logits": masked}}, Classification())
    for split, name, words in [
        ("train", "logits", "^the teacher has NaN for 1 of 5 samples of train in its logits"),
        ("val", "a", "^the teacher has NaN for 1 of 4 samples of val in its outputs of its layer 'a'"),
    ]:
        broken = copy.deepcopy(good)
        broken[split][name][2] = torch.nan
        with pytest.raises(Unfit, match=words):
            check_outputs("the teacher", broken, Classification())


def test_numbers_are_told_apart() -> None:
    values = torch.tensor([[0.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0], [-torch.inf, 0.0]])
    assert numbers_fault(values) == "NaN for 1 of 4 samples"
    assert numbers_fault(values[2:]) == "infinity for 1 of 2 samples"
    assert numbers_fault(values[[0, 3]]) is None


def test_a_parameter_that_only_some_kinds_use_is_not_called_without_effect() -> None:
    def build(kind: str, heads: int, unused: float) -> nn.Module:
        return mlp(heads if kind == "multi" else 3)

    kinds = CategoricalDistribution(["mlp", "multi", "cnn"])  # neither the middle, nor an end of them
    heads, unused = IntDistribution(1, 100), FloatDistribution(0, 1)
    assert looked_at(space_of(build, kind=kinds, heads=heads, unused=unused)).without_effect == ["unused"]


def test_of_large_students_the_same_few_are_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.networks.student_checks._MOST_NUMBERS", 1_000_000)

    def build(width: int, depth: int) -> nn.Module:
        seen.append((width, depth))
        return mlp(40_000 * width)

    seen: list[tuple[int, int]] = []
    space = space_of(build, width=IntDistribution(1, 2), depth=IntDistribution(1, 30))
    for _ in range(2):
        students = looked_at(space)
    half = len(seen) // 2
    assert seen[:half] == seen[half:] and students.without_effect == []
    # With 7 · 40,000 · width + 2 weights each: two of width 1 and one of width 2 have 1,120,006.
    assert students.checked == 3 and seen[:half] == [pair for pair in [(1, 15), (1, 1), (2, 30)] for _ in range(2)]
