"""Searching from Python: the same study as by the command line, from a script, with a space in a file or in none."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from conftest import EXAMPLE, ROOT, ended, environment, search, wait_for
from forked import Forked
from nbclient import NotebookClient

import harness

IN_MEMORY = EXAMPLE.replace("SPACE = ", "declared = ")
"""The README's example in a script, which sets no SPACE: the space is in no file that could be loaded."""


def started(folder: Path, script: str) -> Forked:
    (folder / "script.py").write_text(script)
    return Forked(folder / "script.py", output=folder / "output.txt", env=environment())


def run(folder: Path, script: str, *, expect: int = 0) -> str:
    return ended(started(folder, script), folder / "output.txt", expect=expect)


@pytest.mark.slow
def test_spawned_workers_do_not_run_a_script_again_that_has_no_main_guard(example: Path) -> None:
    script = (
        "import harness\nprint('begun')\n"
        "result = harness.search('cancer.py', trials=4, epochs=2, workers=2, controls='none', study='spawned')\n"
        "print(len(result.trials), 'trials')\n"
    )
    (example / "script.py").write_text(script)
    several = {**environment(), "OMP_NUM_THREADS": "4"}  # two each: a fork of such a process may use one thread only
    found = subprocess.run(
        [sys.executable, "script.py"], cwd=example, env=several, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("begun") == 1 and "4 trials" in found.stdout


@pytest.mark.slow
def test_forked_workers_have_the_main_module_in_which_a_space_was_declared(example: Path) -> None:
    body = "return perceptron(width)"
    assert IN_MEMORY.count(body) == 1
    pickled = IN_MEMORY.replace(body, f"import pickle; pickle.dumps(type(self)); {body}")
    call = "harness.search(declared, study='s', trials=4, epochs=1, workers=2, controls='none')"
    script = f"{pickled}\nimport harness\nprint(len({call}.trials), 'trials')\n"
    assert "4 trials" in run(example, script)


def searching(space: str, *, study: str = "s", trials: int = 2) -> str:
    """A short search, as a script has it."""
    return f"harness.search({space}, study={study!r}, trials={trials}, epochs=1, workers=1, controls='none')"


@pytest.mark.slow
def test_a_search_leaves_random_states_the_collector_and_signals_as_they_were(example: Path) -> None:
    script = f"""
import gc, harness, torch
from harness.core import errors
torch.manual_seed(5)
before, frozen = torch.get_rng_state(), gc.get_freeze_count()
{searching("'cancer.py'")}
print(torch.equal(before, torch.get_rng_state()), gc.get_freeze_count() == frozen, errors._signals == [])
"""
    assert run(example, script).splitlines()[-1] == "True True True"


@pytest.mark.slow
def test_a_space_that_was_imported_is_run_as_its_file_is_now(example: Path) -> None:
    """Or a study would be trained with what was imported, and be taken for one of what the file says."""
    (example / "widths.py").write_text("def widened(width):\n    return width\n")
    space = (example / "cancer.py").read_text()
    assert space.count("return perceptron(width)") == 1
    edited = space.replace("return perceptron(width)", "return perceptron(widened(width))")
    (example / "cancer.py").write_text("from widths import widened\n" + edited)
    script = f"""
import harness
from pathlib import Path
from cancer import SPACE
{searching("SPACE")}
Path('widths.py').write_text('def widened(width):\\n    return 2 * width\\n')
try:
    {searching("SPACE", trials=3)}
except harness.core.errors.HarnessError as error:
    print(error)
found = {searching("SPACE", study="anew")}
print([tuple(p.shape) for p in found.student(0).parameters()][2][0], found.trials['width'][0])
"""
    told = run(example, script).splitlines()
    assert any("widths.py has `return 2 * width` where `return width` stood" in line for line in told), told
    layer, width = map(int, told[-1].split())
    assert layer == 2 * width


@pytest.mark.slow
def test_code_that_a_script_changes_is_not_resumed_as_the_same(example: Path) -> None:
    script = f"{IN_MEMORY}\nimport harness\nprint(len({searching('declared', trials=2)}.trials), 'trials')\n"
    assert "2 trials" in run(example, script)
    changed = script.replace("nn.ReLU()", "nn.Tanh()").replace("trials=2", "trials=3")
    assert "nn.Tanh()" in changed
    told = run(example, changed, expect=1)
    assert "perceptron has" in told and "Tanh" in told


def test_a_space_in_no_file_is_known_by_how_it_trains_too() -> None:
    from functools import partial

    import torch

    from harness.api import _placed
    from lightning_modules.training import Training
    from search_spaces.digits import SPACE, Digits

    class Own(Digits):
        pass

    def mine(parameters: object, lr: float) -> torch.optim.Optimizer:
        raise NotImplementedError

    found = set()
    for training in (Training(), Training(momentum=0.5, optimizer="sgd"), Training(optimizer=mine),
                     Training(optimizer=partial(mine, 1)), Training(optimizer=partial(mine, 2))):  # fmt: skip
        task = Own()
        task.training = training  # type: ignore[misc]
        space, file = _placed(replace(SPACE, task=task))
        assert space is not None and file is None
        found.add(space.code.key)
        assert any("mine" in name for name in space.code.files) is callable(training.optimizer)
    assert len(found) == 5


def test_the_package_imports_nothing_heavy_by_itself() -> None:
    heavy = "[name for name in ('torch', 'optuna', 'mlflow', 'pandas') if name in sys.modules]"
    script = f"import sys, harness, harness.cli.options\nprint({heavy}, sorted(harness.__all__))"
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith("[] ['Choice', 'Method', 'Result', 'SearchSpace', 'Task', 'load_study', 'search']")


def test_every_flag_of_the_search_is_a_keyword() -> None:
    command = [sys.executable, str(ROOT / "search.py"), "--help"]
    told = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True).stdout
    flags = set(re.findall(r"^  (--[a-z-]+)", told, re.MULTILINE)) - {"--help", "--no-controls", "--detach"}
    keywords = {f"--{name.replace('_', '-')}" for name in inspect.signature(harness.search).parameters}
    assert keywords - {"--unknown"} == flags


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trials": 0}, "trials must be a whole number of at least 1, but got 0"),
        ({"min": {"accuracy": "much"}}, "min must be METRIC=VALUE"),
        ({"max": {"lattency": 3}}, "lattency"),
        ({"space": "digit"}, "space must be one of"),
        ({"teacher": "nowhere.pt"}, "teacher must be a checkpoint file"),
        (
            {"sampler": "frnt"},
            "sampler must be one of front, tpe, nsga2, gp, random, but got 'frnt'; did you mean front?",
        ),
        ({"teachers": 2, "teacher": __file__}, "teachers trains teachers and teacher gives them"),
        ({"nodes": 2}, "nodes is for launcher slurm, but got launcher local"),
        ({"launcher": "slurm", "slurm": {"time": 5}}, "slurm time has an option of its own, time"),
    ],
)
def test_a_keyword_that_cannot_be_is_refused(
    given: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(said)):
        harness.search(**given)
    with pytest.raises(TypeError, match="space must be a SearchSpace"):
        harness.search(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has no keyword 'trails'; did you mean trials\\?"):
        harness.search(trails=3)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_script_and_the_command_line_work_on_one_study(example: Path) -> None:
    script = """
from harness import load_study, search
from cancer import SPACE

result = search(SPACE, trials=3, study="both", epochs=2, workers=1, controls="none", min="none", fix={"alpha": 0.5})
assert list(result.trials["number"]) == [0, 1, 2] and set(result.trials["alpha"]) == {0.5}
assert str(result.trials["width"].dtype) == "Int64" and len(result.front)
number = result.picks["accurate"]
student = result.student(number)
assert not student.training
val = SPACE.task.data(None).splits["val"]
accuracy = float((student(val.inputs).argmax(-1) == val.labels).float().mean())
assert abs(accuracy - result.trials.set_index("number")["accuracy"][number]) < 1e-6
again = load_study("both", space="cancer.py")
assert again.picks == result.picks and "<table>" in again._repr_html_()
assert (again.report("told") / "front.html").is_file()
print(again)
"""
    output = run(example, script)
    assert "study     both: 3 trials of cancer" in output and "<Result of study 'both': 3 trials" in output
    flags = ("--space", "cancer.py", "--study", "both", "--epochs", "2", "--fix", "alpha=0.5", "--min", "none")
    assert "4/4 done" in search(example, *flags, "--trials", "4", "--no-controls")


@pytest.mark.slow
def test_a_space_in_no_file_is_searched_by_forks_and_resumed_after_ctrl_c(example: Path) -> None:
    script = f"""
from harness import search
{IN_MEMORY}
result = search(declared, trials=%d, epochs=%d, workers=2, controls="none", min="none", storage="sqlite:///m.db")
print("searched", len(result.trials))
"""
    process = started(example, script % (400, 20))
    wait_for(lambda: "3/400 done" in (example / "output.txt").read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    output = (example / "output.txt").read_text()
    assert "KeyboardInterrupt" in output and "nothing is lost" in output and "one process trains" not in output
    assert (
        "searched 12" in run(example, script % (12, 20)) or "more than the 12" in (example / "output.txt").read_text()
    )


@pytest.mark.slow
def test_where_no_fork_is_possible_one_process_searches_a_space_in_no_file_and_says_why(example: Path) -> None:
    script = f"""
import threading
from harness import search
{IN_MEMORY}
threading.Thread(target=threading.Event().wait, name="someone's", daemon=True).start()
result = search(declared, trials=3, epochs=1, workers=2, controls="none", min="none")
print("searched", len(result.trials))
"""
    output = run(example, script)
    assert "one process trains: threads run here that a fork would not have (someone's)" in output
    assert "searched 3" in output


@pytest.mark.slow
def test_the_notebook_of_the_examples_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "examples" / "digits.ipynb", as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", {**environment(), "IPYTHONDIR": str(tmp_path / "ipython")})
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output["data"] for output in outputs if output.output_type == "execute_result"]
    assert "<table>" in shown[0]["text/html"] and "the Pareto front of accuracy" in shown[0]["text/html"]
    assert 0.9 < float(shown[2]["text/plain"]) <= 1 and "'accurate'" in shown[-1]["text/plain"]
    assert (tmp_path / "report" / "front.html").is_file()
