"""Entry point: `langprune` and `python -m langprune_cli`."""

import os
import sys
from collections.abc import Callable

from langprune_cli.errors import LangpruneError, error_document, printable
from langprune_cli.machine.memory import keep_freed

JSON = "--json"
DEBUG = "--debug"  # accepted anywhere on the line: one adds it to the end of a command that has just failed


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 error, 2 usage, 130 interrupted."""
    if (
        sys.platform == "win32"
    ):  # no flock, no folder to sync, links for administrators: what is promised does not hold there
        print("error: langprune needs a POSIX system, such as Linux: on Windows, run it in WSL", file=sys.stderr)  # noqa: T201 - as below
        return 1
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in words
    # Before torch loads OpenMP: threads that spin while they wait take the cores from whatever else runs here, and made
    # `calibrate` three times slower beside one busy process (docs/decisions.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # And before its first tensor: matrices in pages of 2 MB, where the system has them, are not given 4 KB at a time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    keep_freed()
    try:
        from langprune_cli.cli.app import run  # noqa: PLC0415 - after the flag and the policy

        words = [word for word in words if word != DEBUG]
        return _as_one_of_several(run, words) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else run(words)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        return _end(error, json=JSON in words)


def _as_one_of_several(run: Callable[[list[str]], int], words: list[str]) -> int:
    """Run the command line in the process that leads those which torchrun started; the others do what it tells them."""
    from langprune_cli.machine.team import PeerLostError, Team  # noqa: PLC0415 - needs torch
    from langprune_cli.stages.solving.teamwork import serve  # noqa: PLC0415 - as above

    team = Team.join()
    try:
        if team.leads:
            code = run(words)  # where it fails, the others notice that this process is gone
            team.tell("done")
            return code
        serve(team)
    except PeerLostError:
        if team.leads:
            raise
        return 1  # who is gone has said itself what ended it
    finally:
        team.leave()
    return 0


def _end(error: BaseException, *, json: bool) -> int:
    """Say in one line on stderr what ended the command, with `json` on stdout as well, and return the exit code."""
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone: `langprune ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it flushes
        return 1
    if isinstance(error, KeyboardInterrupt):
        line, code = "interrupted: a stage goes on where it stopped when its command is given again", 130
    elif isinstance(error, LangpruneError):
        line, code = f"error: {error}", error.exit_code
    elif isinstance(error, OSError):
        line, code = (
            f"error: {error.filename or 'output'}: {error.strerror or error}: check it and run the command again",
            1,
        )
    else:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        line, code = f"error: {reason} ({type(error).__name__}): run it again with {DEBUG} to see where", 1
    print(printable(line), file=sys.stderr)  # noqa: T201 - rich would wrap and colour it
    if json:
        print(error_document(line.removeprefix("error: "), code))  # noqa: T201 - as above
    return code


if __name__ == "__main__":
    sys.exit(main())
