"""Methods that choose which whole blocks leave: one file, one record."""
