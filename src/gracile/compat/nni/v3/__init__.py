"""NNI 3's compression: ``nni.compression`` becomes ``gracile.compat.nni.v3``."""
