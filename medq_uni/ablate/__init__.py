"""Training variants of a recipe at equal budget, and the table that compares them."""
