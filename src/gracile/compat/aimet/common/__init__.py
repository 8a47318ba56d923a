"""The names of ``aimet_common``."""
