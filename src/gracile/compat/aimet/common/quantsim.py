"""What ``aimet_common.quantsim`` holds: the version of the encodings files that are written."""

from typing import Literal

__all__ = ["encoding_version"]

# "0.6.1" or "1.0.0", which has blocks, too.  Set the module's attribute, as with AIMET.
encoding_version: Literal["0.6.1", "1.0.0"] = "0.6.1"
