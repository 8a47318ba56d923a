"""Choosing the ratios of layers: one problem definition, one file an algorithm."""
