"""Numbers that the command line states and the stages take where nothing is given: once, and without torch."""

NSAMPLES = 128  # windows of calibration text
SEQLEN = 2048  # tokens of a window, where the model's context has as many
BATCH_TOKENS = 2048  # that go through a block at once
DAMPING = 0.01  # share of a Hessian's mean diagonal, as published
MIN_EXPERT_TOKENS = 32
COVERAGE = 0.9999  # of a language's running text, by the tokens that stay
MAX_TOKENS = 10_000_000  # counted of each text
HUB_WINDOWS = 256  # evaluated of a dataset on the hub
MAX_SHARD_SIZE = "2GB"
