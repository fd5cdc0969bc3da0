"""Run a command, and write the peak resident memory of its process to a file, in MB.

python measured.py FILE COMMAND ...

A process counts as its own what the one that started it held at that moment; this one holds next to nothing.
"""

import resource
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run it; return how it ended."""
    code = subprocess.run(sys.argv[2:], check=False).returncode
    Path(sys.argv[1]).write_text(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
