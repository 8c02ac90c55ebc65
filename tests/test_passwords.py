"""Passwords in addresses: they open what they are for, and stand nowhere that others can look."""

from __future__ import annotations

import signal
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import PATIENCE_S, ROOT, environment, epochs_logged, search, settings_in, typed, wait_for
from forked import Forked
from servers import Postgres

from harness.core.errors import HarnessError, one_line
from harness.settings import Settings
from harness.storage.access import open_storage

pytestmark = [pytest.mark.slow, pytest.mark.service]

PASSWORD = "hun/t:er@2%x"
FORMS = (PASSWORD, quote(PASSWORD, safe=""), "hun/t", "hun%2F", "er@2", "er%402", "Wr0ng")
"""What is looked for: the password as it is, as an address has it, and its pieces; and a wrong one."""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """The folder of the socket of a PostgreSQL that asks its user ``kd`` for a password."""
    server = Postgres()
    server.run(f"create role kd login password '{PASSWORD}'; create database kd owner kd;")
    (server.data / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
    server.run("select pg_reload_conf();")
    yield str(server.data)
    server.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, trials=1)


def address(host: str, password: str = quote(PASSWORD, safe="")) -> str:
    return f"postgresql+psycopg://kd:{password}@/kd?host={host}"


def command_lines(pid: int) -> list[str]:
    """Of a process and all that it has started, as ``ps`` shows them."""
    found = [Path(f"/proc/{pid}/cmdline").read_bytes().decode()]
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            found += command_lines(int(child))
    return found


def said_nowhere(folder: Path) -> None:
    """No file in a folder holds the password, nor does a name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        for form in FORMS:
            assert form.encode() not in path.read_bytes(), (path, form)
            assert form not in str(path)


def with_variables(folder: Path, variables: dict[str, str], *command: Path | str) -> tuple[int, str]:
    """Exit code and output of a program with more variables in its environment."""
    output = folder / "said.txt"
    process = Forked(*command, output=output, env={**environment(), **variables})
    try:
        code = process.wait(PATIENCE_S)
    finally:
        process.kill()
    return code, output.read_text()


def test_a_password_on_the_command_line_is_seen_neither_by_ps_nor_in_any_file(example: Path, host: str) -> None:
    command = ("--space", "cancer.py", "--trials", "3", "--epochs", "200", "--workers", "2", "--storage", address(host))
    process = typed(example, *command)
    wait_for(lambda: epochs_logged(example, "cancer", 1) >= 3)
    shown = command_lines(process.pid)
    assert len(shown) >= 4 and "--epochs" in shown[0]  # itself, the mirror, two workers
    assert "--storage" not in shown[0] and not any(form in line for form in FORMS for line in shown)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 143
    output = (example / "output.txt").read_text()
    assert "  go on    " in output and "in KD_STORAGE" in output and "***" not in output
    # What is printed goes on, with the variable that it names.
    again = next(line for line in output.splitlines() if "  go on  " in line).split("search.py", 1)[1].split()
    code, output = with_variables(example, {"KD_STORAGE": address(host)}, ROOT / "search.py", *again)
    assert code == 0 and "3/3 done" in output, output
    report = next(line for line in output.splitlines() if "  report  " in line).split(" -m ", 1)[1].split()
    code, output = with_variables(example, {"KD_STORAGE": address(host)}, *report)
    assert code == 0 and "Pareto front" in output, output
    said_nowhere(example)


@pytest.mark.parametrize("how", ["PGPASSWORD", "pgpass", "query"])
def test_a_password_that_libpq_finds_by_itself_will_do(example: Path, host: str, how: str) -> None:
    variables = {"KD_STORAGE": f"postgresql+psycopg://kd@/kd?host={host}"}
    if how == "PGPASSWORD":
        variables["PGPASSWORD"] = PASSWORD
    elif how == "pgpass":
        file = example / "home" / ".pgpass"
        file.parent.mkdir()
        file.write_text(f"*:*:kd:kd:{PASSWORD.replace(':', chr(92) + ':')}\n")
        file.chmod(0o600)
        variables["PGPASSFILE"] = str(file)
    else:
        variables["KD_STORAGE"] += f"&password={quote(PASSWORD, safe='')}"
    flags = ("--space", "cancer.py", "--study", how, "--trials", "1", "--epochs", "1", "--workers", "1")
    code, output = with_variables(example, variables, ROOT / "search.py", *flags)
    assert code == 0 and "1/1 done" in output, output
    assert not any(form in output for form in FORMS)
    assert ("in KD_STORAGE" in output) == (how == "query")
    (example / "home" / ".pgpass").unlink(missing_ok=True)
    said_nowhere(example)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("postgresql+psycopg://kd:Wr0ng@/kd?host={host}", "password authentication failed for user"),
        ("postgresql+psycopg://kd:Wr0ng/x:y@z@/kd?host={host}", "password authentication failed for user"),
        ("postgresql+psycopg:///kd?host={host}&user=kd&password=Wr0ng", "password authentication failed for user"),
        ("postgresql+psycopg:///kd?host={host}&password=Wr0ng&a=b", "invalid connection option"),
        ("postgresql+psycopg://kd:Wr0ng@nowhere.invalid/kd", "failed to resolve host 'nowhere.invalid'"),
        ("postgresql+psycopg://kd:Wr0ng@127.0.0.1:1/kd", "Connection refused"),
        ("postgresql+psycopg://kd:Wr0ng@127.0.0.1:port/kd", "invalid literal for int()"),
        ("postgresql+psycopg://k@d:Wr0ng@127.0.0.1:1/kd", "Connection refused"),
        ("postgresql+none://kd:Wr0ng@h/kd", "sqlalchemy.dialects:postgresql.none"),
        ("postgresql:/kd:Wr0ng@h/kd", "must be sqlite:///FILE (for one machine)"),
        ("postgresql+psycopg://:Wr0ng@127.0.0.1:1/0", "127.0.0.1:1"),
    ],
)
def test_a_storage_that_fails_is_told_without_its_password(
    settings: Settings, host: str, given: str, words: str
) -> None:
    with pytest.raises(HarnessError) as raised:
        open_storage(replace(settings, storage=given.format(host=host)))
    assert words in one_line(raised.value) and "Wr0ng" not in str(raised.value)
    for path in settings.runs_dir.parent.rglob("*"):
        assert "Wr0ng" not in str(path) and (path.is_dir() or b"Wr0ng" not in path.read_bytes()), path


@pytest.mark.parametrize(
    ("flag", "given", "words"),
    [
        ("--storage", "kd:Wr0ng@h/kd", "it is not shown"),
        ("--storage", "postgresql+psycopg://kd:My Wr0ng@h/kd", "it is not shown"),
        ("--storage", "postgresql+psycopg://kd:Wr0ng@/kd?host={host}", "password authentication failed for user"),
        ("--tracking-uri", "kd:Wr0ng@127.0.0.1:1", "it is not shown"),
        ("--tracking-uri", "http://kd:Wr0ng/x@127.0.0.1:1", "does not"),
        ("--tracking-uri", "postgresql+psycopg://kd:Wr0ng@/kd?host={host}", "password authentication failed for user"),
        ("--trackng-uri", "http://kd:Wr0ng@127.0.0.1:1", "has no option --trackng-uri; did you mean --tracking-uri?"),
    ],
)
def test_an_address_that_fails_is_told_without_its_password(
    example: Path, host: str, flag: str, given: str, words: str
) -> None:
    output = search(example, "--space", "cancer.py", "--trials", "1", flag, given.format(host=host), expect=2)
    (line,) = output.strip().splitlines()[-1:]
    assert line.startswith("error: ") and words in line and "Traceback" not in output
    assert "Wr0ng" not in output
    for path in example.rglob("*"):
        assert "Wr0ng" not in str(path) and (path.is_dir() or b"Wr0ng" not in path.read_bytes()), path


class _Guarded(BaseHTTPRequestHandler):
    """An HTTP server that asks for a name and a password, and remembers what it was given."""

    given: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.given.append(self.headers.get("Authorization", ""))
        self.send_error(401)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


def test_the_tracking_servers_password_reaches_the_server_and_nobody_else(example: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Guarded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://kd:Wr0ng%2Fx@127.0.0.1:{server.server_port}"
    output = search(example, "--space", "cancer.py", "--trials", "1", "--tracking-uri", uri, expect=2)
    server.shutdown()
    server.server_close()
    assert "Basic " + b64encode(b"kd:Wr0ng/x").decode() in _Guarded.given
    assert f"http://kd:***@127.0.0.1:{server.server_port} does not" in output and "Wr0ng" not in output


LEAKING = """

class Leaking(nn.Module):
    def forward(self, logits):
        if self.training and torch.is_grad_enabled():
            raise KeyError("lost postgresql://kd:Wr0ng@h/kd, and with it host=h password=Wr0ng")
        return logits
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_traceback_that_holds_an_address_is_kept_without_its_password(example: Path, workers: str) -> None:
    space = (example / "cancer.py").read_text()
    student = "nn.Sequential(perceptron(width), Leaking())"
    (example / "cancer.py").write_text(space.replace("return perceptron(width)", f"return {student}") + LEAKING)
    output = search(example, "--space", "cancer.py", "--trials", "2", "--workers", workers, expect=2)
    assert "postgresql://kd:***@h/kd" in output and "Wr0ng" not in output
    kept = [path.read_text() for path in (example / "mlruns").rglob("failure.txt")]
    assert kept and all("postgresql://kd:***@h/kd" in text and "raise KeyError" in text for text in kept)
    for path in (example / "mlruns").rglob("*"):
        assert path.is_dir() or b"Wr0ng" not in path.read_bytes(), path


def test_a_bug_outside_of_a_trial_is_told_without_passwords(example: Path) -> None:
    code = "from harness.cli.run import run\ndef main(): raise SystemError('postgresql://kd:Wr0ng@h/kd')\nrun(main)\n"
    (example / "bug.py").write_text(code)
    ended, output = with_variables(example, {}, example / "bug.py")
    assert ended == 1 and output.endswith("SystemError: postgresql://kd:***@h/kd\n") and "Traceback" in output
