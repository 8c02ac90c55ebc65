"""Turn the options of each command into its settings. Imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path

from harness.metrics import budget_names
from harness.options import values
from harness.options.given import Given, InvalidOption
from harness.options.written_space import DATA_OPTIONS, is_network, written_space
from harness.recipes import RECIPES
from harness.settings import (
    AVERAGES,
    CONFIRM_CONTROLS,
    CONTROLS,
    DEFAULT_RUNS_DIR,
    DEFAULT_STORAGE,
    DEFAULT_TRACKING_URI,
    PRUNERS,
    SAMPLERS,
    TEACHER_OUTPUTS,
    Bound,
    ConfirmSettings,
    Places,
    Settings,
    StudyPlaces,
)

DEFAULT_SPACE = "digits"
NO_RECIPE = "none"


def space_of(given: Given) -> tuple[str, Path]:
    """Return the name and the file of the space that a command works on; write the one that ``--data`` stands for."""
    if given.has("data"):
        return values.space(written_space(given))
    for name in DATA_OPTIONS:
        if given.has(name):
            raise InvalidOption(f"{given.spell(name)} needs {given.spell('data')}, a folder of pictures or a table")
    return given.read("space", values.space, None) or values.space(DEFAULT_SPACE)


def study_of(space: str) -> str:
    """Return the default name of a study of a space: its name, with ``-`` for what a study's name can't have.

    Empty where no character is left.
    """
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", space).lstrip(".+-")[:100]


def search_settings(given: Given, space_name: str, space_file: Path | None) -> Settings:
    """Return the settings of a search.

    Args:
        given: Its options, without the space.
        space_name: Name of the space.
        space_file: The Python file that declares it; ``None`` for a space that Python gives.

    Raises:
        InvalidOption: If an option is invalid.
    """
    named = [text for text in given.read_all("teacher", str) if is_network(text)]
    if named and not given.has("data"):
        raise InvalidOption(
            f"{given.spell('teacher')} {named[0]} needs {given.spell('data')}, pictures or texts; in a space file, let "
            "teacher() return it: network(..) of lightning_modules.pretrained, or what Transformers loads"
        )
    teachers = () if named else tuple(given.read_all("teacher", values.checkpoint))
    trained = given.read("teachers", values.at_least_one, None)
    average = given.read("ensemble", values.one_of(AVERAGES), None)
    if teachers and trained is not None:
        raise InvalidOption(
            f"{given.spell('teachers')} trains teachers and {given.spell('teacher')} gives them; one of the two must "
            "be left out"
        )
    if average is not None and max(len(teachers), trained or 1) < 2:
        raise InvalidOption(
            f"{given.spell('ensemble')} needs several teachers: give {given.spell('teacher')} more than once, or "
            f"{given.spell('teachers')}"
        )
    study = given.read("study", values.study_name, study_of(space_name))
    if not study:
        raise InvalidOption(
            f"the study needs a name, and {str(space_file)!r} has no letter of a to z and no digit for one; give "
            f"{given.spell('study')}"
        )
    recipes = given.read_all("recipe", values.one_of((*RECIPES, NO_RECIPE)))
    return Settings(
        space_name=space_name,
        space_file=space_file,
        study=study,
        trials=given.read("trials", values.at_least_one, Settings.trials),
        data_dir=given.read("data_dir", values.folder, None),
        teachers=teachers,
        trained_teachers=trained or 1,
        average=average or AVERAGES[0],
        teacher_outputs=given.read("teacher_outputs", values.one_of(TEACHER_OUTPUTS), TEACHER_OUTPUTS[0]),
        epochs=given.read("epochs", values.at_least_one, None),
        objectives=given.read("objectives", values.names, None),
        sampler=given.read("sampler", values.one_of(SAMPLERS), SAMPLERS[0]),
        recipes=tuple(name for name in dict.fromkeys(recipes) if name != NO_RECIPE),
        default_recipes=NO_RECIPE not in recipes,
        pruner=given.read("pruner", values.one_of(PRUNERS), PRUNERS[0]),
        seed=given.read("seed", values.seed, 0),
        fixed=given.read_named("fix", values.assignment, "parameter"),
        budgets=_budgets(given),
        bound=_bound(given),
        timeout_s=given.read("timeout", values.seconds, None),
        controls=given.read("controls", values.one_of(CONTROLS), CONTROLS[0]),
        accept_changes=given.has("accept_changes"),
        accelerator=given.read("accelerator", str, "auto"),
        workers=given.read("workers", values.at_least_one, None),
        storage=_storage(given),
        tracking_uri=_tracking_uri(given),
        runs_dir=_runs_dir(given),
        program=given.program,
    )


def doctor_settings(given: Given) -> Settings:
    """Return the settings of a task's checks. No folder is made.

    Raises:
        InvalidOption: If an option is invalid.
    """
    name, file = space_of(given)
    teachers = given.read_all("teacher", values.checkpoint)
    if len(teachers) > 1:
        raise InvalidOption(f"{given.spell('teacher')} must be one for the doctor, but got {len(teachers)}")
    return Settings(
        space_name=name,
        space_file=file,
        study=study_of(name),
        runs_dir=given.read_or_variable("runs_dir", values.folder, "KD_RUNS_DIR", DEFAULT_RUNS_DIR),
        data_dir=given.read("data_dir", values.folder, None),
        teachers=tuple(teachers),
        budgets=_budgets(given),
        bound=_bound(given),
        accelerator=given.read("accelerator", str, "auto"),
        program=given.program,
    )


def places_of(given: Given) -> tuple[Places, str | None]:
    """Return where things are kept, and the name of the study to look at; ``None`` where none is named.

    Raises:
        InvalidOption: If an option is invalid.
    """
    study = given.read("study", values.study_name, None)
    places = Places(
        storage=_storage(given), tracking_uri=_tracking_uri(given), runs_dir=_runs_dir(given), program=given.program
    )
    return places, study


def confirm_settings(given: Given) -> ConfirmSettings:
    """Return the settings of a confirmation of a study's picks.

    Raises:
        InvalidOption: If an option is invalid or missing.
    """
    study = given.read_required("study", values.study_name)
    space = given.read("space", values.space, None)
    return ConfirmSettings(
        seeds=given.read("seeds", values.at_least_two, ConfirmSettings.seeds),
        controls=given.read("controls", values.one_of(CONFIRM_CONTROLS), CONFIRM_CONTROLS[0]),
        on=given.read("on", values.folder_or_file, None),
        space_file=None if space is None else space[1],
        data_dir=given.read("data_dir", values.folder, None),
        teachers=tuple(given.read_all("teacher", values.checkpoint)),
        accept_changes=given.has("accept_changes"),
        accelerator=given.read("accelerator", str, "auto"),
        workers=given.read("workers", values.at_least_one, None),
        places=StudyPlaces(
            study=study,
            storage=_storage(given),
            tracking_uri=_tracking_uri(given),
            runs_dir=_runs_dir(given),
            program=given.program,
        ),
    )


def move_settings(given: Given) -> tuple[StudyPlaces, str]:
    """Return the study that is moved and where it is kept, and the address of the storage that it moves to.

    Raises:
        InvalidOption: If an option is invalid or missing.
    """
    study = given.read_required("study", values.study_name)
    to = given.read_required("to", values.address, "KD_TO")
    places = StudyPlaces(study=study, storage=_storage(given), runs_dir=_runs_dir(given), program=given.program)
    return places, to


def _storage(given: Given) -> str:
    return given.read_or_variable("storage", values.address, "KD_STORAGE", DEFAULT_STORAGE)


def _tracking_uri(given: Given) -> str:
    return given.read_or_variable("tracking_uri", values.address, "MLFLOW_TRACKING_URI", DEFAULT_TRACKING_URI)


def _runs_dir(given: Given) -> Path:
    return given.read_or_variable("runs_dir", values.writable_folder, "KD_RUNS_DIR", DEFAULT_RUNS_DIR)


def _budgets(given: Given) -> dict[str, float]:
    """Return the most that each cost may be, by name."""
    named = given.read_all("max", values.maximum)
    return given.each_once("max", "cost", [(name, value) for name, value in named if name in budget_names()])


def _bound(given: Given) -> Bound | None:
    """Return the bound on the primary metric; ``None`` if none is given."""
    found = [("min", bound) for bound in given.read_all("min", values.minimum)]
    for name, value in given.read_all("max", values.maximum):
        if name not in budget_names():
            found.append(("max", Bound("--max", name, value)))
    if (least := given.read("min_share", values.share, None)) is not None:
        found.append(("min_share", Bound("--min-share", value=least)))
    if len(found) > 1:
        shown = (str(bound).replace(bound.flag, given.spell(option), 1) for option, bound in found)
        raise InvalidOption(f"one bound of the primary metric must do, but got {' and '.join(shown)}")
    return found[0][1] if found else None
