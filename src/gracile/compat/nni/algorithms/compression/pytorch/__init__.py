"""``nni.algorithms.compression.pytorch`` of NNI 2."""
