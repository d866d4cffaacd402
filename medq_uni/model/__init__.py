"""The network: tensors in, tensors out; it knows no files and no words."""
