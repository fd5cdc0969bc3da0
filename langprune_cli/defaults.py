"""Default numbers of the command line and the stages, the ways to draw windows and to train, without torch."""

from typing import Literal

NSAMPLES = 128  # windows of calibration text
Train = Literal["all", "lora", "norms"]  # what `recover` trains
TRAINS: tuple[Train, ...] = ("all", "lora", "norms")
# On whose outputs `prune` calibrates each block, and whether its linears make up for what pruning has changed before it.
Propagation = Literal["pruned", "corrected", "dense"]
PROPAGATIONS: tuple[Propagation, ...] = ("pruned", "corrected", "dense")
Tracker = Literal["trackio", "wandb", "tensorboard"]  # where `recover` logs its course, each named as its library
TRACKERS: tuple[Tracker, ...] = ("trackio", "wandb", "tensorboard")
SAMPLINGS = ("document", "concat")
SEQLEN = 2048  # tokens per window, if the model's context is as long
BATCH_TOKENS = 2048  # per pass through a block
STEP_TOKENS = (512, 1024, 2048)  # per step of the optimizer in `recover`, by how many it trains on
TRAINING_SEQLEN = 512  # tokens per window in `recover`
DAMPING = 0.01  # share of a Hessian's mean diagonal, as published
MIN_EXPERT_TOKENS = 32
COVERAGE = 0.9999  # of a language's running text, by the kept tokens
MAX_TOKENS = 10_000_000  # to count in each text
HUB_WINDOWS = 256  # to evaluate of a hub dataset
MAX_SHARD_SIZE = "2GB"
