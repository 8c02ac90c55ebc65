"""The code behind a space file: what belongs to it, and what is said of a change."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.sources import Code, package_code
from harness.space import load_space
from search_spaces.digits import SPACE

assert SPACE  # what the files below take


def code(folder: Path, **files: str) -> Code:
    """The code of ``space.py`` in a folder, which takes the digits' space; dots in names are folders."""
    for name, text in {"space": "", **files}.items():
        path = folder / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\nfrom search_spaces.digits import SPACE\n" if name == "space" else text)
    return load_space(folder / "space.py").code


def test_the_code_has_every_module_of_the_user_that_is_imported(tmp_path: Path) -> None:
    found = code(
        tmp_path,
        space="import kd_nets, math\nimport importlib\nimportlib.import_module('kd_plugin')",
        kd_nets="import kd_package.layers",
        kd_plugin="",
        kd_lazy="",
        unused="",
        **{
            "kd_package.__init__": "",
            "kd_package.layers": "def layer():\n    from kd_lazy import nothing\n    from .parts import p",
            "kd_package.parts": "p = 1",
        },
    )
    packaged = {"kd_package/__init__.py", "kd_package/layers.py", "kd_package/parts.py"}
    digits = {"search_spaces/digits.py", "search_spaces/__init__.py"}
    assert found.files.keys() == {"space.py", "kd_nets.py", "kd_plugin.py", "kd_lazy.py", *packaged, *digits}
    assert found.package == package_code() and "lightning_modules/losses/response.py" in found.package
    assert not any("report" in name or "screen" in name for name in found.package)


def test_the_code_has_namespace_packages_and_broken_modules_too(tmp_path: Path) -> None:
    def found(folder: str, width: int) -> Code:
        return code(
            tmp_path / folder,
            space="from kd_models.deep.net import WIDTH\nfrom kd_models import other\nassert WIDTH == other.WIDTH",
            **{
                "kd_models.deep.net": f"WIDTH = {width}\nif 0:\n    from ..late import x\n    from ....y import z",
                "kd_models.other": f"WIDTH = {width}",
                "kd_models.late": "import kd_broken, kd_absent.part",
                "kd_broken": "def (",
            },
        )

    modules = {"kd_models/deep/net.py", "kd_models/other.py", "kd_models/late.py", "kd_broken.py"}
    first = found("one", 3)
    assert modules < first.files.keys()
    assert found("two", 3).differences(first.to_json()) == []
    assert found("three", 4).differences(first.to_json()) == [
        "kd_models/deep/net.py has `WIDTH = 4` where `WIDTH = 3` stood",
        "kd_models/other.py has `WIDTH = 4` where `WIDTH = 3` stood",
    ]


def test_equal_code_in_another_folder_has_no_differences(tmp_path: Path) -> None:
    stored = code(tmp_path / "one", space="import kd_nets", kd_nets="WIDTH = 3").to_json()
    same = code(tmp_path / "two", space='"""Text."""\nimport kd_nets  # it', kd_nets="WIDTH   =  3  # wide")
    assert same.differences(stored) == []


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"space": "import kd_nets", "kd_nets": "a = 1\nb = 2"}, "kd_nets.py has `b = 2` where `b = 1` stood"),
        ({"space": "import kd_nets", "kd_nets": "a = 1"}, "kd_nets.py has no `b = 1` any more"),
        (
            {"space": "import kd_nets", "kd_nets": "a = 1\nb = 1\nc = 1\nd = 1"},
            "kd_nets.py has `c = 1` too (and 1 more",
        ),
        ({"space": ""}, "kd_nets.py is not imported any more; space.py has no `import kd_nets` any more"),
        (
            {"space": "import kd_nets, kd_more", "kd_nets": "a = 1\nb = 1", "kd_more": ""},
            "kd_more.py is imported too; space.py has `import kd_nets, kd_more` where `import kd_nets` stood",
        ),
    ],
)
def test_a_difference_is_described_by_file_and_line(tmp_path: Path, files: dict[str, str], told: str) -> None:
    stored = code(tmp_path / "one", space="import kd_nets", kd_nets="a = 1\nb = 1").to_json()
    assert "; ".join(code(tmp_path / "two", **files).differences(stored)).startswith(told)


def test_a_long_line_is_cut_around_its_difference() -> None:
    stored = Code({"space.py": f"x = [{'0, ' * 100}1, {'0, ' * 100}]"}).to_json()
    (told,) = Code({"space.py": f"x = [{'0, ' * 100}2, {'0, ' * 100}]"}).differences(stored)
    before, after = "0, " * 6, "0, " * 12
    assert told == f"space.py has `…, {before}2, {after}0…` where `…, {before}1, {after}0…` stood"


def test_changed_training_code_of_this_package_is_named() -> None:
    stored = Code({}, {"lightning_modules/a.py": "1", "harness/b.py": "2"}).to_json()
    (told,) = Code({}, {"lightning_modules/a.py": "1", "harness/b.py": "3"}).differences(stored)
    assert told == "kd-harness itself trains otherwise (harness/b.py)"


def test_sources_too_long_for_a_storage_are_compared_by_their_hashes() -> None:
    import random

    long = "x = " + repr(random.Random(0).randbytes(60_000).hex())
    stored = Code({"space.py": long}).to_json()
    assert stored["texts"] == "" and Code({"space.py": long}).differences(stored) == []
    assert Code({"space.py": long + "\ny = 1"}).differences(stored) == ["space.py differs"]


def test_a_renamed_file_is_no_difference_unless_it_changed_too() -> None:
    stored = Code({"space.py": "x = 1", "nets.py": "y = 2"}).to_json()
    assert Code({"moved.py": "x = 1", "nets.py": "y = 2"}).differences(stored) == []
    assert Code({"moved.py": "x = 3", "nets.py": "y = 2"}).differences(stored) == [
        "moved.py is imported too",
        "space.py is not imported any more",
    ]
