"""Requests: the same options as the commands, frozen, and refused when they are made, before torch is imported."""

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import pytest
import typer

from langprune_cli.cli.app import app
from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.requests.apply import ApplyRequest
from langprune_cli.requests.calibrate import CalibrateRequest
from langprune_cli.requests.combine import CombineRequest
from langprune_cli.requests.compare import CompareRequest
from langprune_cli.requests.evaluate import EvaluateRequest
from langprune_cli.requests.export import ExportRequest
from langprune_cli.requests.mask import MaskRequest
from langprune_cli.requests.plan import PlanRequest
from langprune_cli.requests.prune import PruneRequest
from langprune_cli.requests.report import ReportRequest
from langprune_cli.requests.score import ScoreRequest
from langprune_cli.requests.shared.options import Request, with_given

REQUESTS: dict[str, type[Request]] = {
    "calibrate": CalibrateRequest,
    "score": ScoreRequest,
    "mask": MaskRequest,
    "apply": ApplyRequest,
    "prune": PruneRequest,
    "plan": PlanRequest,
    "eval": EvaluateRequest,
    "export": ExportRequest,
    "combine": CombineRequest,
    "compare": CompareRequest,
    "report": ReportRequest,
}
OF_REQUESTS = {"reporter", "given", "team"}  # which no option gives
OF_COMMANDS = {"json", "help"}  # how the command prints


def options_of(command: str) -> dict[str, Any]:
    """Return the options of a command with their defaults."""
    group: Any = typer.main.get_command(app)
    return {each.name: each.default for each in group.commands[command].params if each.name not in OF_COMMANDS}


def asked(ask: type[Request]) -> Request:
    """Return a request with as little in it as can be."""
    needed: dict[type[Request], dict[str, Any]] = {
        ExportRequest: {"out": "there"},
        CombineRequest: {"kind": "stats", "names": ("uk", "en")},
        CompareRequest: {"names": ("uk", "en")},
    }
    return ask(**needed.get(ask, {}))


@pytest.mark.parametrize("command", REQUESTS)
def test_a_request_has_the_options_of_its_command(command: str) -> None:
    fields = {each.name: each.default for each in dataclasses.fields(REQUESTS[command]) if each.name not in OF_REQUESTS}
    options = options_of(command)
    assert fields.keys() == options.keys()
    del fields["workspace"], options["workspace"]  # of the environment, where none is given
    assert {name: None if value in {(), MISSING} else value for name, value in fields.items()} == options


@pytest.mark.parametrize("ask", REQUESTS.values(), ids=REQUESTS)
def test_a_request_explains_each_of_its_fields(ask: type[Request]) -> None:
    said = ask.__doc__ or ""
    words = {word.strip(":,.") for line in said.splitlines() for word in line.partition(":")[0].split()}
    fields = {each.name for each in dataclasses.fields(ask)} - OF_REQUESTS - {"workspace"}
    assert fields <= words


@pytest.mark.parametrize("ask", REQUESTS.values(), ids=REQUESTS)
def test_a_request_cannot_be_changed(ask: type[Request]) -> None:
    request = asked(ask)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.workspace = Path("elsewhere")  # type: ignore[misc]
    assert request == asked(ask)
    assert hash(request) == hash(asked(ask))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"collect": "hessians"}, "--collect 'hessians' is unknown: did you mean hessian?"),
        ({"max_tokens": 5}, "--max-tokens goes with --collect tokens"),
        ({"max_tokens": 0, "collect": "tokens"}, "--max-tokens 0 is too small"),
        ({"nsamples": 0}, "--nsamples 0 is too small: give 1 or more"),
        ({"seqlen": 1}, "--seqlen 1 is too small: give 2 or more"),
        ({"batch_tokens": 0}, "--batch-tokens 0 is too small"),
        ({"dtype": "float33"}, "--dtype 'float33' is unknown: did you mean float32"),
        ({"max_memory": "8"}, "--max-memory '8' is not a size"),
        ({"shard": "5/4"}, "--shard must be i/n, such as 1/4, and not '5/4'"),
    ],
)
def test_calibrate_refuses(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("?", r"\?")):
        CalibrateRequest(**options)


@pytest.mark.parametrize(
    ("ask", "options", "says"),
    [
        (MaskRequest, {"pattern": "2of4"}, "--pattern '2of4' is unknown"),
        (PlanRequest, {"pattern": ["channels", "chanels"]}, "--pattern 'chanels' is unknown"),
        (MaskRequest, {"rounding": "up"}, "--round 'up' is unknown"),
        (MaskRequest, {"round_to": 0}, "--round-to 0 is too small"),
        (MaskRequest, {"group": "column"}, "--group 'column' is unknown"),
        (PruneRequest, {"ties": "never"}, "--ties 'never' is unknown"),
        (PruneRequest, {"damping": 2.0}, "--damping 2 is not a share"),
        (ApplyRequest, {"damping": 0.0}, "--damping 0 is not a share"),
        (PruneRequest, {"min_expert_tokens": 0}, "--min-expert-tokens 0 is too small"),
        (PruneRequest, {"propagation": "sparse"}, "--propagation 'sparse' is unknown"),
        (PruneRequest, {"max_shard_size": "2"}, "--max-shard-size '2' is not a size"),
        (PruneRequest, {"epochs": 3}, "--epochs and --learning-rate go with --tune"),
        (ApplyRequest, {"learning_rate": 0.1}, "--epochs and --learning-rate go with --tune"),
        (ApplyRequest, {"tune": True, "learning_rate": 1.0}, "--learning-rate 1 is not between 0 and 1"),
        (ApplyRequest, {"mask": "m.safetensors"}, "add --reapply"),
        (ApplyRequest, {"reapply": True}, "name it with --model"),
        (ApplyRequest, {"reapply": True, "model": "x", "update": "pcg"}, "--update does not go with --reapply"),
        (PlanRequest, {"seqlen": 1}, "--seqlen 1 is too small"),
        (EvaluateRequest, {"load_bits": 3}, "--load-bits 3 is not supported by bitsandbytes"),
        (EvaluateRequest, {"load_bits": 4, "tasks": "a"}, "--tasks runs models unquantized"),
        (EvaluateRequest, {"load_bits": 8, "semi_structured": True}, "--speed runs models unquantized"),
        (EvaluateRequest, {"speed": True, "dry_run": True}, "--speed measures, and --dry-run runs nothing"),
        (EvaluateRequest, {"tasks": " , "}, "--tasks names no task"),
        (EvaluateRequest, {"max_windows": 0}, "--max-windows 0 is too small"),
        (ExportRequest, {}, "export needs a destination"),
        (CombineRequest, {"kind": "scores", "names": "a"}, "KIND 'scores' is unknown"),
        (CombineRequest, {"kind": "stats", "names": "a", "weights": "1;2"}, "--weights '1;2' are not numbers"),
        (CombineRequest, {"kind": "stats", "names": "a", "per": "block"}, "--per 'block' is unknown"),
        (CompareRequest, {"names": "a", "kind": "models"}, "--kind 'models' is unknown"),
        (ReportRequest, {"form": "pdf"}, "--format 'pdf' is unknown"),
        (ExportRequest, {"out": "x", "public": True}, "--public goes with --push-to-hub"),
        (ExportRequest, {"out": "x", "file_format": "onnx"}, "--format 'onnx' is unknown"),
        (ExportRequest, {"out": "x", "converter": "c.py"}, "--converter goes with --format gguf"),
    ],
)
def test_requests_refuse(ask: type[Request], options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ask(**options)


@pytest.mark.parametrize(
    ("ask", "option", "near"),
    [
        (ScoreRequest, "method", "wanda"),
        (MaskRequest, "method", "osscar"),
        (MaskRequest, "refine", "dsnot"),
        (PruneRequest, "allocation", "alpha"),
        (PruneRequest, "update", "least-squares"),
        (ApplyRequest, "update", "pcg"),
    ],
)
def test_names_of_plug_ins_are_known_without_them(ask: type[Request], option: str, near: str) -> None:
    ask(**{option: near})
    with pytest.raises(LangpruneError, match=f"--{option} '{near}x' is unknown: did you mean {near}") as raised:
        ask(**{option: f"{near}x"})
    assert raised.value.exit_code == 1


@pytest.mark.parametrize("spelled", [("nsamples", "seed"), ("dtype",), ("all_experts",)])
def test_options_about_windows_are_refused_at_their_defaults_where_tokens_are_counted(spelled: Sequence[str]) -> None:
    request = CalibrateRequest(collect="tokens")
    names = ", ".join(f"--{each.replace('_', '-')}" for each in spelled)
    with pytest.raises(UsageError, match=f"leave out {names}$"):
        with_given(request, spelled)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["calibrate", "--max-tokens", "5"], 2),
        (["mask", "--method", "wonda"], 1),
        (["prune", "--pattern", "2of4"], 2),
        (["export"], 2),
    ],
)
def test_a_wrong_request_is_refused_before_torch_is_imported(words: list[str], code: int) -> None:
    script = (
        "import sys; from langprune_cli.__main__ import main; "
        "code = main(sys.argv[1:]); sys.exit(code if 'torch' not in sys.modules else 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)


def test_help_makes_no_requests() -> None:
    """--help answers at once: commands import their requests when they run."""
    script = (
        "import sys; from langprune_cli.__main__ import main; main(['prune', '--help']); "
        "sys.exit(any(each.startswith('langprune_cli.requests.') and each.count('.') == 2 and not each.endswith('.shared') "
        "for each in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
