"""Default numbers of the command line and the stages, and the ways to draw windows, without torch."""

NSAMPLES = 128  # windows of calibration text
SAMPLINGS = ("document", "concat")
SEQLEN = 2048  # tokens per window, if the model's context is as long
BATCH_TOKENS = 2048  # per pass through a block
DAMPING = 0.01  # share of a Hessian's mean diagonal, as published
MIN_EXPERT_TOKENS = 32
COVERAGE = 0.9999  # of a language's running text, by the kept tokens
MAX_TOKENS = 10_000_000  # to count in each text
HUB_WINDOWS = 256  # to evaluate of a hub dataset
MAX_SHARD_SIZE = "2GB"
