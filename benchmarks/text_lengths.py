"""What batches of alike length are worth: processor time of an epoch of tweets, cut to the longest and padded whole.

python -m benchmarks.text_lengths --data-dir FOLDER
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import torch
from torch import nn

from lightning_modules.batch import call
from lightning_modules.data.padded import PaddedLoader
from lightning_modules.data.texts import Texts
from lightning_modules.language_models import small_bert
from search_spaces.tweets import LENGTH, MODEL, TABLE

ROUNDS = 5


def epoch_s(network: nn.Module, data: Texts, *, whole: bool) -> float:
    """Return the processor time of an epoch, forward and backward, in seconds."""
    loader = PaddedLoader(
        data.splits["train"], batch_size=data.batch_size, shuffle_seed=0, labels_by_token=False, whole=whole
    )
    begun = time.process_time()
    for batch in (batch for item in loader for batch in item):
        nn.functional.cross_entropy(call(network, batch.inputs), batch.target).backward()
    return time.process_time() - begun


def main() -> None:
    """Print the share of padding, and the ratio of the times in paired rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=1500)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = asked.data_dir / MODEL
    data = Texts(
        asked.data_dir / TABLE, label="sentiment", tokenizer=model, max_length=LENGTH, most=asked.texts,
        deduplicate=True, encoding="latin-1",
    )  # fmt: skip
    print(f"{1 - data.mask_of('train').float().mean():.0%} of {LENGTH} tokens are padding")
    for layers, hidden, heads in ((2, 64, 2), (3, 128, 4), (6, 384, 12)):
        network = small_bert(like=str(model), classes=3, layers=layers, hidden=hidden, heads=heads, embedding=16)
        pairs = [[epoch_s(network, data, whole=whole) for whole in (True, False)] for _ in range(ROUNDS)]
        ratios = sorted(whole / cut for whole, cut in pairs)
        print(f"{layers} layers of {hidden}: {median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


if __name__ == "__main__":
    main()
