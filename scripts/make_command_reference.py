"""Write docs/commands.md, the reference of all commands and options, from the command line itself.

Run it after a change to the command line; with --check it only says whether the document is up to date.
"""

import re
import sys
from pathlib import Path
from typing import Any

import typer

from langprune_cli.cli.app import app

DOCUMENT = Path(__file__).parent.parent / "docs" / "commands.md"
_HEAD = """\
# Commands

Made from the program by `scripts/make_command_reference.py`; do not edit it by hand. `langprune COMMAND --help` shows
the same on the terminal.

Results go to stdout, progress and notes to stderr. Exit codes: 0 done, 1 an error in one sentence, 2 wrong usage, 130
interrupted. `--debug` works anywhere on the line and shows the traceback of an error.
"""
_PANELS = ["Pruning", "Training", "Input", "Computation", "Output", None]


def reference() -> str:
    """Return the whole document."""
    group: Any = typer.main.get_command(app)
    lines = [_HEAD, "## langprune", "", *_option_table(group)]
    for name, command in group.commands.items():
        about, example = _about(command.help or "")
        arguments = [each for each in command.params if not _is_option(each)]
        lines += [f"## langprune {name}", "", about, ""]
        if example:
            lines += ["```sh", example, "```", ""]
        if arguments:
            lines += [f"Arguments: `langprune {name}{''.join(map(_argument, arguments))}`", ""]
            lines += [*(f"- `{each.name.upper()}`: {_words(each.help)}" for each in arguments), ""]
        lines += _option_table(command)
    return "\n".join(lines).rstrip() + "\n"


def _option_table(command: Any) -> list[str]:  # noqa: ANN401 - Typer's command types differ between its versions
    rows = [each for each in command.params if _is_option(each) and not each.hidden]
    lines = ["| option | default | description |", "|---|---|---|"]
    for option in sorted(rows, key=lambda each: (_PANELS.index(each.rich_help_panel), not each.required)):
        names = ", ".join(f"`{name}`" for name in option.opts)
        text = _words(option.help) + (f" Or set `${option.envvar}`." if option.envvar else "")
        lines.append(f"| {names} | {_default(option)} | {text} |")
    return [*lines, ""]


def _is_option(param: Any) -> bool:  # noqa: ANN401 - as above
    return bool(param.param_type_name == "option")


def _argument(param: Any) -> str:  # noqa: ANN401 - as above
    name = param.name.upper() + ("..." if param.nargs == -1 else "")
    return f" {name}" if param.required else f" [{name}]"


def _default(option: Any) -> str:  # noqa: ANN401 - as above
    if option.required:
        return "required"
    return "-" if option.default is None or option.default is False else f"`{option.default}`"


def _words(text: str | None) -> str:
    """Return a help text fit for a cell of a table, without the backslashes that keep rich from reading [ as a tag."""
    return " ".join((text or "").split()).replace("\\[", "[").replace("|", "\\|")


def _about(text: str) -> tuple[str, str]:
    """Split a command's help into its words and its example, which is set in bold."""
    found = re.search(r"\[bold\](.*?)\[/bold\]", text, re.DOTALL)
    words = re.sub(r"\[bold\].*?\[/bold\]", "", text, flags=re.DOTALL)
    paragraphs = [" ".join(part.split()) for part in words.split("\n\n") if part.strip()]
    return "\n\n".join(paragraphs), found[1] if found else ""


def main() -> int:
    """Write or check the document."""
    text = reference()
    if "--check" in sys.argv[1:]:
        current = DOCUMENT.is_file() and DOCUMENT.read_text(encoding="utf-8") == text
        print(f"{DOCUMENT} is {'up to date' if current else 'out of date: run this script'}")
        return 0 if current else 1
    DOCUMENT.write_text(text, encoding="utf-8")
    print(f"wrote {DOCUMENT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
