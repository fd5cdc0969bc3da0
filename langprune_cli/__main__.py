"""Entry point: `langprune` and `python -m langprune_cli`."""

import sys

from langprune_cli.errors import LangpruneError

DEBUG = "--debug"  # accepted anywhere on the line: one adds it to the end of a command that has just failed


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 error, 2 usage, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in words
    words = [word for word in words if word != DEBUG]
    from langprune_cli.cli.app import run  # noqa: PLC0415 - after the flag is read

    try:
        return run(words)
    except LangpruneError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - rich would wrap and colour it
        return error.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted: the same command goes on where this one stopped", file=sys.stderr)  # noqa: T201 - as above
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `langprune ls | head`
        sys.stderr.close()
        return 1
    except Exception as error:
        if debug:
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(f"error: {reason} ({type(error).__name__}): run it again with {DEBUG} to see where", file=sys.stderr)  # noqa: T201 - as above
        return 1


if __name__ == "__main__":
    sys.exit(main())
