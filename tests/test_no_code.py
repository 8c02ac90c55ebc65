"""Searches without a Python file: pictures with networks by name, a table, and texts with a language model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import search
from sklearn.datasets import load_digits

pytestmark = pytest.mark.slow


def test_pictures_are_searched_by_networks_of_a_library(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="pip install 'kd-harness[vision]'")
    timm = pytest.importorskip("timm", reason="pip install 'kd-harness[vision]'")
    from safetensors.torch import save_file

    scans = load_digits()
    for place, (pixels, label) in enumerate(zip(scans.images, scans.target, strict=True)):
        if label < 3 and place < 600:
            folder = tmp_path / "photos" / f"digit {label}"
            folder.mkdir(parents=True, exist_ok=True)
            image.fromarray((pixels * 15.9).astype(np.uint8)).resize((16, 16)).save(folder / f"{place}.png")
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), tmp_path / "weights.safetensors")
    flags = ("--data", "photos", "--teacher", "timm:test_resnet@weights.safetensors", "--image-size", "16")
    flags = (*flags, "--students", "timm:test_efficientnet,test_byobnet", "--trials", "2", "--epochs", "1")
    flags = (*flags, "--controls", "none", "--min", "none", "--objectives", "accuracy,parameters")
    output = search(tmp_path, *flags)
    assert "2/2 done" in output and "study     photos-space: 2 trials" in output
    assert "(family timm:test_" in output and (tmp_path / "photos_space.py").exists()
    output = search(tmp_path, *flags[:4], "--students", "timm:test_efficientnett", "--study", "odd", expect=2)
    assert "which is there and differs" in output
    (tmp_path / "photos_space.py").unlink()
    output = search(tmp_path, *flags[:4], "--students", "timm:test_efficientnett", "--study", "odd", expect=2)
    assert "has no 'test_efficientnett'; did you mean test_efficientnet" in output and "teacher   0/" not in output


def test_texts_are_searched_by_small_students_of_a_language_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="pip install 'kd-harness[text]'")
    from text_models import bert_config, tokenizer, write_csv

    transformers.BertModel(bert_config(max_position_embeddings=128)).save_pretrained(
        tmp_path / "model", max_shard_size="20KB"
    )
    tokenizer().save_pretrained(tmp_path / "model")
    write_csv(tmp_path / "reviews.csv", 300)
    flags = ("--data", "reviews.csv", "--text", "text", "--label", "label", "--teacher", "hf:model")
    flags = (*flags, "--students", "bert", "--trials", "2", "--epochs", "1", "--controls", "none", "--min", "none")
    output = search(tmp_path, *flags, "--objectives", "accuracy,parameters", "--fix", "hidden=64", "--fix", "heads=2")
    assert "2/2 done" in output and "180 train, 60 val, 60 test samples" in output
    assert "costs are measured at a length of" in output and "embedding 16" in output
