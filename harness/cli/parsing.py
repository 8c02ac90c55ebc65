"""Commands on Click: options in groups, mistakes in one line, settings instead of a call. Imports nothing heavy."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import click

from harness.cli.program import program_here
from harness.core.addresses import redact
from harness.core.errors import did_you_mean
from harness.options.given import Given, InvalidOption

_COLUMN = 26
"""Where the help of an option begins."""
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


def flag(option: str) -> str:
    """Return the flag of an option: ``--min-share`` of ``min_share``."""
    return f"--{option.replace('_', '-')}"


def option(name: str, metavar: str, text: str, *, repeated: bool = False) -> click.Option:
    """Return a flag that takes a value, which stays text: ``harness.options`` checks it.

    Args:
        name: The flag.
        metavar: What its value is, in the help.
        text: Its help.
        repeated: Whether it may be given several times.
    """
    return click.Option([name], metavar=metavar, help=text, multiple=repeated)


def switch(name: str, text: str) -> click.Option:
    """Return a flag without a value.

    Args:
        name: The flag.
        text: Its help.
    """
    return click.Option([name], is_flag=True, help=text)


def examples(*lines: tuple[str, str]) -> str:
    """Return the examples at the end of a help text: what to type, and beside it a purpose, where there is one."""
    width = max(len(typed) for typed, purpose in lines if purpose)
    return "\n".join(["Examples:", *(f"  {typed:<{width}}  {purpose}".rstrip() for typed, purpose in lines), ""])


class Command(click.Command):
    """A command whose result is data: the arguments of the function that does its work.

    Args:
        name: Name of the command.
        groups: Its options by the heading that they have in its help.
        read: Returns the result, of the options that were given.
        about: What it does, for its help.
        short: The same in a line, for the list of all commands.
        examples: Written as it is at the end of its help.
    """

    def __init__(
        self,
        name: str,
        *,
        groups: Mapping[str, Sequence[click.Option]],
        read: Callable[[Given], tuple[Any, ...]],
        about: str,
        short: str = "",
        examples: str = "",
    ) -> None:
        options: list[click.Parameter] = [one for group in groups.values() for one in group]
        # A word that is no option is reported after the values: it may be the value of an option that has none.
        settings = {**_CONTEXT, "allow_extra_args": True}
        super().__init__(name, context_settings=settings, params=options, help=about, short_help=short, epilog=examples)
        self._groups = groups
        self._read = read

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # which Click leaves out where the value of an option is missing
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            found = self._read(Given(ctx.params, spell=flag, program=program_here()))
        except InvalidOption as error:
            raise click.UsageError(str(error), ctx) from error
        if ctx.args:
            raise click.UsageError(f"{ctx.info_name} takes options only, but got {' '.join(ctx.args)}", ctx)
        return found

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        help_option = self.get_help_option(ctx)
        assert help_option is not None
        for heading, options in {**self._groups, "Help": [help_option]}.items():
            records = [record for one in options if (record := one.get_help_record(ctx)) is not None]
            with formatter.section(heading):
                _write_records(records, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self.epilog, formatter)


class Group(click.Group):
    """A program of several commands, listed as they are given. Its result is the command's name and the result of it.

    Args:
        commands: The commands.
        about: What the program does, for its help.
        examples: Written as it is at the end of its help.
    """

    def __init__(self, commands: Sequence[Command], *, about: str, examples: str) -> None:
        super().__init__(
            commands=commands, context_settings=_CONTEXT, help=about, epilog=examples, no_args_is_help=False
        )

    def invoke(self, ctx: click.Context) -> Any:
        found = super().invoke(ctx)
        return ctx.invoked_subcommand, found

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            near = did_you_mean(args[0], self.commands)
            raise click.UsageError(
                f"a command must be one of {', '.join(self.commands)}, but got {args[0]!r}{near}", ctx
            )
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self.epilog, formatter)


def _write_records(records: Sequence[tuple[str, str]], formatter: click.HelpFormatter) -> None:
    """Write options and their help in two columns; Click's own columns differ by group, and break names at hyphens."""
    margin = " " * formatter.current_indent
    for name, text in records:
        lines = textwrap.wrap(text, formatter.width - _COLUMN, break_on_hyphens=False)
        head = f"{margin}{name}"
        if len(head) > _COLUMN - 2:
            formatter.write(f"{head}\n")
            head = ""
        formatter.write(f"{head:<{_COLUMN}}{lines[0]}\n")
        formatter.write("".join(f"{'':<{_COLUMN}}{line}\n" for line in lines[1:]))


def _write_examples(examples: str | None, formatter: click.HelpFormatter) -> None:
    if examples:
        formatter.write_paragraph()
        formatter.write(examples)


def parse(command: click.Command, program: str, arguments: Sequence[str] | None = None) -> Any:
    """Return what a command line asks for; end the program after a help text or a mistake.

    Args:
        command: The command.
        program: Its name, as the help and the errors have it.
        arguments: The command line; by default that of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with command.make_context(program, words) as ctx:
            return command.invoke(ctx)
    except click.exceptions.Exit as end:  # after a help text
        sys.exit(end.exit_code)
    except click.UsageError as error:
        _refuse(error, program)


def _refuse(error: click.UsageError, program: str) -> NoReturn:
    """Print a mistake in one line, and end the program with code 2."""
    message = _unknown(error) if isinstance(error, click.NoSuchOption) else error.format_message().rstrip(".")
    path = error.ctx.command_path if error.ctx is not None else program
    print(f"error: {redact(message[:1].lower() + message[1:])} (see {path} --help)", file=sys.stderr)
    sys.exit(2)


def _unknown(error: click.NoSuchOption) -> str:
    """Say that a command has no such flag, and which one may be meant, or which other command has it."""
    ctx, name = error.ctx, error.option_name
    assert ctx is not None
    parent = ctx.parent.command if ctx.parent is not None else None
    siblings = parent.commands if isinstance(parent, click.Group) else {}
    owners = [title for title, sibling in siblings.items() if name in _flags(sibling)]
    hint = f"; {name} is of {' and '.join(owners)}" if owners else did_you_mean(name, _flags(ctx.command))
    return f"{ctx.info_name} has no option {name}{hint}"


def _flags(command: click.Command) -> list[str]:
    return [flag for parameter in command.params for flag in parameter.opts]
