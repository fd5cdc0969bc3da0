"""Where the repository lies, and the development fixtures beside it."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY.parent / "shared" / "fixtures"
NO_FIXTURES = "the development fixtures do not lie beside this checkout"
