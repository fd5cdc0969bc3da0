"""Sends gradients back through a model's blocks, with one block in memory: what its next-token distribution is sensitive to."""

from pathlib import Path

import torch
from torch import Tensor

from langprune_cli.models.streamed import Block
from langprune_cli.streaming.walk import HiddenStates, logits_piece, walk


class TracedStates(HiddenStates):
    """Hidden states between two blocks, through which gradients go back."""

    def sampled_gradients(self, seed: int) -> list[Tensor]:  # of each micro-batch [b, t, h]
        """Return the gradients, by the last block's output, of minus the log-likelihoods of tokens that the model draws.

        At every position one next token is drawn from the model's own distribution, and a window's log-likelihoods are summed.
        The outer product of such gradients is, in the mean, the Fisher information: the second derivative of the divergence
        from the distribution that the model has now (Martens, arXiv 1412.1193, section 5).
        """
        generator = torch.Generator().manual_seed(seed)
        gradients = []
        with self.model.outside(), self._own_code():
            for ids, hidden in zip(self.ids, self.hidden, strict=True):
                piece = logits_piece(self.model.config, len(ids))
                parts = [
                    self._of_head(ids[:, start : start + piece], hidden[:, start : start + piece], generator)
                    for start in range(0, hidden.shape[1], piece)
                ]
                gradients.append(torch.cat(parts, dim=1))
        return gradients

    def _of_head(self, ids: Tensor, hidden: Tensor, generator: torch.Generator) -> Tensor:
        read = hidden.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model.capture.head(ids.to(self.model.device), read)
        chances = logits.detach().float().softmax(-1)
        # The inverse of the cumulative distribution, at places that do not depend on the device.
        places = torch.rand(*chances.shape[:-1], 1, generator=generator).to(chances.device)
        reached = chances.cumsum(-1)
        drawn = torch.searchsorted(reached, places * reached[..., -1:], right=True).clamp_(max=chances.shape[-1] - 1)
        by_logits = chances.scatter_add_(-1, drawn, torch.full_like(places, -1.0))  # of minus the log-likelihood
        (gradient,) = torch.autograd.grad(logits, read, by_logits.to(logits.dtype))
        return gradient

    def back(self, block: Block, number: int, gradient: Tensor) -> Tensor:
        """Return a micro-batch's gradient by the input of a loaded block, from that by its output, both [b, t, h].

        The hidden states must be the block's input. Hooks on the outputs of modules see the gradients by these.
        """
        read = self.hidden[number].detach().requires_grad_()
        with torch.enable_grad(), self._own_code():
            output = self._calls[number][block.index](block.module, read)
            (found,) = torch.autograd.grad(output, read, gradient)
        return found


def traced(states: TracedStates, spill: Path | None) -> list[TracedStates]:
    """Walk through all blocks; return the hidden states before each, and after the last. spill: see `HiddenStates`."""
    found = [states.twin(spill)]
    found += [states.twin(spill) for _ in walk(states)]
    return found
