"""Every error that gracile raises on purpose.

::

    GracileError
    ├── InputError (also ValueError)       an argument is of the wrong type, range or name
    │   └── RecipeError                    ... and it stands in a recipe file; names line and column
    ├── CaptureError                       torch.export could not describe the model
    ├── ExportError                        a model cannot be written in a format, or the file computes something else
    ├── PlanError                          a Plan does not fit the model that it is applied to
    ├── EvaluationError                    an evaluation function raised, or returned no usable number
    ├── TargetError (also ValueError)      no admissible compression reaches the target
    ├── FileError (also OSError)           a file is missing, damaged, foreign or of another version
    │   └── StoreError                     ... and it is the store of evaluations
    └── MissingExtraError (also ImportError)  an optional package is needed; names the pip line
"""


class GracileError(Exception):
    """Base of all errors below: catch it to catch them all."""


class InputError(GracileError, ValueError):
    """An argument is of the wrong type, range or name."""


class RecipeError(InputError):
    """A recipe file is malformed; the message has one line a fault, with file, line and column."""


class CaptureError(GracileError):
    """torch.export could not describe the model."""


class ExportError(GracileError):
    """A model cannot be written in a format, or the file computes something else than the model."""


class PlanError(GracileError):
    """A Plan does not fit the model that it is applied to."""


class EvaluationError(GracileError):
    """An evaluation function, or training in a trial, raised, or returned something that is not a finite number."""


class TargetError(GracileError, ValueError):
    """No admissible compression reaches the target."""


class FileError(GracileError, OSError):
    """A file is missing, damaged, foreign or of another version."""


class StoreError(FileError):
    """The store of evaluations is damaged, or belongs to another job."""


class MissingExtraError(GracileError, ImportError):
    """An optional package is needed; the message gives the pip line that installs it."""
