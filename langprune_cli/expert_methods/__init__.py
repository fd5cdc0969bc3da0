"""Methods that choose which whole experts leave: one file, one record."""
