"""What several processes that train one model have seen, joined: masks must come out alike in all of them."""

from collections.abc import Mapping

from torch import Tensor, distributed


def process_count() -> int:
    """How many processes train together; 1 without ``torch.distributed``."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def mean_over_processes(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean over all processes, each of which has the same names and shapes; with one process, ``values``."""
    count = process_count()
    if count == 1:
        return dict(values)
    found = {}
    for name in sorted(values):
        joined = values[name].clone()
        distributed.all_reduce(joined)
        found[name] = joined / count
    return found
