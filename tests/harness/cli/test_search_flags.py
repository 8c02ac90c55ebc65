"""The command lines: defaults, mistakes in one line, and how a command ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, environment

from harness.cli.commands import parse_command
from harness.cli.hints import next_steps
from harness.cli.search import parse_search
from harness.launchers.placement import Placement
from harness.options.spaces import SPACES_DIR, space_names
from harness.outcome import Outcome
from harness.settings import DEFAULT_RUNS_DIR, DEFAULT_STORAGE, DEFAULT_TRACKING_URI, Settings

HEAVY = {
    "torch",
    "pytorch_lightning",
    "mlflow",
    "optuna",
    "pandas",
    "numpy",
    "sklearn",
    "sqlalchemy",
    "rich",
    "submitit",
    "ray",
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test stands in a folder of its own, and nothing in the environment moves the files."""
    monkeypatch.chdir(tmp_path)
    for name in ("KD_STORAGE", "KD_RUNS_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in the project with an interpreter of its own."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)


def only_line(error: str) -> str:
    """The error, which must be one line that begins as every error does."""
    assert error.startswith("error: ") and error.endswith("\n") and error.count("\n") == 1, error
    return error


def test_what_is_next_is_to_confirm_only_where_something_is_picked() -> None:
    settings = parse_search([])[0]

    def told(*, is_over: bool, has_picks: bool) -> str:
        return next_steps(
            Outcome(
                settings=settings,
                experiment_id="1",
                primary="accuracy",
                finished=3,
                is_over=is_over,
                is_exhausted=False,
                has_picks=has_picks,
            )
        )

    assert "harness confirm --study digits" in told(is_over=True, has_picks=True)
    assert "confirm" not in told(is_over=True, has_picks=False) and "--trials 6" in told(is_over=True, has_picks=False)
    assert "confirm" not in told(is_over=False, has_picks=True)


def test_without_arguments_the_digits_are_searched_with_the_documented_defaults() -> None:
    assert parse_search([])[0] == Settings(
        space_name="digits",
        space_file=ROOT / "search_spaces" / "digits.py",
        study="digits",
        trials=50,
        storage="sqlite:///optuna.db",
        tracking_uri="sqlite:///mlflow.db",
        runs_dir=Path("mlruns"),
        data_dir=None,
        teachers=(),
        trained_teachers=1,
        average="probabilities",
        recipes=(),
        default_recipes=True,
        epochs=None,
        objectives=None,
        sampler="front",
        seed=0,
        fixed={},
        timeout_s=None,
        accelerator="auto",
    )


def test_every_flag_reaches_its_setting() -> None:
    Path("t.ckpt").touch()
    Path("u.ckpt").touch()
    asked, _ = parse_search(
        "--recipe hinton --recipe none --recipe deit --recipe hinton --teacher u.ckpt --ensemble logits "
        "--space fashion-mnist --study a.study+1 --trials 7 --epochs 3 --objectives accuracy,macs --fix alpha=0.5 "
        "--fix act=a=b --sampler nsga2 --seed 2147483647 --timeout 1.5 --teacher t.ckpt --data-dir d --accelerator cpu "
        "--storage postgresql://h --tracking-uri http://h:5000 --runs-dir out/runs".split()
    )
    assert asked == Settings(
        space_name="fashion-mnist",
        space_file=SPACES_DIR / "fashion_mnist.py",
        study="a.study+1",
        trials=7,
        epochs=3,
        objectives=("accuracy", "macs"),
        fixed={"alpha": "0.5", "act": "a=b"},
        sampler="nsga2",
        seed=2147483647,
        timeout_s=1.5,
        teachers=(Path("u.ckpt"), Path("t.ckpt")),
        average="logits",
        recipes=("hinton", "deit"),
        default_recipes=False,
        data_dir=Path("d"),
        accelerator="cpu",
        storage="postgresql://h",
        tracking_uri="http://h:5000",
        runs_dir=Path("out/runs"),
    )
    assert list(Path("out/runs").iterdir()) == []  # made, and nothing left in it


def test_workers_are_placed_by_slurm_or_ray_and_each_runs_one_trial_at_a_time() -> None:
    settings, placement = parse_search([])
    assert (placement, settings.workers) == (Placement(), None)
    assert parse_search(["--workers", "3"])[1] == Placement()
    _, placement = parse_search(
        "--launcher slurm --nodes 2 --workers 4 --cpus-per-worker 3 --gpus-per-worker 1 --partition gpu --time 1:30:01 "
        "--slurm account=lab --slurm mem_per_cpu=2G --slurm exclusive --detach".split()
    )
    assert placement == Placement(
        launcher="slurm",
        workers=8,
        cpus=3,
        gpus=1,
        detach=True,
        partition="gpu",
        minutes=91,
        sbatch={"account": "lab", "mem-per-cpu": "2G", "exclusive": True},
    )
    _, placement = parse_search("--launcher ray --workers 4 --ray-address ray://h:10001".split())
    assert placement == Placement(launcher="ray", workers=4, ray_address="ray://h:10001")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("1:30", 2), ("02:00:00", 120), ("1-00:00:00", 1440), ("2-3", 3060), ("1-2:30", 1590)],
)
def test_a_time_limit_is_read_as_slurm_reads_it(text: str, minutes: int) -> None:
    assert parse_search(["--launcher", "slurm", "--time", text])[1].minutes == minutes


def test_several_teachers_are_given_or_trained() -> None:
    asked, _ = parse_search(["--teachers", "3"])
    assert (asked.trained_teachers, asked.average, asked.teachers) == (3, "probabilities", ())
    assert parse_search(["--teachers", "2", "--ensemble", "logits"])[0].average == "logits"


def test_the_help_of_confirm_says_that_the_accelerator_is_not_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_command(["confirm", "--help"])
    before, as_then = capsys.readouterr().out.split("Where it was searched (default: as then):")
    assert "--accelerator NAME" in before.split("What is trained:")[1] and "--accelerator" not in as_then
    assert "--data-dir" in as_then


def test_new_data_to_confirm_on_is_a_folder_or_a_file_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.csv").touch()
    for path in (tmp_path, tmp_path / "new.csv"):
        assert parse_command(["confirm", "--study", "s", "--on", str(path)])[1][0].on == path
    assert parse_command(["confirm", "--study", "s"])[1][0].on is None
    with pytest.raises(SystemExit):
        parse_command(["confirm", "--study", "s", "--on", str(tmp_path / "old.csv")])
    assert "--on must be a folder or a file, but there is no" in only_line(capsys.readouterr().err)


def test_the_help_names_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_search(["--help"])
    assert "repdistiller, distilbert, keras, torchdistill, deit, hinton" in " ".join(capsys.readouterr().out.split())


def test_the_environment_moves_what_no_flag_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_STORAGE", "postgresql://env")
    monkeypatch.setenv("KD_RUNS_DIR", "env-runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env")
    for settings in (parse_search([])[0], parse_command(["report", "--study", "s"])[1][0]):
        assert (settings.storage, settings.tracking_uri) == ("postgresql://env", "http://env")
        assert settings.runs_dir == Path("env-runs")
    moved, _ = parse_search(
        ["--storage", "postgresql://flag", "--tracking-uri", "http://flag", "--runs-dir", "flag-runs"]
    )
    assert (moved.storage, moved.tracking_uri, moved.runs_dir) == (
        "postgresql://flag",
        "http://flag",
        Path("flag-runs"),
    )


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_variable_is_none(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KD_STORAGE", "KD_RUNS_DIR", "MLFLOW_TRACKING_URI", "KD_TO"):
        monkeypatch.setenv(name, empty)
    for settings in (parse_search([])[0], parse_command(["report", "--study", "s"])[1][0]):
        assert (settings.storage, settings.tracking_uri) == (DEFAULT_STORAGE, DEFAULT_TRACKING_URI)
        assert settings.runs_dir == DEFAULT_RUNS_DIR
    with pytest.raises(SystemExit):
        parse_command(["move", "--study", "s"])


@pytest.mark.parametrize("flag", ["--study", "--storage", "--tracking-uri", "--runs-dir", "--data-dir", "--teacher"])
def test_an_empty_flag_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_search([f"{flag}="])
    assert f"{flag}" in only_line(capsys.readouterr().err)


def test_the_doctor_s_flags_reach_its_settings_and_no_folder_is_made() -> None:
    Path("t.ckpt").touch()
    command, (asked,) = parse_command(
        "doctor --space fashion-mnist --max parameters=2000 --max macs=5 --teacher t.ckpt --data-dir d "
        "--accelerator cpu --runs-dir out/runs".split()
    )
    assert command == "doctor" and asked == Settings(
        space_name="fashion-mnist",
        space_file=SPACES_DIR / "fashion_mnist.py",
        study="fashion-mnist",
        budgets={"parameters": 2000.0, "macs": 5.0},
        teachers=(Path("t.ckpt"),),
        data_dir=Path("d"),
        accelerator="cpu",
        runs_dir=Path("out/runs"),
    )
    assert [path.name for path in Path().iterdir()] == ["t.ckpt"]


def test_a_space_file_gives_its_name_to_the_study() -> None:
    Path("my_space.py").write_text("")
    asked, _ = parse_search(["--space", "my_space.py"])
    assert (asked.space_name, asked.study, asked.space_file) == ("my-space", "my-space", Path("my_space.py"))
    of_digits = ["digit-masks", "digit-traits", "digits", "digits-methods"]
    of_clothes = ["fashion-mnist", "fashion-mnist-methods", "fashion-mnist-shifted"]
    assert space_names() == ["diabetes", *of_digits, *of_clothes, "tweets"]


@pytest.mark.parametrize(
    ("file", "study"),
    [
        ("my space.py", "my-space"),
        ("a__b_.py", "a--b-"),
        ("_mine.py", "mine"),
        ("模型 v2.py", "v2"),
        ("é" * 120 + "x.py", "x"),
        ("x" * 200 + ".py", "x" * 100),
    ],
)
def test_a_study_is_called_as_much_like_its_file_as_a_study_can_be(file: str, study: str) -> None:
    Path(file).touch()
    assert parse_search(["--space", file])[0].study == study
    assert parse_command(["doctor", "--space", file])[1][0].study == study


def test_a_study_whose_file_gives_it_no_name_asks_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    Path("模型.py").touch()
    with pytest.raises(SystemExit):
        parse_search(["--space", "模型.py"])
    assert "the study needs a name, and '模型.py' has no letter" in only_line(capsys.readouterr().err)
    assert parse_search(["--space", "模型.py", "--study", "model"])[0].study == "model"
    assert parse_command(["doctor", "--space", "模型.py"])[0] == "doctor"


@pytest.mark.parametrize(
    ("arguments", "flag", "found"),
    [
        *((["--trials", text], "--trials", repr(text)) for text in ("0", "-3", "x", "1.5", "")),
        *((["--epochs", text], "--epochs", repr(text)) for text in ("0", "-1", "ten")),
        *((["--seed", text], "--seed", repr(text)) for text in ("-1", "2147483648", "x", "1.0", "²")),
        *((["--timeout", text], "--timeout", repr(text)) for text in ("0", "nan", "inf", "-5", "soon")),
        *((["--study", text], "--study", repr(text)) for text in ("../x", "a/b", ".hidden", "a b", "é", "x" * 101)),
        *((["--objectives", text], "--objectives", repr(text)) for text in ("a,a", "a,", ",")),
        *((["--fix", text], "--fix", repr(text)) for text in ("alpha", "alpha=", "=1", "")),
        (["--fix", "alpha=0", "--fix", "alpha=1"], "--fix", "once"),
        *((["--teachers", text], "--teachers", repr(text)) for text in ("0", "-1", "two")),
        (["--teachers", "2", "--teacher", __file__], "--teachers", "one of the two must be left out"),
        (["--ensemble", "logits"], "--ensemble", "needs several teachers"),
        (["--ensemble", "logits", "--teacher", __file__], "--ensemble", "needs several teachers"),
        (["--ensemble", "votes", "--teachers", "2"], "--ensemble", "'votes'"),
        (["--teacher", __file__, "--teacher", "none.ckpt"], "--teacher", "'none.ckpt'"),
        (["--recipe", "hintn"], "--recipe", "'hintn'"),
        (["--sampler", "grid"], "--sampler", "'grid'"),
        (["--space", "cifar"], "--space", "'cifar'"),
        (["--space", "none.py"], "--space", "'none.py'"),
        (["--space", "../search_spaces/digits"], "--space", "digits, digits-methods, fashion-mnist"),
        (["--space", "x" * 256 + ".py"], "--space", "xxx.py'"),
        (["--space", "x" * 256], "--space", "xxx'"),
        (["--teacher", "x" * 256], "--teacher", "xxx'"),
        (["--data-dir", "x" * 256], "--data-dir", "File name too long"),
        (["--runs-dir", "x" * 256], "--runs-dir", "File name too long"),
        (["--launcher", "pbs"], "--launcher", "'pbs'"),
        *(([flag, "1"], flag, "is for --launcher slurm") for flag in ("--nodes", "--partition", "--time")),
        (["--slurm", "qos=high"], "--slurm", "is for --launcher slurm"),
        (["--launcher", "slurm", "--ray-address", "auto"], "--ray-address", "is for --launcher ray"),
        (["--launcher", "ray", "--time", "60"], "--time", "is for --launcher slurm, but got --launcher ray"),
        (["--gpus-per-worker", "1"], "--gpus-per-worker", "slurm and ray"),
        (["--detach"], "--detach", "slurm and ray"),
        (["--workers", "51"], "--workers", "at most the 50 --trials"),
        (["--launcher", "slurm", "--nodes", "8", "--workers", "8"], "--nodes x --workers", "but got 64"),
        *(
            (["--launcher", "slurm", "--time", text], "--time", repr(text))
            for text in ("0", "0:59:60:1", "soon", "1-", "00:00:00", "-5")
        ),
        *(
            (["--launcher", "slurm", "--slurm", text], "--slurm", repr(text))
            for text in ("=x", "qos=", "q s=1", "a=\n")
        ),
        (["--launcher", "slurm", "--slurm", "time=5"], "--slurm", "has an option of its own, --time"),
        (["--launcher", "slurm", "--slurm", "output=x"], "--slurm", "set by the launcher itself"),
        (["--launcher", "slurm", "--slurm", "qos=a", "--slurm", "qos=b"], "--slurm", "once"),
        (["--trial", "3"], "--trial", "has no option"),
        (["--trials"], "--trials", "requires an argument"),
        (["--trials", "--epochs", "3"], "--trials", "'--epochs'"),
        (["extra"], "extra", "takes options only"),
    ],
)
def test_a_mistake_ends_with_code_2_and_one_line(
    arguments: list[str], flag: str, found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse_search(arguments)
    output = capsys.readouterr()
    assert end.value.code == 2 and output.out == ""
    assert flag in (line := only_line(output.err)) and found in line


@pytest.mark.parametrize("asked", ["my_space", "my-space"])
def test_a_space_file_without_its_ending_is_asked_for(asked: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("my_space.py").touch()
    with pytest.raises(SystemExit):
        parse_search(["--space", asked])
    assert f"but got {asked!r}; did you mean my_space.py? (see" in only_line(capsys.readouterr().err)


@pytest.mark.parametrize("runs_dir", ["file", "file/runs", "file/a/b"])
def test_a_runs_dir_that_cannot_be_written_is_said_at_once(runs_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("not a folder")
    with pytest.raises(SystemExit) as end:
        parse_search(["--runs-dir", runs_dir])
    line = only_line(capsys.readouterr().err)
    assert end.value.code == 2 and "--runs-dir must be a folder that can be written" in line and repr(runs_dir) in line
    assert Path("file").read_text() == "not a folder"


def test_a_runs_dir_that_is_no_utf_8_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_search(["--runs-dir", os.fsdecode(b"caf\xe9")])
    line = only_line(capsys.readouterr().err)
    assert end.value.code == 2 and "whose whole name is UTF-8" in line and r"caf\xe9" in line


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "confirm",
        "report --study ../x",
        "show",
        "report --study s --runs-dir /dev/null/x",
        "doctor --space none.py",
        "doctor --max macs=0",
        "doctor --max macs=1 --max macs=2",
        "doctor --teacher none.ckpt",
    ],
)
def test_a_mistake_in_another_command_is_one_line_too(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_command(arguments.split())
    assert end.value.code == 2
    only_line(capsys.readouterr().err)


def test_a_search_takes_the_same_as_a_command_as_by_search_py() -> None:
    typed = "--space fashion-mnist --trials 7 --launcher slurm --nodes 2 --workers 3 --fix alpha=0.5".split()
    assert parse_command(["search", *typed]) == ("search", parse_search(typed))


def test_the_help_of_the_console_script_lists_every_command_and_shows_its_own_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/kd-harness"])
    with pytest.raises(SystemExit):
        parse_command(["--help"])
    told = capsys.readouterr().out
    assert told.startswith("Usage: kd-harness [OPTIONS] COMMAND ") and "python" not in told
    for command in ("search", "doctor", "report", "confirm", "status", "move"):
        assert re.search(rf"^  {command} +\w", told, re.MULTILINE), command
        with pytest.raises(SystemExit):
            parse_command([command, "--help"])
        own = capsys.readouterr().out
        assert own.startswith(f"Usage: kd-harness {command} ") and "python " not in own


def test_a_mistake_names_the_help_of_its_own_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KD_TO", raising=False)
    for arguments in ("move --study s", "report --study ../x", "doctor --space none.py", "search --trials"):
        with pytest.raises(SystemExit):
            parse_command(arguments.split())
        line = only_line(capsys.readouterr().err)
        assert line.endswith(f"(see python -m harness {arguments.split()[0]} --help)\n")
    for arguments, missing in (("move --study s", "--to is required, or $KD_TO"), ("confirm", "--study is required")):
        with pytest.raises(SystemExit):
            parse_command(arguments.split())
        assert f"error: {missing} (see" in capsys.readouterr().err


def test_where_a_study_moves_to_is_needed_unless_the_environment_has_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KD_TO", "")
    with pytest.raises(SystemExit):
        parse_command(["move", "--study", "s"])
    assert "--to is required" in only_line(capsys.readouterr().err)
    monkeypatch.setenv("KD_TO", "sqlite:///there.db")
    assert parse_command(["move", "--study", "s"])[1][1] == "sqlite:///there.db"


def test_a_mistake_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_search(["--storag", "postgresql://me:s3cret@host/db"])
    assert "s3cret" not in only_line(capsys.readouterr().err)
    with pytest.raises(SystemExit):
        parse_search(["postgresql://me:s3cret@host/db"])
    assert "me:***@host" in (line := only_line(capsys.readouterr().err)) and "s3cret" not in line


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("search", ["--trials", "0"]),
        ("search", ["--help"]),
        ("harness.__main__", ["report", "--help"]),
        ("harness.__main__", ["doctor", "--help"]),
        ("harness.__main__", ["search", "--help"]),
        ("harness.__main__", ["search", "--trials", "0"]),
    ],
)
def test_help_and_mistakes_import_nothing_heavy(script: str, arguments: list[str]) -> None:
    code = f"import runpy, sys\ntry: runpy.run_module({script!r}, run_name='__main__')\nfinally: print(*sys.modules)"
    ended = python(code, *arguments)
    assert ended.returncode == (0 if "--help" in arguments else 2)
    *told, imported = ended.stdout.splitlines()
    assert "harness.cli.parsing" in imported.split() and not HEAVY & set(imported.split())
    if "--help" in arguments:
        assert ended.stderr == "" and "--runs-dir" in "\n".join(told)
    else:
        assert "--trials" in only_line(ended.stderr) and told == []


@pytest.mark.parametrize(
    ("body", "code", "error"),
    [
        ("pass", 0, ""),
        ("raise HarnessError('no answer from http://u:p@h')", 2, "error: no answer from http://u:***@h\n"),
        ("raise HarnessError('first\\nsecond')", 2, None),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", 128 + signal.SIGTERM, ""),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", 128 + signal.SIGINT, ""),
    ],
)
def test_a_command_ends_as_its_outcome_asks(body: str, code: int, error: str | None) -> None:
    ended = python(
        "import os, signal, time\n"
        "from harness.cli.run import run\n"
        "from harness.core.errors import HarnessError\n"
        f"def main():\n    {body}\n"
        "run(main)\n"
    )
    assert ended.returncode == code and ended.stdout == ""
    if error is None:
        assert "first" in only_line(ended.stderr)
    else:
        assert ended.stderr == error


@pytest.mark.parametrize(
    ("parse", "arguments", "words"),
    [
        (parse_search, ["--trails", "5"], "search.py has no option --trails; did you mean --trials? (see"),
        (parse_search, ["--spce=digits"], "search.py has no option --spce; did you mean --space? (see"),
        (
            parse_command,
            ["status", "--study", "s", "--storge", "x"],
            "status has no option --storge; did you mean --sto",
        ),
        (parse_search, ["digits", "--trails", "5"], "no option --trails; did you mean --trials?"),
        (
            parse_command,
            ["report", "--study", "s", "--seeds", "5"],
            "no option --seeds; --seeds is of confirm (see pyth",
        ),
        (parse_search, ["--whatever"], "search.py has no option --whatever (see"),
        (
            parse_search,
            ["--sampler", "frnt"],
            "--sampler must be one of front, tpe, nsga2, gp, random, but got 'frnt'; di",
        ),
        (parse_command, ["reprt"], "but got 'reprt'; did you mean report?"),
    ],
)
def test_a_flag_that_is_misspelt_is_told_what_it_may_be(
    parse: Callable[[list[str]], object], arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_the_output_can_not_show_is_replaced(encoding: str) -> None:
    body = "from harness.screen.terminal import Terminal; Terminal().say('α ↑ 猫 \\udce9'); print('α')"
    ended = subprocess.run(
        [sys.executable, "-c", f"from harness.cli.run import run\ndef main(): {body}\nrun(main)"],
        env={**environment(), "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"? ? ? ?\n?\n", b"")


def test_a_command_in_a_folder_that_was_deleted_says_so() -> None:
    ended = python(
        "import os, tempfile\n"
        "from harness.cli.run import run\n"
        "os.chdir(folder := tempfile.mkdtemp())\n"
        "os.rmdir(folder)\n"
        "run(print)\n"
    )
    assert ended.returncode == 2 and ended.stdout == ""
    assert "the folder that you are in must exist, but was deleted; cd to one that does." in only_line(ended.stderr)
