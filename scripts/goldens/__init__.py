"""Small golden masks and perplexities, and what makes them."""
