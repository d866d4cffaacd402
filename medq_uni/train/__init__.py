"""Training: recipes, losses, one loop for every stage."""
