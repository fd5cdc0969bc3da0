"""A small mixture of experts: trained on two languages, and pruned by whole experts and by channels."""
