"""Every paper's formula: tensors in, tensors out, no models."""
