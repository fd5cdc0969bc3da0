"""The project's checks, each in its own virtual environment with the versions of constraints.txt."""

import urllib.request
from pathlib import Path

import nox

# pip, not uv: torch's CPU build is taken from where pip's own configuration points.
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "typecheck", "tests", "slow", "docs"]
nox.options.error_on_external_run = True

CONSTRAINTS = ("-c", "constraints.txt")
ALL_CORES = ("-n", "logical", "--dist", "worksteal")
DOCUMENTED = [f"tests/project/test_{name}.py" for name in ("docs", "docs_facts", "site")]


def install(session: nox.Session, *packages: str) -> None:
    session.install(*CONSTRAINTS, *packages)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: style, likely bugs, security, formatting."""
    install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Mypy, strict."""
    install(session, "-e", ".", "mypy")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite but for what is slow by nature, on all cores; arguments after -- go to pytest."""
    install(session, "-e", ".[test]")
    session.run("pytest", *ALL_CORES, "-m", "not slow", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the slow tests: kills, packages, every command of the documentation, browsers, and what large fixtures need."""
    install(session, "-e", ".[test]", "build", "hatchling", "twine")
    session.run("pytest", *ALL_CORES, "-m", "slow", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Every command, option, link and example in the documentation, and the site that is made of it, in site/."""
    install(session, "-e", ".[test,docs]")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})
    session.run("pytest", *DOCUMENTED, *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build wheel and sdist, check both, and run the demo from an installed wheel, offline."""
    install(session, "-e", ".[test]", "build", "hatchling", "twine")
    session.run("pytest", "tests/project/test_package.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks; results go to docs/benchmarks.md. Arguments after -- go to speed.py: --rounds, --peers-venv, ..."""
    install(session, "-e", ".[test]")
    peers = str(Path(session.create_tmp()) / "peers")  # what llm-compressor is installed in; a --peers-venv given wins
    session.run("python", "-m", "tests.benchmarks.peak_memory")
    session.run("python", "-m", "tests.benchmarks.speed", "--peers-venv", peers, *session.posargs)


@nox.session
def security(session: nox.Session) -> None:
    """Ruff's security rules, and the versions of constraints.txt against the advisories that PyPI knows of."""
    install(session, "ruff")
    session.run("ruff", "check", "--select", "S", "--ignore", "S311", ".")  # random draws of text are no cryptography
    try:
        with urllib.request.urlopen("https://pypi.org/pypi/pip/24.0/json", timeout=20):  # where pip-audit asks
            pass
    except OSError as error:
        session.skip(f"known vulnerabilities are not looked up, PyPI's advisories cannot be read here: {error}")
    session.install("pip-audit")  # today's, not one of constraints.txt: it is no part of what is tested
    session.run("pip-audit", "--strict", "--no-deps", "--disable-pip", "-r", "constraints.txt")


@nox.session
def demo(session: nox.Session) -> None:
    """Run the built-in demo as a new user would."""
    install(session, ".")
    session.run("langprune", "demo", "--workspace", session.create_tmp())
