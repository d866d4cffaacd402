"""Sources of images, phantoms, pairs and batches."""
