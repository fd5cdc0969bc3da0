"""Times opened models in turns, as rows: `eval --speed` and `--semi-structured`."""

from collections.abc import Sequence

from langprune_cli.defaults import SEQLEN
from langprune_cli.stages.evaluate.rows import SpeedRow
from langprune_cli.stages.evaluate.semi_structured import NO_KERNELS, NO_LINEARS, accelerates
from langprune_cli.stages.evaluate.speed import Workload, compare, speed_rows
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.opened import OpenedModel


def measured_speeds(models: Sequence[OpenedModel], reporter: Reporter, *, semi_structured: bool) -> list[SpeedRow]:
    """Measure the models in turns, with prompts as long as all of them support, at most 512 tokens.

    semi_structured: also measure models with 2:4 linears in packed form; a note says why there is no such row.
    """
    twins = semi_structured and accelerates(models[0].streamed.device)
    if semi_structured and not twins:
        reporter.note(NO_KERNELS)
    new_tokens = 32
    context = min(each.streamed.context or SEQLEN for each in models)
    rows = speed_rows(
        compare(
            {each.label: each.location.folder for each in models},
            Workload(prompt=max(1, min(512, context - new_tokens)), new_tokens=new_tokens),
            device=models[0].streamed.device,
            dtype=models[0].compute.torch_dtype(),
            trust_remote_code=models[0].compute.trust_remote_code,
            semi_structured=twins,
        )
    )
    if twins and not any(row["semi_structured"] for row in rows):
        reporter.note(NO_LINEARS)
    return rows
