"""The command `doctor`: checks this machine for pruning, and gives advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langprune_cli.cli.display.console import print_json, print_line
from langprune_cli.cli.display.tables import print_table
from langprune_cli.cli.options import shared as opt

if TYPE_CHECKING:  # torch takes seconds to import, and --help must be fast
    from langprune_cli.stages.doctor.doctor import Checkup


def doctor(
    *,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Check the machine: versions, processor and GPUs with their speed, disk, caches and the hub's settings.

    Takes a few seconds, writes nothing, does not use the network, and ends with advice.

    [bold]langprune doctor[/bold]
    """
    from langprune_cli.stages.doctor.doctor import check_up  # noqa: PLC0415

    found = check_up(workspace)
    if json:
        print_json(found.document())
    else:
        print_checkup(found)


def print_checkup(found: Checkup) -> None:
    """Print the result, then the advice."""
    print_line(", ".join(f"{name} {number or 'missing'}" for name, number in found.versions.items()))
    cpu = found.cpu
    features = ", ".join(cpu["features"]) or f"kernels for {cpu['kernels']}"
    memory = f"{_gigabytes(cpu['memory_bytes'])} of memory, {_gigabytes(cpu['free_bytes'])} free"
    cores = f"{cpu['threads']} threads on {cpu['usable_cores']} of {cpu['cores']} cores"
    print_line(f"cpu: {cpu['name']}, {cores}, {features}, {memory}")
    for each in found.cuda:
        memory = f"{_gigabytes(each['memory_bytes'])} of memory, {_gigabytes(each['free_bytes'])} free"
        print_line(f"{each['device']}: {each['name']}, capability {each['capability']}, {memory}")
    print_line("")
    rates = {(each.device, each.dtype): each for each in found.rates}
    rows = [
        [device, f"{rates[device, 'float32'].gflops:,.0f}", f"{rates[device, 'bfloat16'].gflops:,.0f}",
         str(rates[device, "float32"].size)]
        for device in dict.fromkeys(each.device for each in found.rates)
    ]  # fmt: skip
    print_table(["matrix products of", "float32 GFLOP/s", "bfloat16 GFLOP/s", "size"], rows)
    print_line("")
    places = [[each.what, _gigabytes(each.bytes), _gigabytes(each.free_bytes), each.path] for each in found.places]
    print_table(["place", "in use", "free", "folder"], places)
    token = "logged in" if found.hub["token"] else "not logged in"
    print_line(f"hub: {found.hub['endpoint']}, {token}, {'offline' if found.hub['offline'] else 'online'}")
    print_line("")
    for sentence in found.advice or ["No problems found."]:
        print_line(sentence)


def _gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:,.2f} GB"
