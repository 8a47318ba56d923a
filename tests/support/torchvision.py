"""torchvision with a CPU build of torch that lacks its compiled operators: declares those that it needs to import."""

import torch

# A torchvision built with its operators declares them itself; this Library must outlive the import.
_library = torch.library.Library("torchvision", "DEF")
for _schema in (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
):
    _library.define(_schema)

import torchvision  # noqa: E402

models = torchvision.models
