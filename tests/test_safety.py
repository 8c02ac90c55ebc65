"""What comes from outside does no harm: pickles, names, modes of files."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, environment, opened, search, settings_in

from harness.core.content import inside, write_atomically
from harness.core.errors import HarnessError
from harness.tracking.spool import SPOOL, Spool
from harness.tracking.trackers.mlflow.store import MlflowStore


class Malicious:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["teacher.ckpt", "teacher.pt", "teacher.pkl", "teacher.safetensors"])
def test_a_pickle_given_as_a_teacher_is_refused_without_being_run(example: Path, name: str) -> None:
    target = example / "harmed"
    if name.endswith(".pkl"):
        (example / name).write_bytes(pickle.dumps(Malicious(target)))
    else:
        torch.save({"state_dict": {"weight": Malicious(target)}}, example / name)
    output = search(example, "--space", "cancer.py", "--trials", "1", "--teacher", name, expect=2)
    assert ("can't be read" in output or "holds a posix.mkdir, which is code" in output) and not target.exists()


def test_no_file_of_the_project_unpickles_or_evaluates() -> None:
    words = ("import pickle", "import joblib", "import yaml", "allow_pickle=True", "pickle.load", " eval(", " exec(")
    for layer in ("harness", "lightning_modules", "search_spaces"):
        for path in (ROOT / layer).rglob("*.py"):
            code = path.read_text()
            assert not [word for word in words if word in code], path
            assert code.count("torch.load(") == code.count("weights_only=True)"), path
            assert code.count("np.load(") == code.count("allow_pickle=False)"), path


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..", ".", ""])
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="must lie within"):
        inside(tmp_path / "here", name)
    assert inside(tmp_path / "here", "a/b") == tmp_path / "here" / "a" / "b"


@pytest.mark.parametrize("name", ["../../x", "..", "2//control", "confirm/../../x", "/tmp"])
def test_a_name_in_the_storage_that_leads_out_of_the_study_is_refused(tmp_path: Path, name: str) -> None:
    study = opened(settings_in(tmp_path, trials=1))
    study.store_retrained("2/control", {"reason": "none"})
    study.store_retrained("confirm/2/student-0", {"reason": "none"})
    assert set(study.retrained()) == {"2/control", "confirm/2/student-0"}
    study.store_retrained(name, {"reason": "none"})
    with pytest.raises(HarnessError, match="must be able to name a file"):
        study.retrained()


def test_ids_and_spaces_in_the_storage_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    study = opened(settings_in(tmp_path, trials=1))
    study.optuna.set_user_attr("kd.id", "../../ab")
    study.optuna.set_user_attr("kd.identity", {**study.attrs["kd.identity"], "space": "../x"})
    study.__dict__.pop("id", None)
    with pytest.raises(HarnessError, match="a plain word as its id"):
        _ = study.id
    with pytest.raises(HarnessError, match="the name of a space must be able"):
        _ = study.space_name


@pytest.mark.parametrize("how", ["path", "link"])
def test_a_file_outside_of_a_runs_folder_is_not_sent_to_the_tracking_server(tmp_path: Path, how: str) -> None:
    (tmp_path / "secret").write_text("s3cret")
    store = MlflowStore(f"sqlite:///{tmp_path}/mlflow.db", "kd-s", tmp_path / "mlruns")
    folder = tmp_path / "study" / "0"
    spool = Spool(folder)
    spool.begin("trial", tags={"kd.run_key": "s/0"}, params={})
    (folder / "link").symlink_to(tmp_path / "secret")
    spool.artifact(tmp_path / "secret" if how == "path" else folder / "link")
    spool.close()
    with pytest.raises(ValueError, match="must lie within"):
        store.send(folder)
    assert not [path for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]


def test_a_parent_that_is_no_folder_above_is_refused(tmp_path: Path) -> None:
    store = MlflowStore(f"sqlite:///{tmp_path}/mlflow.db", "kd-s", tmp_path / "mlruns")
    spool = Spool(tmp_path / "study" / "0")
    spool.begin("trial", tags={"kd.run_key": "s/0"}, params={}, parent=tmp_path / "other")
    spool.close()
    with pytest.raises(ValueError, match="parent must be a folder above"):
        store.send(tmp_path / "study" / "0")
    assert not (tmp_path / "other" / SPOOL).exists()


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_a_file_that_a_library_keeps_to_its_owner_gets_the_users_mode(tmp_path: Path, umask: int) -> None:
    def write(path: Path) -> None:
        path.unlink()
        os.close(os.open(path, os.O_CREAT, 0o600))

    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", write)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


@pytest.mark.slow
def test_all_that_a_search_leaves_has_the_users_umask(example: Path) -> None:
    umask = 0o027
    (example / "mlflow.db").unlink()
    before = set(example.rglob("*"))
    flags = ("--space", "cancer.py", "--trials", "2", "--epochs", "1", "--workers", "2")
    subprocess.run(
        [sys.executable, str(ROOT / "search.py"), *flags],
        cwd=example,
        env={**environment(), "PYTHONDONTWRITEBYTECODE": "1"},
        umask=umask,
        check=True,
        capture_output=True,
        timeout=240,
    )
    made = [path for path in example.rglob("*") if path not in before]
    assert len(made) > 20
    for path in made:
        whole = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == whole & ~umask, path
