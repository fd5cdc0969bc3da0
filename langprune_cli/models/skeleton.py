"""Builds a model's modules without weights: parameters on the meta device, real buffers."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

from langprune_cli.errors import LangpruneError, first_line
from langprune_cli.layouts.composed import compose_linears
from langprune_cli.layouts.experts import AnyExperts
from langprune_cli.layouts.separation import separate_experts
from langprune_cli.models.composites import auto_class, blocks_of_images, reads_images, tower_path
from langprune_cli.models.model_files import check_files
from langprune_cli.models.protocols import CausalModel, Configuration, block_count, block_key

_MOST_CONFIG_BYTES = 16 << 20
# A configuration controls how many modules are built: absurd counts would take minutes, or all memory.
_COUNT = re.compile(r"(layers?|blocks?|experts?|heads?|groups?|depth)$")
_MOST_COUNTED = 10_000
_MOST_BLOCKS = 2_000
_MOST_BUFFER_BYTES = 1 << 30
_MOST_PARAMETERS = 100_000  # without a checkpoint to compare with
# Functions that fill their result, so that it takes memory.
_FILLING: tuple[Callable[..., Tensor], ...] = (
    torch.ones, torch.zeros, torch.full, torch.arange, torch.linspace, torch.eye, torch.rand, torch.randn,
)  # fmt: skip
# What makes parameters. All experts in one may be larger than the memory.
_UNFILLED: tuple[Callable[..., Tensor], ...] = (torch.empty,)
# Functions that give a parameter its first values, by name, since transformers puts its own in the place of torch's. On
# meta each takes up to a millisecond, and does nothing.
_FIRST_VALUES = frozenset(
    f"{name}_"
    for name in (
        "uniform", "normal", "constant", "kaiming_uniform", "kaiming_normal", "zero", "fill", "erfinv", "mul", "add", "clamp",
    )
)  # fmt: skip
Shapes = dict[str, tuple[int, ...]]
# What the names of causal language models end with, those of code of their own included.
_ARCHITECTURES = ("CausalLM", "LMHeadModel", "ModelWithLMHead", "GenerationDecoder")
_OWN_ATTENTION = (None, "eager", "sdpa")  # built into torch and transformers: nothing is fetched


class _WithoutValues(TorchFunctionMode):
    """Leaves out the first values of parameters on meta, and takes no memory for tensors larger than any buffer."""

    def __torch_function__(
        self,
        func: Callable[..., Tensor],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> Tensor:
        kwargs = kwargs or {}
        if func in _FILLING:
            size = func(*args, **(kwargs | {"device": "meta"})).nbytes
            if size > _MOST_BUFFER_BYTES:
                raise ValueError(f"a buffer of {size / 1e9:,.1f} GB")
        elif func in _UNFILLED:
            empty = func(*args, **(kwargs | {"device": "meta"}))
            if empty.nbytes > _MOST_BUFFER_BYTES:
                return empty
        elif getattr(func, "__name__", "") in _FIRST_VALUES:
            filled = args[0] if args else kwargs.get("tensor")
            if isinstance(filled, Tensor) and filled.is_meta:
                return filled
        return func(*args, **kwargs)


@contextmanager
def _parameters_on_meta(most: int) -> Iterator[None]:
    """Put every registered parameter on meta and leave buffers real.

    Building under torch.device("meta") would also lose buffers that no checkpoint holds: rotary frequencies, ALiBi slopes,
    embedding scales. Raises ValueError for more than `most` parameters.
    """
    register = nn.Module.register_parameter
    count = 0

    def register_on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        nonlocal count
        count += param is not None
        if count > most:
            raise ValueError(f"more than {most:,} parameters")
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.detach().to("meta"), requires_grad=False)
        register(self, name, param)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign] # all modules go through it
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign] # as above


def read_config(folder: Path, *, trust_remote_code: bool = False) -> Configuration:
    """Return the configuration of a causal language model, or of one that reads images too.

    Never fetches attention code that it names (flash attention, kernels of the hub), and uses torch's own instead.
    Raises LangpruneError for an unreadable config.json, an unknown kind of model, one that is not a causal language model, or
    quantized weights.
    """
    check_files(folder)
    path = folder / "config.json"
    try:
        raw = _raw_config(path)
        config: Configuration = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
        config.get_text_config()
    except LangpruneError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error) and not trust_remote_code:
            raise LangpruneError(
                f"{folder} runs its own Python code: read that code, then add --trust-remote-code"
            ) from error
        raise LangpruneError(
            f"transformers cannot open {path} ({first_line(error)}): name another model, or upgrade transformers if it is "
            "older than the model"
        ) from error
    if raw.get("quantization_config"):
        raise LangpruneError(_quantized(folder, raw["quantization_config"]))
    kinds = raw.get("architectures") or []
    kind = kinds[0] if isinstance(kinds, list) and kinds and isinstance(kinds[0], str) else ""
    ends = (*_ARCHITECTURES, "ForConditionalGeneration") if reads_images(config) else _ARCHITECTURES
    known = reads_images(config) or type(config) in AutoModelForCausalLM._model_mapping or hasattr(config, "auto_map")  # noqa: SLF001 - no public list
    if not known or getattr(config, "is_encoder_decoder", False) or (kind and not kind.endswith(ends)):
        raise LangpruneError(
            f"{folder} is not a causal language model ({kind or config.model_type}): name one that "
            "generates text from text, or from images too"
        )
    if config._attn_implementation not in _OWN_ATTENTION:  # noqa: SLF001 - transformers has no other name for it
        config._attn_implementation = None  # noqa: SLF001 - as above, and of inner configurations
    config._experts_implementation = None  # noqa: SLF001 - as above
    return config


def _quantized(folder: Path, how: object) -> str:
    """Return what to do with a quantized checkpoint."""
    method = how.get("quant_method") if isinstance(how, dict) else None
    instead = "name the original model"
    if method == "mxfp4":  # gpt_oss was published so, and in no other form
        instead = (
            "name a copy that was dequantized; transformers makes one with from_pretrained(..., quantization_config="
            "Mxfp4Config(dequantize=True)) and save_pretrained"
        )
    return f"{folder} is a quantized checkpoint, which cannot be pruned: {instead}"


def _raw_config(path: Path) -> dict[str, object]:
    """Return the values of config.json; raises LangpruneError for impossible counts, and TypeError or ValueError for bad JSON."""
    if path.stat().st_size > _MOST_CONFIG_BYTES:
        raise ValueError(f"it has more than {_MOST_CONFIG_BYTES >> 20} MiB")
    raw = json.loads(path.read_bytes())
    if not isinstance(raw, dict):
        raise TypeError("it is not a JSON object")
    for name, value in _numbers(raw):
        if _COUNT.search(name) and abs(value) > _MOST_COUNTED:
            raise LangpruneError(f"{path} has {name} = {value:g}, which no model has: get the model again")
    return raw


def _numbers(value: dict[str, object]) -> Iterator[tuple[str, float]]:
    """Yield every number of a JSON object, nested ones included, with its name."""
    for name, each in value.items():
        if isinstance(each, dict):
            yield from _numbers(each)
        elif isinstance(each, int | float):
            yield name, each


def context_of(config: Configuration) -> int | None:
    """Return the longest window that the model supports, None if its configuration does not say."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def stated_dtype(config: Configuration) -> torch.dtype | None:
    """Return the configuration's dtype of the weights, None if it states none."""
    stated = getattr(config, "dtype", None)
    dtype = getattr(torch, stated, None) if isinstance(stated, str) else stated
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else None


def build_skeleton(
    config: Configuration,
    dtype: torch.dtype,
    *,
    trust_remote_code: bool = False,
    names: Collection[str] | None = None,
    experts_apart: bool = True,
) -> CausalModel:
    """Return the model in evaluation mode, with parameters of `dtype` on meta and real buffers in their usual dtype.

    names: the checkpoint's tensors, if there is one; a model with far more parameters cannot belong to it.
    experts_apart: whether experts become separate modules, see `layouts/experts.py`.
    Raises LangpruneError for a configuration that transformers cannot build.
    """
    most = _MOST_PARAMETERS if names is None else 4 * len(names) + 64  # a merged tensor becomes several parameters
    text = config.get_text_config()
    if not hasattr(text, block_key(text)):
        raise LangpruneError(
            f"config.json of this {config.model_type} does not count blocks: this family is not supported"
        )
    try:
        if not 0 < (count := block_count(text)) <= _MOST_BLOCKS:
            raise ValueError(f"num_hidden_layers = {count}")
        with _WithoutValues():
            with _parameters_on_meta(most):
                model: CausalModel = auto_class(config).from_config(
                    config, dtype=dtype, trust_remote_code=trust_remote_code
                )
            if experts_apart:
                separate_experts(model, names)
                compose_linears(model, names)
    except Exception as error:
        where = Path(config.name_or_path or "", "config.json")
        raise LangpruneError(
            f"transformers cannot build the {config.model_type} model of {where} ({first_line(error)}): get the model again"
        ) from error
    return model.eval().requires_grad_(requires_grad=False)


def parameter_shapes(model: CausalModel) -> list[Shapes]:
    """Return the shapes of the parameters by path: of each block, and last of what is outside of them."""
    prefix, blocks = find_blocks(model)
    found = [{path: tuple(each.shape) for path, each in block.named_parameters()} for block in blocks]
    outside = ((path, each) for path, each in model.named_parameters() if not path.startswith(f"{prefix}."))
    return [*found, {path: tuple(each.shape) for path, each in outside}]


def find_blocks(model: CausalModel) -> tuple[str, nn.ModuleList]:
    """Return the outermost module list with one entry per decoder layer, and its name; inside the text tower, if there is one.

    Raises LangpruneError without one, for blocks whose parts lie in several lists beside each other (xlm), and for blocks that
    text does not pass through (mllama).
    """
    if skipped := blocks_of_images(model.config):
        raise LangpruneError(
            f"{type(model).__name__} has blocks that see only images ({', '.join(map(str, skipped))}) and that text alone does "
            "not pass through, so that a text says nothing of them: this family is not supported"
        )
    text = model.config.get_text_config()
    count = block_count(text)
    tower = tower_path(model)
    held = model.get_submodule(tower).named_modules(prefix=tower)
    named = [(name, each) for name, each in held if isinstance(each, nn.ModuleList)]
    lists = [(name, each) for name, each in named if len(each) == count and not isinstance(each, AnyExperts)]
    stack = getattr(text, "num_layers_per_stack", None)
    if not lists and stack:  # hrm_text
        stacks = {2: "two"}.get(number := sum(len(each) == stack for _, each in named), str(number))
        raise LangpruneError(
            f"{type(model).__name__} runs {stacks} stacks of {stack} blocks in turn, {count} steps in all, so that a block reads "
            "what later blocks made, and none can be pruned before the next: this family is not supported"
        )
    if not lists:
        raise LangpruneError(
            f"no list of {count} blocks was found in {type(model).__name__}: this family is not supported"
        )
    name, blocks = min(lists, key=lambda found: found[0].count("."))
    parent = name.rpartition(".")[0]
    others = [
        other
        for other, module in lists
        if other.rpartition(".")[0] == parent and next(module.parameters(), None) is not None
    ]
    if others and others != [name]:
        raise LangpruneError(
            f"{type(model).__name__} keeps the parts of its blocks in several lists ({', '.join(others)}): this family is not "
            "supported"
        )
    return name, blocks
