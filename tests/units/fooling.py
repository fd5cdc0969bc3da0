"""Modules whose shapes look like those of other layouts, and types of models that have them."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm

_SETTINGS = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "vocab_size": 97, "max_position_embeddings": 64,
}  # fmt: skip


class Mlp(nn.Module):
    """A feed-forward layer of a gate and linears before and after."""

    def __init__(self, config: Any, _index: int) -> None:
        super().__init__()
        h, i = config.hidden_size, config.intermediate_size
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(h, i), nn.Linear(h, i), nn.Linear(i, h)

    def units(self, x: Tensor) -> Tensor:
        return F.silu(self.gate_proj(x)) * self.up_proj(x)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.down_proj(self.units(x))
        return made


class Fused(nn.Module):
    """Gate and up in one linear."""

    def __init__(self, config: Any, _index: int) -> None:
        super().__init__()
        self.both = nn.Linear(config.hidden_size, 2 * config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def split(self, both: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = both.chunk(2, -1)
        return gate, up

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.split(self.both(x))
        made: Tensor = self.down_proj(F.silu(gate) * up)
        return made


class UpFirst(Fused):
    def split(self, both: Tensor) -> tuple[Tensor, Tensor]:
        up, gate = both.chunk(2, -1)
        return gate, up


class InTurn(Fused):
    """A channel's gate and up are neighbours."""

    def split(self, both: Tensor) -> tuple[Tensor, Tensor]:
        return both[..., ::2], both[..., 1::2]


class Mirrored(Fused):
    """The last row of up belongs to the first channel."""

    def split(self, both: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = both.chunk(2, -1)
        return gate, up.flip(-1)


class Shifted(Mlp):
    """The reader's columns are not the writers' rows."""

    def units(self, x: Tensor) -> Tensor:
        return super().units(x).roll(1, -1)


class Mixed(Mlp):
    """Every channel depends on all others."""

    def units(self, x: Tensor) -> Tensor:
        return F.softmax(super().units(x), -1)


class Normed(Mlp):
    """A norm without weights over all channels."""

    def units(self, x: Tensor) -> Tensor:
        units = super().units(x)
        return F.rms_norm(units, units.shape[-1:])


class Added(Mlp):
    """What comes in is added to the channels, which are as many."""

    def units(self, x: Tensor) -> Tensor:
        return super().units(x) + x


class Halves(Mlp):
    """The second half of the channels gates the first."""

    def __init__(self, config: Any, _index: int) -> None:
        super().__init__(config, _index)
        self.down_proj = nn.Linear(config.intermediate_size // 2, config.hidden_size)

    def units(self, x: Tensor) -> Tensor:
        one, other = super().units(x).chunk(2, -1)
        return one * other


class Twins(nn.Module):
    """Two feed-forward layers of the same shapes, beside each other."""

    def __init__(self, config: Any, index: int) -> None:
        super().__init__()
        self.one, self.other = Mlp(config, index), Mlp(config, index)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.one(x) - self.other(x)
        return made


class Crossed(Twins):
    """... of which each reads what the other's writers make."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.one.down_proj(self.other.units(x)) - self.other.down_proj(self.one.units(x))
        return made


class TwoReaders(Mlp):
    """Two linears read the same channels, which could not choose each for itself."""

    def __init__(self, config: Any, _index: int) -> None:
        super().__init__(config, _index)
        self.down_too = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        units = self.units(x)
        made: Tensor = self.down_proj(units) * self.down_too(units)
        return made


class Part(nn.Module):
    """Some rows of a linear that is held elsewhere."""

    def __init__(self, of: nn.Linear, rows: slice) -> None:
        super().__init__()
        self._of, self._rows = (of,), rows

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self._of[0](x)[..., self._rows]
        return made


class Packed(LlamaAttention):
    """Queries, keys and values in one linear."""

    order = "qkv"

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        rows = {"q": config.num_attention_heads, "k": config.num_key_value_heads, "v": config.num_key_value_heads}
        self.packed = nn.Linear(config.hidden_size, sum(rows.values()) * self.head_dim, bias=False)
        start = 0
        for name in self.order:
            stop = start + rows[name] * self.head_dim
            setattr(self, f"{name}_proj", Part(self.packed, slice(start, stop)))
            start = stop


class Backwards(Packed):
    """... in another order."""

    order = "vkq"


class Strided(LlamaAttention):
    """Query head 0 has KV head 0, query head 1 has KV head 1, and then again from the first."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        q, groups, width = self.q_proj, config.num_key_value_heads, self.head_dim

        def in_turn(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            return output.unflatten(-1, (-1, groups, width)).transpose(-3, -2).flatten(-3)

        q.register_forward_hook(in_turn)

        def back(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (args[0].unflatten(-1, (groups, -1, width)).transpose(-3, -2).flatten(-3),)

        self.o_proj.register_forward_pre_hook(back)


class Turned(LlamaAttention):
    """The entries of a query head do not lie beside each other."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        width = self.head_dim

        def turn(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            return output.unflatten(-1, (width, -1)).transpose(-1, -2).flatten(-2)

        self.q_proj.register_forward_hook(turn)


class OverHeads(LlamaAttention):
    """What a head puts out is multiplied by what its neighbour does."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        width = self.head_dim

        def mix(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (args[0] * args[0].roll(width, -1),)

        self.o_proj.register_forward_pre_hook(mix)


class Swapped(LlamaAttention):
    """k_proj makes the queries and q_proj the keys, where there are as many."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.q_proj, self.k_proj = self.k_proj, self.q_proj


class NormedReader(nn.Linear):
    """A linear that norms what it reads."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.norm = LlamaRMSNorm(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


class WideNorm(LlamaAttention):
    """A norm over all heads before the reader."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.o_proj = NormedReader(config.num_attention_heads * self.head_dim, config.hidden_size)


class Layout(LlamaForCausalLM):
    part = "mlp"
    made_by: ClassVar[Callable[[Any, int], nn.Module]] = Mlp

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.model.layers):
            setattr(layer, self.part, type(self).made_by(config, index))


def type_of(module: type[nn.Module], **settings: Any) -> Any:
    """Register a type of models with such modules, and return a configuration of it."""
    name = f"fooling_{module.__name__.lower()}"
    kind = type(f"{module.__name__}Config", (LlamaConfig,), {"model_type": name})
    part = "self_attn" if issubclass(module, LlamaAttention) else "mlp"
    model = type(f"{module.__name__}ForCausalLM", (Layout,), {"config_class": kind, "part": part, "made_by": module})
    AutoConfig.register(name, kind, exist_ok=True)
    AutoModelForCausalLM.register(kind, model, exist_ok=True)
    return kind(**_SETTINGS | settings)
