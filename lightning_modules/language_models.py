"""Networks of texts by Transformers: pretrained classifiers from a folder or by name, and small students."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.data.tokenizing import EXTRA, unreadable
from lightning_modules.pretrained import head_of


def text_classifier(name: str, *, classes: Sequence[str]) -> nn.Module:
    """Return a pretrained network that classifies texts, for ``input_ids`` and ``attention_mask`` (B, L).

    A head of other classes is replaced by a fresh one, to be trained with the rest. A network that has these classes
    already, by their names or their numbers, is frozen, and teaches as it is; its logits are put in their order.

    Args:
        name: A folder of ``save_pretrained``, sharded or not, or a name on the Hugging Face Hub; no code of it is run.
        classes: Names of the classes, in their order.

    Raises:
        ImportError: If Transformers is not installed.
        ValueError: If it can't be loaded, or its weights are of another network.
    """
    transformers = _transformers()
    names = dict(enumerate(map(str, classes)))
    config = _config(name)
    known = [str(config.id2label[number]) for number in range(config.num_labels)] if config.id2label else []
    has_head = any(one.endswith("ForSequenceClassification") for one in config.architectures or ())
    order = _order_of(known, list(names.values())) if has_head else None
    with _silent(transformers):
        try:
            network, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
                name,
                num_labels=len(names),
                id2label=names,
                label2id={one: number for number, one in names.items()},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
                dtype=torch.float32,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(unreadable("model", name, error)) from error
    _check_loaded(network, loading, name)
    built: nn.Module = network
    if order is None:
        _renew_head(network, transformers)
        return built.train()  # Transformers loads networks in eval mode, without dropout
    _reorder(built, order)
    return built.requires_grad_(False)


def small_bert(
    *, like: str, classes: int, layers: int, hidden: int, heads: int, embedding: int | None = None, length: int = 512
) -> nn.Module:
    """Return a small BERT with fresh weights that classifies the tokens of another network's tokenizer.

    Its embeddings may be narrower than its layers (factorised, as in ALBERT and ELECTRA): of a student of a few layers,
    the vocabulary is the largest part.

    Args:
        like: Folder or name of the network whose tokenizer it shares.
        classes: Number of classes C.
        layers: Number of layers.
        hidden: Their width, a multiple of ``heads``.
        heads: Attention heads of a layer.
        embedding: Width of the embeddings; ``None`` takes ``hidden``.
        length: Most tokens of a text.

    Raises:
        ImportError: If Transformers is not installed.
        ValueError: If there is no such network, or ``hidden`` is no multiple of ``heads``.
    """
    transformers = _transformers()
    if hidden % heads:
        raise ValueError(f"hidden must be a multiple of heads, but got {hidden=} and {heads=}.")
    teacher = _config(like)
    config = transformers.ElectraConfig(
        vocab_size=teacher.vocab_size,
        pad_token_id=teacher.pad_token_id,
        embedding_size=embedding or hidden,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=length,
        num_labels=classes,
    )
    network: nn.Module = transformers.ElectraForSequenceClassification(config)
    return network


class BagOfTokens(nn.Module):
    """Classifies texts by the mean of their tokens' embeddings, for devices without room for more (fastText).

    Args:
        vocabulary: Number of tokens.
        classes: Number of classes C.
        embedding: Width of the embeddings.

    References:
        Joulin et al. (2017), Bag of tricks for efficient text classification. arXiv:1607.01759.
    """

    def __init__(self, *, vocabulary: int, classes: int, embedding: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.classifier = nn.Linear(embedding, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits (B, C) of tokens (B, L) where the mask is 1."""
        return self.classifier(_mean(self.embedding(input_ids), attention_mask))  # type: ignore[no-any-return]


class TokenConvNet(nn.Module):
    """Classifies texts by convolutions of three tokens, and the largest response of each (Kim's CNN).

    Args:
        vocabulary: Number of tokens.
        classes: Number of classes C.
        embedding: Width of the embeddings.
        channels: Number of convolutions.

    References:
        Kim (2014), Convolutional neural networks for sentence classification. arXiv:1408.5882.
    """

    def __init__(self, *, vocabulary: int, classes: int, embedding: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.convolution = nn.Conv1d(embedding, channels, kernel_size=3, padding=1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits (B, C) of tokens (B, L) where the mask is 1."""
        tokens = self.embedding(input_ids) * attention_mask.unsqueeze(2)
        found = self.convolution(tokens.transpose(1, 2)).relu() * attention_mask.unsqueeze(1)
        return self.classifier(found.amax(2))  # type: ignore[no-any-return]


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of tokens (B, L, D) where a mask (B, L) is 1, shape (B, D)."""
    weights = mask.to(tokens).unsqueeze(2)
    return (tokens * weights).sum(1) / weights.sum(1).clamp_min(1)


def _order_of(known: Sequence[str], classes: Sequence[str]) -> list[int] | None:
    """Return which logit of a head is that of each class; ``None`` if its classes are others, or nobody knows."""
    if len(known) != len(classes):
        return None
    # A class without a name is LABEL_0 and so on to Transformers; the classes of the data may be numbers, too.
    theirs, ours = ([one.lower().removeprefix("label_") for one in names] for names in (known, classes))
    places = [theirs.index(one) if one in theirs else -1 for one in ours]
    return places if sorted(places) == list(range(len(known))) else None


def _renew_head(network: Any, transformers: Any) -> None:
    """Give all that is not the body fresh weights: a head of as many classes, but others, was loaded with it."""
    fresh = transformers.AutoModelForSequenceClassification.from_config(network.config)
    body = f"{network.base_model_prefix}."
    head = {name: value for name, value in fresh.state_dict().items() if not name.startswith(body)}
    network.load_state_dict(head, strict=False)


def _reorder(network: nn.Module, order: Sequence[int]) -> None:
    """Put the logits of the last linear layer in an order."""
    head = network.get_submodule(head_of(network))
    with torch.no_grad():
        for value in head.parameters():
            value.copy_(value[list(order)].clone())


def _check_loaded(network: Any, loading: Any, name: str) -> None:
    """Check that all weights but those of the head, and of a pooler before it, came from the folder.

    Raises:
        ValueError: If they did not.
    """
    body = f"{network.base_model_prefix}."
    lacking = sorted(one for one in loading["missing_keys"] if one.startswith(body) and ".pooler." not in one)
    odd = sorted(str(one[0] if isinstance(one, tuple) else one) for one in loading["mismatched_keys"])
    odd = [one for one in odd if one.startswith(body)]
    if lacking or odd:
        found = f"has no {lacking[0]!r}" if lacking else f"has another shape of {odd[0]!r}"
        raise ValueError(f"{name} must hold the weights of a {type(network).__name__}, but {found}.")


def _config(name: str) -> Any:
    """Return the configuration of a network of Transformers."""
    transformers = _transformers()
    with _silent(transformers):
        try:
            return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ValueError(unreadable("model", name, error)) from error


@contextlib.contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Keep Transformers from reporting a fresh head, which is wanted, each retry of a host, and bars."""
    bars = transformers.utils.logging
    loggers = {name: logging.getLogger(name) for name in ("transformers", "huggingface_hub")}
    before = {name: logger.level for name, logger in loggers.items()}
    for logger in loggers.values():
        logger.setLevel(logging.ERROR)
    bars.disable_progress_bar()
    try:
        yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(before[name])
        bars.enable_progress_bar()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"language models need Transformers: {EXTRA}") from error
    return transformers
