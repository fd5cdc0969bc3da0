"""Where the repository and its goldens lie, and the development fixtures beside it."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDENS = REPOSITORY / "tests" / "goldens"
FIXTURES = REPOSITORY.parent / "shared" / "fixtures"
NO_FIXTURES = "the development fixtures do not lie beside this checkout"
