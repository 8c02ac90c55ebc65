"""A healthy task for the doctor, and what breaks it, each in one way."""

from __future__ import annotations

from typing import NamedTuple

HEALTHY = """\
import numpy as np
import torch
import torch.nn.functional as F
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassHingeLoss

from harness.space import SearchSpace
from harness.task import Task
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.views import Views, uniforms


def points(samples, seed):
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 3
    inputs = torch.randn(samples, 8, generator=draws) + 2 * labels[:, None]
    return Split(inputs, labels)


class Noise(Views):
    def of(self, inputs, ids, view):
        return inputs + 0.1 * torch.from_numpy(uniforms(self.seed, ids, view, draws=8)).float()


class Net(nn.Module):
    def __init__(self, width, depth=1, classes=3):
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.norm = nn.BatchNorm1d(width)
        self.hidden = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(width, classes)

    def forward(self, inputs):
        return self.head(self.drop(F.leaky_relu(self.hidden(self.norm(self.stem(inputs))))))


class Points(Task):
    def data(self, data_dir):
        train, val, test = points(200, 1), points(60, 2), points(50, 3)
        return TensorDataModule(train=train, val=val, test=test, batch_size=32, views=Noise(count=2))

    def teacher(self):
        return Net(32)

    def student(self, *, width, depth):
        return Net(width, depth)


TEMPERATURE = FloatDistribution(1, 10, log=True)
SPACE = SearchSpace(
    task=Points(),
    student={"width": IntDistribution(2, 6), "depth": IntDistribution(1, 2)},
    distillation={
        "soft_target": {"temperature": TEMPERATURE, "alpha": FloatDistribution(0, 1)},
        "label_smoothing": {"smoothing": FloatDistribution(0.01, 0.4)},
    },
    training={"learning_rate": FloatDistribution(1e-3, 1e-1, log=True)},
)
"""
TEACHER, STUDENT, DATA = "return Net(32)", "return Net(width, depth)", "return TensorDataModule("
LAST_METHOD = '"label_smoothing": {"smoothing": FloatDistribution(0.01, 0.4)},'
HINT = """
        "hint": {
            "hint_weight": FloatDistribution(1, 10),
            "student_layer": CategoricalDistribution(["nowhere"]),
            "teacher_layer": CategoricalDistribution(["stem"]),
        },"""
Edit = tuple[str, str]


class Broken(NamedTuple):
    """A way to break the healthy task.

    Attributes:
        check: The check that must find it.
        edits: What is replaced in the task's text.
        more: What is added before the task's class.
        found: Part of what must be found.
        remedy: Part of what must be advised.
    """

    check: str
    edits: list[Edit]
    more: str
    found: str
    remedy: str


BROKEN: dict[str, Broken] = {
    "a name that is not there": Broken(
        "space file",
        [("IntDistribution(1, 2)", "IntDistribution(1, DEEPEST)")],
        "",
        "points.py, line 56: NameError: name 'DEEPEST' is not defined",
        "fix the named line",
    ),
    "a file of data that is missing": Broken(
        "data",
        [("train, val, test = points(200, 1)", "torch.load('none.pt')\n        train, val, test = points(200, 1)")],
        "",
        "FileNotFoundError: [Errno 2] No such file or directory: 'none.pt' (",
        "--data-dir says where",
    ),
    "labels that are no class indices": Broken(
        "data",
        [("labels = torch.arange(samples) % 3", "labels = (torch.arange(samples) % 3).float()")],
        "",
        "ValueError: labels of train must be class indices from 0 of shape (N,) and dtype int64",
        "fix the named line as the message says",
    ),
    "an empty layer": Broken(
        "students",
        [("IntDistribution(2, 6)", "IntDistribution(0, 6)")],
        "",
        "student(width=0, depth=1) has an empty layer: its stem.weight is [0, 8]",
        "begin the range of width at 1",
    ),
    "a width below 0": Broken(
        "students",
        [("IntDistribution(2, 6)", "IntDistribution(-2, 6)")],
        "",
        "student(width=-2, depth=1): RuntimeError: ",
        "begin the range of width at 1",
    ),
    "other inputs than the students'": Broken(
        "student's logits",
        [(STUDENT, "return nn.Sequential(nn.Linear(9, width), nn.Linear(width * depth, 3))")],
        "",
        "student(width=4, depth=1): RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x8 and 9x4) "
        "(Points.student, points.py, line 49)",
        "let students take what the teacher takes",
    ),
    "a value that is missing": Broken(
        "data",
        [("    return Split(inputs, labels)", "    inputs[5, 2] = float('nan')\n    return Split(inputs, labels)")],
        "",
        "inputs of train hold NaN or infinity in 1 of 200 samples (5)",
        "fill or drop what is missing",
    ),
    "data in another form": Broken(
        "data",
        [(DATA, "return dict(")],
        "",
        "data() must return a TensorDataModule or a LightningDataModule, but returned dict",
        "fix the named line as the message says",
    ),
    "splits drawn anew at each call": Broken(
        "data again",
        [(".manual_seed(seed)", ".manual_seed(torch.seed())")],
        "",
        "a second call of data() gives other samples, or another order, in train",
        "split with a fixed seed",
    ),
    "the same samples in two splits": Broken(
        "splits",
        [("points(60, 2)", "points(60, 1)")],
        "",
        "train and val share 60 samples (train 0 is val 0, train 1 is val 1, train 2 is val 2, ..)",
        "drop copies before you split",
    ),
    "views drawn at random": Broken(
        "views",
        [("torch.from_numpy(uniforms(self.seed, ids, view, draws=8)).float()", "torch.rand_like(inputs)")],
        "",
        "view 0 of a sample changes when it is computed again",
        "(seed, sample, view) alone",
    ),
    "a teacher that can't be built": Broken(
        "teacher",
        [(TEACHER, "return Net(32, classes=None)")],
        "",
        "(points.py, line 33)",
        "let teacher() return a network without asking for anything",
    ),
    "a teacher that ends in a softmax": Broken(
        "teacher's logits",
        [(TEACHER, "return nn.Sequential(Net(32), nn.Softmax(1))")],
        "",
        "logits are probabilities",
        "drop the softmax",
    ),
    "a teacher that returns more than logits": Broken(
        "teacher's logits",
        [(TEACHER, "return Pair(32)")],
        "class Pair(Net):\n    def forward(self, inputs):\n        return super().forward(inputs), inputs",
        "the teacher must answer with a tensor, or an object with .logits, but gives a tuple",
        "let forward return the logits alone",
    ),
    "a teacher of one logit": Broken(
        "teacher's logits",
        [(TEACHER, "return Net(32, classes=1)")],
        "",
        "logits of shape (16, C), C at least 2, but gives shape (16, 1)",
        "two for two classes too",
    ),
    "a student that can't be built": Broken(
        "students",
        [(STUDENT, "assert width != 5 or depth != 2, 'too big'\n        return Net(width, depth)")],
        "",
        "student(width=5, depth=2): AssertionError: too big (points.py, line 50)",
        "let student() take every value",
    ),
    "a student of other inputs": Broken(
        "student's logits",
        [(STUDENT, "return nn.Sequential(nn.Linear(9, 8), Net(width, depth))")],
        "",
        "student(width=4, depth=1): RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x8 and 9x8)",
        "let students take what the teacher takes",
    ),
    "a student that gives NaN": Broken(
        "student's logits",
        [(STUDENT, "return Log(width, depth)")],
        "class Log(Net):\n    def forward(self, inputs):\n        return super().forward(inputs).log()",
        "student(width=4, depth=1) has NaN for 16 of 16 samples in its logits",
        "a root of 0",
    ),
    "a student that gives classes": Broken(
        "student's logits",
        [(STUDENT, "return Classes(width, depth)")],
        "class Classes(Net):\n    def forward(self, inputs):\n        return super().forward(inputs).argsort(1)",
        "student(width=4, depth=1) must give floating-point logits, but gives torch.int64",
        "return scores, not classes",
    ),
    "labels beyond the logits": Broken(
        "student's logits",
        [("classes=3)", "classes=2)")],
        "",
        "labels go up to 2, but student(width=4, depth=1) has 2 logits",
        "one logit for each class",
    ),
    "a student with more classes than its teacher": Broken(
        "labels",
        [(STUDENT, "return Net(width, depth, classes=4)")],
        "",
        "teacher and students must have the same classes, but the teacher has 3 logits, and students have 4",
        "one logit for each class",
    ),
    "a teacher's learning rate that is far too high": Broken(
        "teacher learns",
        [("    def teacher(self):", "    teacher_learning_rate = 1e30\n\n    def teacher(self):")],
        "",
        "nan at the learning rate of its recipe",
        "lower teacher_learning_rate",
    ),
    "a teacher with dropout that can't be switched off": Broken(
        "teacher in eval",
        [(TEACHER, "teacher = Net(32)\n        teacher.drop = Always(0.2)\n        return teacher")],
        "class Always(nn.Dropout):\n    def train(self, mode=True):\n        return super().train(True)",
        "1 of its parts in train mode while its outputs are computed: drop",
        "let train(False) reach every part",
    ),
    "a teacher with a function's dropout": Broken(
        "teacher steady",
        [(TEACHER, "return Dropping(32)")],
        "class Dropping(Net):\n    def forward(self, inputs):\n        return super().forward(F.dropout(inputs, 0.2))",
        "the same batch asked twice has logits",
        "F.dropout(x, p, self.training)",
    ),
    "a teacher that mixes the samples of a batch": Broken(
        "teacher steady",
        [(TEACHER, "return Mixing(32)")],
        "class Mixing(Net):\n    def forward(self, inputs):\n        return super().forward(inputs - inputs.mean(0))",
        "apart from its own in a batch of 16",
        "let no step mix samples",
    ),
    "augmentation in the loader": Broken(
        "stored outputs",
        [(DATA, "return Mirrored(")],
        """
class Mirrored(TensorDataModule):
    def train_dataloader(self):
        loader = super().train_dataloader()
        loader.split = Split(loader.split.inputs.flip(1), loader.split.labels)
        return loader
""",
        "shuffled training samples have other logits stored than live",
        "draw augmentation as Views",
    ),
    "outputs joined to other samples": Broken(
        "stored outputs",
        [(DATA, "return Misaligned(")],
        """
class Misaligned(TensorDataModule):
    def train_dataloader(self):
        loader = super().train_dataloader()
        loader.teacher = {name: values.roll(1, 0) for name, values in loader.teacher.items()}
        return loader
""",
        "32 of 32 shuffled training samples have other logits stored than live",
        "join by id",
    ),
    "a metric that goes the other way": Broken(
        "metric",
        [
            (
                "    def teacher(self):",
                "    def metric(self, classes):\n        return MulticlassHingeLoss(classes)\n\n    def teacher(self):",
            )
        ],
        "",
        "for wrong ones, which does not fit metric_direction 'maximize'",
        "say which way is better",
    ),
    "a direction that is none": Broken(
        "space file",
        [("    def teacher(self):", "    metric_direction = 'up'\n\n    def teacher(self):")],
        "",
        "metric_direction must be 'maximize' or 'minimize', but got 'up'",
        "fix the named line",
    ),
    "a metric with a cost's name": Broken(
        "space file",
        [("    def teacher(self):", "    metric_name = 'macs'\n\n    def teacher(self):")],
        "",
        "metric_name must be a name of its own, but 'macs' has another meaning",
        "fix the named line",
    ),
    "a student that normalizes by its batch": Broken(
        "student steady",
        [(STUDENT, "return Mixing(width, depth)")],
        "class Mixing(Net):\n    def forward(self, inputs):\n        return super().forward(inputs - inputs.mean(0))",
        "student(width=2, depth=1): a sample alone has logits",
        "a BatchNorm kept in train mode does",
    ),
    "a student that squeezes": Broken(
        "student steady",
        [(STUDENT, "return Squeezed(width, depth)")],
        "class Squeezed(Net):\n    def forward(self, inputs):\n        return super().forward(inputs).squeeze()",
        "student(width=2, depth=1): 16 samples asked one by one have logits of shape (48,), not (16, 3)",
        "name the dimension that squeeze() drops",
    ),
    "weights drawn by numpy": Broken(
        "student's seed",
        [(STUDENT, "return Drawn(width, depth)")],
        """
class Drawn(Net):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.head.weight.data = torch.from_numpy(np.random.randn(*self.head.weight.shape)).float()
""",
        "student(width=2, depth=1) has other weights when it is built again under the same seed",
        "draw with torch alone",
    ),
    "an architecture parameter that goes nowhere": Broken(
        "architecture",
        [(STUDENT, "return Net(width)")],
        "",
        "nothing changes with depth = 1 or 2: neither parameters, nor MACs, nor logits",
        "pass it on to a layer",
    ),
    "a part that is detached": Broken(
        "gradients",
        [(STUDENT, "return Detached(width, depth)")],
        """
class Detached(Net):
    def forward(self, inputs):
        return self.head(self.hidden(self.norm(self.stem(inputs)).detach()))
""",
        "soft_target: 4 of 8 parameters of student(width=2, depth=1) have none: stem.weight, stem.bias, ",
        "look for detach()",
    ),
    "a student without any gradient": Broken(
        "gradients",
        [(STUDENT, "return Detached(width, depth)")],
        "class Detached(Net):\n    def forward(self, inputs):\n        return super().forward(inputs).detach()",
        "soft_target, student(width=2, depth=1): RuntimeError: element 0 of tensors does not require grad",
        "look for detach()",
    ),
    "a root whose gradient is infinite": Broken(
        "gradients",
        [(STUDENT, "return Rooted(width, depth)")],
        """
class Rooted(Net):
    def forward(self, inputs):
        return super().forward(inputs) + (0 * self.head.bias.sum()).sqrt()
""",
        "soft_target: that of head.bias of student(width=2, depth=1) is not finite at the start",
        "look for a root, a norm or a logarithm of 0",
    ),
    "a teacher that is not finite on one sample alone": Broken(
        "teacher steady",
        [(TEACHER, "return Deviating(32)")],
        """
class Deviating(Net):
    def forward(self, inputs):
        return super().forward(inputs) + 0 * inputs.std(0).mean()
""",
        "a sample alone has logits inf% of the largest apart",
        "let no step mix samples",
    ),
    "a layer that no student has": Broken(
        "methods",
        [(LAST_METHOD, LAST_METHOD + HINT)],
        "",
        "method 'hint' can't be searched with student(width=4, depth=1): a layer must be one of stem, norm, hidden, "
        "hidden.0, drop, head, but got 'nowhere'; leave such students, or the layer, out of the space; the others are "
        "checked on: soft_target, label_smoothing",
        "--fix method=soft_target",
    ),
    "a temperature that has no say": Broken(
        "distillation",
        [('"alpha": FloatDistribution(0, 1)', '"alpha": FloatDistribution(1, 1)')],
        "",
        "the student's gradient does not change with temperature of soft_target",
        "take it out of the space",
    ),
    "a learning rate that is far too high": Broken(
        "losses",
        [("FloatDistribution(1e-3, 1e-1, log=True)", "FloatDistribution(1e-3, 1e30, log=True)")],
        "",
        "corners it is not finite: nan after ",
        "narrow the range whose end is named",
    ),
    "a last batch that is too small": Broken(
        "last batch",
        [
            ("points(200, 1)", "points(194, 1)"),
            ("        return self.head(self.drop(", "        many(self, inputs)\n        return self.head(self.drop("),
        ],
        """
def many(network, inputs):
    if network.training and len(inputs) == 2:
        raise ValueError("it must be 3 or more")
""",
        "a batch of 2: ValueError: it must be 3 or more",
        "choose a batch_size that leaves another one",
    ),
    "a student that asks the teacher in train mode": Broken(
        "teacher unchanged",
        [(TEACHER, "return SHARED"), (STUDENT, "return Asking(width, depth)")],
        """
SHARED = Net(32)


class Asking(Net):
    def forward(self, inputs):
        with torch.no_grad():
            SHARED.train(self.training)(inputs)
        return super().forward(inputs)
""",
        "3 of its 11 tensors changed in a student's training: norm.running_mean, norm.running_var",
        "share no module between teacher() and student()",
    ),
    "a student with its teacher in it": Broken(
        "teacher apart",
        [(STUDENT, "return WithTeacher(width, depth)")],
        """
class WithTeacher(Net):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.guide = Net(32).requires_grad_(False)
""",
        "a whole teacher in the student, at 'guide', and in the checkpoint",
        "a batch holds its outputs",
    ),
    "a student with a layer of its teacher": Broken(
        "student's logits",
        [(TEACHER, "return SHARED"), (STUDENT, "return Borrowing(width, depth)")],
        """
SHARED = Net(32)


class Borrowing(Net):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.borrowed = SHARED.stem
""",
        "must share nothing that is trained with other students, but its layer 'borrowed' (Linear) is the same one at "
        "each call of student(), made outside of it",
        "make it inside of student()",
    ),
    "a value that is drawn and not kept": Broken(
        "student kept",
        [(STUDENT, "return Scaled(width, depth)")],
        """
class Scaled(Net):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.scale = 1 + torch.rand(())

    def forward(self, inputs):
        return self.scale * super().forward(inputs)
""",
        "loaded into a fresh student, its state gives logits",
        "register_buffer",
    ),
}
