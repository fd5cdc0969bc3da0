"""Templates of the report and the model card (*.j2), and what escapes the names that they show."""
