"""A search whose teacher is stored as its largest logits, to the end; what does not fit is refused before it trains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import load, search
from safetensors.torch import load_file
from test_kinds_of_output import TAGGING

pytestmark = pytest.mark.slow

SOFT = '"temperature": FloatDistribution(1, 4), "alpha": FloatDistribution(0, 1)'
METHODS = (
    f'"soft_target": {{{SOFT}}}, "reverse_kl": {{{SOFT}}}, '
    f'"jsd": {{"beta": FloatDistribution(0.1, 0.9), {SOFT}}}, '
    f'"skewed_kl": {{"skew": FloatDistribution(0.1, 0.5), {SOFT}}}'
)


def written(folder: Path, methods: str) -> Path:
    text = TAGGING.replace("    teacher_epochs = 4\n", "    teacher_epochs = 4\n    teacher_outputs = TopK(16)\n")
    text = text.replace(
        "from harness import SearchSpace, Task\n",
        "from harness import SearchSpace, Task\nfrom harness.teachers import TopK\n",
    )
    text = text.replace("Tokens(len(KNOWN))", "Tokens(len(KNOWN), class_bytes=[len(one.encode()) for one in KNOWN])")
    file = folder / "tagging.py"
    file.write_text(text.replace(f"distillation={{{SOFT}}}", f"distillation={{{methods}}}"))
    return file


def test_a_teacher_of_which_the_largest_logits_are_stored_teaches_by_every_method_of_them(tmp_path: Path) -> None:
    flags = ("--trials", "4", "--epochs", "2", "--controls", "plain", "--min", "none")
    output = search(tmp_path, "--space", str(written(tmp_path, METHODS)), *flags)
    assert "4/4 done" in output
    told = " ".join(output.split())
    assert re.search(r"outputs stored: \d+ samples, 0\.\d MB, about .* once; a live teacher would take about", told)
    assert re.search(
        r"of each token the 12 largest of \d+ logits and 4 draws .* in 78 bytes; .* at T = 1, .* at T = 4,", told
    )
    trials = [one for one in load(tmp_path, "tagging").trials if one.state.name == "COMPLETE"]
    scores = trials[0].user_attrs["metrics"]
    assert {"accuracy", "perplexity", "bits_per_byte", "agreement", "teacher_kl", "ece"} <= scores.keys()
    assert 1 < scores["bits_per_byte"] < 8
    assert scores["perplexity"] == pytest.approx(2 ** scores["bits_per_byte"], rel=1e-4)  # a byte each
    stored = [load_file(file) for file in (tmp_path / "mlruns" / "cache" / "teacher_outputs").glob("*.safetensors")]
    assert {tuple(one) for one in stored} == {("rows",)} and {one["rows"].shape[-1] for one in stored} == {39}


def test_a_method_of_all_logits_is_refused_before_a_teacher_is_made(tmp_path: Path) -> None:
    space = written(tmp_path, f'"soft_target": {{{SOFT}}}, "standardized": {{{SOFT}}}')
    output = " ".join(search(tmp_path, "--space", str(space), "--trials", "2", expect=2).split())
    assert (
        "method 'standardized' can't be searched: it needs all of the teacher's logits, but the task stores TopK(16)"
        in output
    )
    assert "--fix method=soft_target" in output and "teacher 1/4" not in output
