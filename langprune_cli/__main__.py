"""Entry point: `langprune` and `python -m langprune_cli`."""

import atexit
import os
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from langprune_cli.errors import LangpruneError, error_document, printable
from langprune_cli.machine.memory import keep_few_products, keep_freed

JSON = "--json"
DEBUG = "--debug"  # accepted anywhere on the line, so that users can append it to a failed command
# Commands whose windows several processes share (`apply --recover` does), and recipes of them.
SHARED = {"calibrate", "prune", "apply", "recover", "run"}
NOTHING_TO_SHARE = {"--dry-run", "--help", "-h"}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 error, 2 usage, 130 interrupted."""
    if (
        sys.platform == "win32"
    ):  # no flock, no folders to sync, links only for administrators: the promises do not hold there
        print("error: langprune needs a POSIX system, such as Linux: on Windows, run it in WSL", file=sys.stderr)  # noqa: T201 - as below
        return 1
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in words
    # Set before torch loads OpenMP: threads that spin while they wait take cores from other processes, and made `calibrate`
    # three times slower beside a busy one (docs/decisions.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Set before the first tensor: matrices then get pages of 2 MB, if the system has them, instead of 4 KB.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    keep_few_products()
    keep_freed()
    try:
        from langprune_cli.cli.app import run  # noqa: PLC0415 - after the flag and the policy

        words = [word for word in words if word != DEBUG]
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            return _ending_at_once(_as_one_of_several(words, debug=debug))
        return run(words)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        return _end(error, json=JSON in words)


def _as_one_of_several(words: list[str], *, debug: bool) -> int:
    """Run the command line in one of torchrun's processes; all run the same stage."""
    from langprune_cli.cli.app import run  # noqa: PLC0415 - after the flag and the policy
    from langprune_cli.machine.team import Team  # noqa: PLC0415 - as above

    command = next((word for word in words if not word.startswith("-")), "")
    if command not in SHARED or not NOTHING_TO_SHARE.isdisjoint(words):
        if os.environ.get("RANK", "0") != "0":
            return 0
        if command and NOTHING_TO_SHARE.isdisjoint(words):
            print(f"{command} does not share work between processes: the first one runs it alone.", file=sys.stderr)  # noqa: T201 - as above
        return run(words)
    # What gloo has to say of a process that is gone, langprune says; and DistributedDataParallel warns that it looks for unused
    # parameters where there are none.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    team = Team.join()
    try:
        with ExitStack() as quiet:
            if not team.leads:  # only the first process prints
                nowhere = quiet.enter_context(Path(os.devnull).open("w"))
                quiet.enter_context(redirect_stdout(nowhere))
                quiet.enter_context(redirect_stderr(nowhere))
            code = run(words, team)
        sys.stdout.flush()
        team.barrier()  # torchrun stops the others when one exits with an error: let the first one print before
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        with team.last_word(error) as ours:
            return _end(error, json=JSON in words) if ours else _line_and_code(error)[1]
    else:
        return code
    finally:
        team.leave()


def _ending_at_once(code: int) -> int:
    """End this process with `code` before the interpreter shuts down.

    Threads of torch.distributed may still hold tensors at shutdown. One that releases them through a finalizing interpreter
    aborts the process after all its work is done (seen once: exit code -6, "terminate called without an active exception").
    """

    def end() -> None:
        with suppress(OSError):  # the reader may be gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    atexit.register(end)
    return code


def _end(error: BaseException, *, json: bool) -> int:
    """Print the error in one line on stderr, with `json` also on stdout, and return the exit code."""
    if isinstance(error, BrokenPipeError):  # the reader of our output is gone: `langprune ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes
        return 1
    line, code = _line_and_code(error)
    print(printable(line), file=sys.stderr)  # noqa: T201 - rich would wrap and colour it
    if json:
        print(error_document(line.removeprefix("error: "), code), flush=True)  # noqa: T201 - as above
    return code


def _line_and_code(error: BaseException) -> tuple[str, int]:
    """Return the message of an error for the user, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted: run the same command again, it goes on where it stopped", 130
    if isinstance(error, LangpruneError):
        return f"error: {error}", error.exit_code
    if isinstance(error, OSError):
        return f"error: {error.filename or 'output'}: {error.strerror or error}: check it and run the command again", 1
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    return f"error: {reason} ({type(error).__name__}): run it again with {DEBUG} to see where", 1


if __name__ == "__main__":
    sys.exit(main())
