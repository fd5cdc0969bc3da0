"""`demo`: all stages on the built-in model."""
