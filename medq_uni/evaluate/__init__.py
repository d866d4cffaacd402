"""How good is it: sets, systems, tables."""
