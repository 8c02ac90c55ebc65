"""Memory of a search over pictures that do not fit into it: the sum over all its processes, as time goes on.

    python benchmarks/many_pictures.py --pictures 100000

Pictures of 224 pixels are searched by ``python search.py``: one strided convolution, one epoch, two trials. 100,000 of
them are 15 GB as bytes and 60 GB as floats. Memory is the proportional set size (PSS) of the process tree, in which
what processes share counts once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
from image_folder import pss_mb
from PIL import Image
from process_tree import ProcessTree

SIDE, CLASSES, DISTINCT = 224, 4, 64
ROOT = Path(__file__).resolve().parent.parent

SPACE = """
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from torch import nn

    from harness import SearchSpace, Task
    from lightning_modules.data import ImageFolders


    def strided(width):
        convolution = nn.Conv2d(3, width, 32, stride=32)
        return nn.Sequential(convolution, nn.ReLU(), nn.AvgPool2d(7), nn.Flatten(), nn.Linear(width, 4))


    class Pictures(Task):
        teacher_epochs = 1

        def data(self, data_dir):
            return ImageFolders(data_dir, size=224, batch_size=64, workers=2)

        def teacher(self):
            return strided(16)

        def student(self, *, width):
            return strided(width)


    SPACE = SearchSpace(
        task=Pictures(),
        student={"width": CategoricalDistribution([2, 4])},
        distillation={"temperature": FloatDistribution(1, 10), "alpha": FloatDistribution(0, 1)},
        epochs=1,
    )
"""


def make_pictures(folder: Path, count: int) -> None:
    """Write small files that differ, a folder for each class: each has its number in a comment, which is not shown."""
    draw = np.random.default_rng(0)
    encoded = []
    for _ in range(DISTINCT):
        content, small = io.BytesIO(), draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(content, "JPEG", quality=60)
        encoded.append(content.getvalue())
    for name in range(CLASSES):
        (folder / str(name)).mkdir(parents=True)
    for place in range(count):
        start, rest = encoded[place % DISTINCT][:2], encoded[place % DISTINCT][2:]
        comment = b"\xff\xfe\x00\x06" + place.to_bytes(4, "big")  # a marker, its length, its text
        (folder / str(place % CLASSES) / f"{place}.jpg").write_bytes(start + comment + rest)


def main() -> None:
    """Search, and print the largest memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder / "pictures", asked.pictures)
        (folder / "many.py").write_text(textwrap.dedent(SPACE))
        command = [sys.executable, str(ROOT / "search.py"), "--space", "many.py", "--data-dir", "pictures"]
        command += ["--trials", "2", "--controls", "none", "--min", "none"]
        before_mb, most_mb, began_s, said_s = pss_mb(), 0.0, time.monotonic(), 0.0
        tree = ProcessTree(command, folder=folder, log=folder / "output.txt", environment=dict(os.environ))
        while tree.exit_code is None:
            most_mb = max(most_mb, pss_mb() - before_mb)
            if time.monotonic() - said_s > 30:
                said_s = time.monotonic()
                print(f"{said_s - began_s:5.0f} s, at most {most_mb:,.0f} MB", flush=True)
            time.sleep(0.5)
        print((folder / "output.txt").read_text()[-3000:])
        taken_s = time.monotonic() - began_s
        print(f"{asked.pictures:,} pictures: {taken_s:.0f} s, at most {most_mb:,.0f} MB; exit code {tree.exit_code}")
        tree.end()


if __name__ == "__main__":
    main()
