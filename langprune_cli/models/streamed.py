"""Keeps a model's weights in memory one block at a time."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from langprune_cli.errors import LangpruneError
from langprune_cli.layouts.linears import check_block, linears_in, uncalled_in
from langprune_cli.layouts.separation import show_experts
from langprune_cli.models.block_capture import BlockCapture
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.models.composites import text_paths, unread
from langprune_cli.models.families import has_experts
from langprune_cli.models.names import Slot, TensorNames, slots_of
from langprune_cli.models.protocols import Configuration
from langprune_cli.models.skeleton import build_skeleton, context_of, find_blocks, read_config, stated_dtype


@dataclass(frozen=True)
class Linear:
    """One prunable matrix of a block, always seen as [out, in]."""

    name: str  # checkpoint tensor name, its key in every artifact
    module: nn.Module
    transposed: bool  # the checkpoint stores [in, out] (Conv1D)
    expert: int | None = None  # the number of its expert

    @property
    def weight(self) -> Tensor:
        """Return the loaded weight as [out, in]; for Conv1D a transposed view, so writes reach the weight."""
        weight: Tensor = self.module.weight.data  # type: ignore[assignment] # a Parameter of a Linear or Conv1D
        return weight.t() if self.transposed else weight


@dataclass(frozen=True)
class Block:
    """A block with its weights in memory."""

    index: int
    module: nn.Module
    linears: tuple[Linear, ...]

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Give linears new weights, by checkpoint name and in the checkpoint's layout; may share the caller's tensors."""
        for linear in self.linears:
            if linear.name in weights:
                parameter: nn.Parameter = linear.module.weight  # type: ignore[assignment] # of a Linear or Conv1D
                parameter.data = weights[linear.name].to(parameter.device, parameter.dtype)


class StreamedModel:
    """The skeleton of a causal language model over its checkpoint.

    `block(i)` and `outside()` load the weights of block i, or of everything else, while their context lasts.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        trust_remote_code: bool = False,
        all_experts: bool = False,
        config: Configuration | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Build the skeleton, by default of the model in `folder`.

        all_experts: every expert of a mixture sees every token (`Experts.every_token`).
        Raises LangpruneError as `Checkpoint` and `read_config` do, and for merged experts or shared linears.
        """
        self.folder = folder
        self.device = torch.device(device)
        self.config = config or read_config(folder, trust_remote_code=trust_remote_code)
        checkpoint = checkpoint or Checkpoint(folder)
        self.dtype = dtype or stated_dtype(self.config) or checkpoint.float_dtype()
        self.model = build_skeleton(
            self.config, self.dtype, trust_remote_code=trust_remote_code, names=checkpoint.tensors.keys()
        )
        self._names = TensorNames(self.model, checkpoint.tensors)
        self.checkpoint = checkpoint.in_parts(self._names.parts)
        self._prefix, self.blocks = find_blocks(self.model)
        self._slots: list[list[Slot]] = [[] for _ in range(len(self.blocks) + 1)]  # by block, the last is outside
        slots = list(slots_of(self.model, self.checkpoint, self._names, self.dtype))
        self.untied = len(slots) > len(list(self.model.parameters()))  # tied by the configuration, not by the values
        for slot in slots:
            inside = slot.path.startswith(f"{self._prefix}.")
            self._slots[int(slot.path[len(self._prefix) + 1 :].split(".")[0]) if inside else -1].append(slot)
        text = text_paths(self.model, self._prefix)
        self._around = [slot for slot in self._slots[-1] if slot.path.startswith(text)]
        self._for_text = [slot for slots in (self._around, *self._slots[:-1]) for slot in slots]
        for slot in self._slots[-1]:
            if not slot.path.startswith(text):
                self._put(slot, unread(getattr(*slot.owners[0]), self.device))
        for index in range(len(self.blocks)):
            self._refuse_what_is_not_linear(index)
        self.has_experts = show_experts(self.model, every_token=all_experts)
        self._load_buffers()
        for owner in self.model.modules():  # not Module.to, which would also copy the meta parameters
            for attr, buffer in owner.named_buffers(recurse=False):
                setattr(owner, attr, buffer.to(self.device))
        self.checkpoint.begin_hashes(on_record=True)
        self.capture = BlockCapture(self.model, self.blocks)
        self._reader = ThreadPoolExecutor(1, "blocks") if self.device.type == "cuda" else None
        self._expected: tuple[list[str], Future[dict[str, Tensor]]] | None = None

    def _refuse_what_is_not_linear(self, index: int) -> None:
        """Raise LangpruneError for a block with matrices that pruning would miss or prune twice."""
        own = {id(owner) for slot in self._slots[index] for owner, _ in slot.owners}
        check_block(self.blocks[index], type(self.model).__name__, own, mixture=has_experts(self.config))
        linears = {id(linear) for linear, _ in linears_in(self.blocks[index])}
        for slot in self._slots[index]:
            if slot.made and any(id(owner) in linears for owner, _ in slot.owners):
                raise LangpruneError(
                    f"{self.folder} has {slot.made.explanation}: this layout of linears is not supported"
                )

    @property
    def context(self) -> int | None:
        """Return the longest window that the model supports, None if its configuration does not say."""
        return context_of(self.config)

    @cached_property
    def digest(self) -> str:
        """Return the checkpoint's digest, by which artifacts made from it are found.

        Raises LangpruneError for weights that changed since langprune wrote them: the digest reads samples and may miss that.
        """
        self.checkpoint.check()
        return self.checkpoint.digest()

    def linears(self, index: int) -> tuple[Linear, ...]:
        """Return the prunable linears of a block, loaded or not, in module order; see `linears_in`."""
        names = {id(owner): slot.name for slot in self._slots[index] for owner, attr in slot.owners if attr == "weight"}
        return tuple(
            Linear(names[id(module)], module, isinstance(module, Conv1D), expert)
            for module, expert in linears_in(self.blocks[index])
        )

    def uncalled(self, index: int) -> list[str]:
        """Return the checkpoint tensors of a block's linears that no forward pass calls, see `uncalled_in`."""
        paths = self.tensor_paths(index)
        return [paths[f"{path}.weight"] for path, _ in uncalled_in(self.blocks[index])]

    def shape(self, linear: Linear) -> tuple[int, int]:
        """Return (out, in) of a linear without reading it."""
        rows, columns = self.checkpoint.entries[linear.name].shape
        return (columns, rows) if linear.transposed else (rows, columns)

    def tensor_names(self, index: int) -> list[str]:
        """Return the checkpoint tensors of block `index`."""
        return list(dict.fromkeys(name for slot in self._slots[index] for name in slot.names))

    def tensor_paths(self, index: int) -> dict[str, str]:
        """Return path inside the block -> checkpoint tensor, for the parameters of block `index`.

        A computed parameter has an entry path#number for each of its tensors; no units are cut from these.
        """
        found: dict[str, str] = {}
        for slot in self._slots[index]:
            path = slot.path.removeprefix(f"{self._prefix}.{index}.")
            found |= {f"{path}#{number}" if slot.made else path: name for number, name in enumerate(slot.names)}
        return found

    def buffer_paths(self, index: int) -> dict[str, str]:
        """Return path inside the block -> checkpoint tensor, for the buffers of block `index` that the checkpoint has."""
        before = f"{self._prefix}.{index}."
        kept = self.blocks[index].state_dict()
        paths = [path for path, _ in self.blocks[index].named_buffers() if path in kept]
        found = {path: self._names.find(before + path) for path in paths}
        return {path: name for path, name in found.items() if name}

    def outside_names(self) -> list[str]:
        """Return every checkpoint tensor outside of the blocks, unused ones included."""
        inside = {name for index in range(len(self.blocks)) for name in self.tensor_names(index)}
        return [name for name in self.checkpoint.entries if name not in inside]

    def outside_owners(self) -> dict[str, list[nn.Module]]:
        """Return checkpoint tensor -> modules that hold it, for parameters outside of the blocks; a tied one has several modules.

        A checkpoint may store a tied parameter more than once; then each of these tensors is a key.
        """
        names = ((name, slot) for slot in self._slots[-1] for name in (slot.name, *slot.copies))
        return {name: [owner for owner, _ in slot.owners] for name, slot in names}

    def outside_paths(self) -> dict[str, str]:
        """Return path in the model -> checkpoint tensor, for parameters outside of the blocks that are not computed."""
        places, slots = {id(module): path for path, module in self.model.named_modules()}, self._slots[-1]
        return {
            f"{places[id(owner)]}.{attr}": each.name for each in slots if not each.made for owner, attr in each.owners
        }

    def expect(self, index: int) -> None:
        """Read block `index` ahead, while the block before it computes.

        For a GPU, a thread reads it into pinned memory, to copy without waiting; for a CPU, the system into its page cache only.
        """
        names = self.tensor_names(index)
        if self._reader is None:
            self.checkpoint.expect(names)
        else:
            self._expected = names, self._reader.submit(self._read_pinned, names)

    def _read_pinned(self, names: list[str]) -> dict[str, Tensor]:
        # A GPU copies from pinned memory by itself; torch keeps it until the copy is done.
        return {name: tensor.pin_memory() for name, tensor in self._read_checked(names).items()}

    def _read_checked(self, names: list[str]) -> dict[str, Tensor]:
        """Read tensors, and check those for finite values that pruning only copies; whoever prunes linears checks them."""
        linears = self._linear_names
        found = self.checkpoint.read_finite([name for name in names if name not in linears])
        return found | self.checkpoint.read([name for name in names if name in linears])

    @cached_property
    def _linear_names(self) -> set[str]:
        return {linear.name for index in range(len(self.blocks)) for linear in self.linears(index)}

    def _read(self, names: list[str]) -> dict[str, Tensor]:
        expected, self._expected = self._expected, None
        return expected[1].result() if expected and expected[0] == names else self._read_checked(names)

    @contextmanager
    def block(self, index: int) -> Iterator[Block]:
        """Load block `index`, and free it afterwards."""
        with self._loaded(self._slots[index]):
            yield Block(index, self.blocks[index], self.linears(index))

    @contextmanager
    def outside(self, *, head: bool = True) -> Iterator[None]:
        """Load embeddings, final norm and a head of its own (`head`), and free them afterwards; a vision tower stays on disk."""
        end = self.model.get_output_embeddings()
        needed = [slot for slot in self._around if head or any(owner is not end for owner, _ in slot.owners)]
        with self._loaded(needed):
            yield

    def names_for_text(self) -> list[str]:
        """Return the checkpoint tensors that text passes."""
        return [name for slot in self._for_text for name in slot.names]

    @contextmanager
    def whole(self, placed: Callable[[nn.Module], None] = lambda _: None) -> Iterator[dict[str, nn.Parameter]]:
        """Load what text passes; yield, by name, parameters that are checkpoint tensors. placed: sees blocks, then the model."""
        as_they_are = [slot for slot in self._for_text if not slot.made]
        with ExitStack() as loaded:
            for module, slots in (*zip(self.blocks, self._slots, strict=False), (self.model, self._around)):
                loaded.enter_context(self._loaded(slots))
                placed(module)
            yield {name: getattr(*slot.owners[0]) for slot in as_they_are for name in (slot.name, *slot.copies)}

    def check_outside(self) -> None:
        """Load what `outside` does, one parameter at a time; raises LangpruneError for one that does not fit."""
        for slot in self._around:
            with self._loaded([slot]):
                pass

    @contextmanager
    def _loaded(self, slots: Sequence[Slot]) -> Iterator[None]:
        placeholders = [getattr(*slot.owners[0]) for slot in slots]
        left = Counter(name for slot in slots for name in slot.names)  # a tensor may be made into several parameters
        tensors = self._read(list(left))
        try:
            for slot, placeholder in zip(slots, placeholders, strict=True):
                left.subtract(slot.names)
                read = {name: tensors[name] if left[name] else tensors.pop(name) for name in slot.names}
                value = slot.made.value(self.model, read) if slot.made else read[slot.name]
                value = value.to(self.device, self.dtype, non_blocking=True)
                if value.shape != placeholder.shape:
                    raise LangpruneError(
                        f"{self.folder} holds {slot.name} with shape {list(value.shape)}, but its config.json asks for "
                        f"{list(placeholder.shape)}: get the checkpoint again"
                    )
                self._put(slot, nn.Parameter(value, requires_grad=False))
            yield
        finally:
            for slot, placeholder in zip(slots, placeholders, strict=True):
                self._put(slot, placeholder)

    @staticmethod
    def _put(slot: Slot, parameter: nn.Parameter) -> None:
        for owner, attr in slot.owners:
            owner._parameters[attr] = parameter  # noqa: SLF001 - setattr would refuse to swap devices

    def _load_buffers(self) -> None:
        """Load the model's buffers from the checkpoint; they are few and small, and stay loaded."""
        kept = self.model.state_dict()
        for path, buffer in self.model.named_buffers():
            name = self._names.find(path)
            if name is not None and path in kept and self.checkpoint.entries[name].shape == tuple(buffer.shape):
                buffer.copy_(self.checkpoint.read([name])[name])
