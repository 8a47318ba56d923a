"""The models of `zoo.py`, by name, with inputs: torchvision, timm and transformers, weights random."""

# ruff: noqa: PLC0415 - only the zoo that is asked for has to be installed.

import importlib
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import nn

_LIBRARIES: list[torch.library.Library] = []


def prepare(zoo: str) -> None:
    """Torchvision's compiled operators do not load beside a CPU torch: declare what its import asks for."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)
    # Before the processes fork: the imports take longer than most models.
    library_of = {"transformers": "transformers.modeling_utils"}
    for name in (library_of.get(zoo, zoo), "torch._dynamo", "torch.export._trace"):
        importlib.import_module(name)


def build(name: str) -> tuple[nn.Module, Any]:
    zoo, _, key = name.partition("/")
    return {"tv": _torchvision, "timm": _timm, "hf": _transformers}[zoo](key)


def torchvision_names() -> list[str]:
    from torchvision import models

    classification = models.list_models(module=models)
    segmentation = models.list_models(module=models.segmentation)
    large = ("vit_h", "vit_l", "regnet_y_128gf", "regnet_y_32gf", "regnet_x_32gf", "efficientnet_b7", "efficientnet_b6",
             "efficientnet_v2_l", "convnext_large", "resnext101", "wide_resnet101", "efficientnet_b5",
             "vgg19", "vgg16", "vgg13")  # fmt: skip
    return [f"tv/{name}" for name in (*classification, *segmentation) if not name.startswith(large)]


def _torchvision(name: str) -> tuple[nn.Module, Any]:
    from torchvision import models

    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if name in models.list_models(module=models.segmentation):
        options["weights_backbone"] = None
        size = 96
    else:
        size = (
            299
            if name == "inception_v3"
            else 224
            if name.startswith(("vit", "maxvit", "swin", "alex", "squeeze"))
            else 128
        )
    return models.get_model(name, **options), torch.randn(1, 3, size, size)


def timm_names() -> list[str]:
    import timm

    modules: dict[str, str] = {}
    for name in timm.list_models():
        if name.startswith("test_"):
            continue
        module = timm.models.model_entrypoint(name).__module__
        rank = min((index for index, hint in enumerate(_SMALL) if hint in name), default=len(_SMALL))
        best = modules.get(module)
        if best is None or (rank, len(name)) < (
            min((index for index, hint in enumerate(_SMALL) if hint in best), default=len(_SMALL)), len(best),
        ):  # fmt: skip
            modules[module] = name
    return [f"timm/{name}" for name in sorted(modules.values())]


_SMALL = ("atto", "femto", "nano", "xxs", "xx_small", "pico", "micro", "_ti", "tiny", "_xs", "_t0", "_m0", "_s0", "_b0",
          "mobile", "small", "_s", "18", "26", "b0", "050", "100", "base")  # fmt: skip


def _timm(name: str) -> tuple[nn.Module, Any]:
    import timm

    model = timm.create_model(name, pretrained=False)
    size = model.pretrained_cfg.get("input_size", (3, 224, 224))
    return model, torch.randn(1, *size)


_TEXT = """
    Bert Roberta DistilBert Albert Electra DebertaV2 MPNet XLMRoberta Camembert OPT Cohere Bart MBart GPT2 GPTNeo
    GPTNeoX GPTJ Llama Mistral Qwen2 Qwen3 Gemma Gemma2 Olmo2 Starcoder2 StableLm Granite SmolLM3 Phi Phi3 Mixtral
    Falcon Bloom Mamba Mamba2 T5 ModernBert MobileBert Pegasus Marian
"""
_IMAGES = """
    ViT DeiT Beit CLIPVision Segformer Swin PvtV2 Dinov2 SiglipVision Yolos Levit MobileViT ConvNext ResNet RegNet
    PoolFormer
"""
_AUDIO = "Wav2Vec2 Hubert Whisper"


def transformers_names() -> list[str]:
    return [f"hf/{name}" for name in (*_TEXT.split(), *_IMAGES.split(), *_AUDIO.split())]


def _transformers(name: str) -> tuple[nn.Module, Any]:
    import transformers

    config = getattr(transformers, f"{name}Config")()
    _shrink(config)
    config.use_cache = False
    head = {"CLIPVision": "CLIPVisionModel", "SiglipVision": "SiglipVisionModel"}.get(name, f"{name}Model")
    config._attn_implementation = "eager" if name in ("GPTNeoX",) else "sdpa"
    try:
        model = getattr(transformers, head)(config)
    except ValueError:
        config._attn_implementation = "eager"
        model = getattr(transformers, head)(config)
    if name in _IMAGES.split():
        side = getattr(config, "image_size", 64)
        height, width = (side, side) if isinstance(side, int) else side
        return model, {"pixel_values": torch.randn(1, 3, height, width)}
    if name in ("Wav2Vec2", "Hubert"):
        return model, {"input_values": torch.randn(1, 2000)}
    ids = torch.randint(3, config.vocab_size, (1, 12))
    if name == "Whisper":
        return model, {
            "input_features": torch.randn(1, config.num_mel_bins, 40),
            "decoder_input_ids": ids,
            "use_cache": False,
        }
    if getattr(config, "is_encoder_decoder", False):
        return model, {"input_ids": ids, "decoder_input_ids": ids[:, :7], "use_cache": False}
    return model, {"input_ids": ids} | (
        {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}
    )


_SIZES: dict[str, Any] = {
    "hidden_size": 64, "d_model": 64, "n_embd": 64, "dim": 64, "embedding_size": 32, "intermediate_size": 96,
    "ffn_dim": 96, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "d_ff": 96, "hidden_dim": 96, "n_inner": 96,
    "num_hidden_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2, "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 120, "image_size": 64,
    "max_position_embeddings": 64, "n_positions": 64, "max_source_positions": 20, "max_target_positions": 64,
    "num_key_value_heads": 2, "head_dim": 16, "d_kv": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1, "num_local_experts": 4, "state_size": 8, "attention_hidden_size": 64,
    "rotary_dim": 8, "attention_types": [[["global", "local"], 1]], "word_embed_proj_dim": 64,
    "patch_size": 16, "num_mel_bins": 16, "time_step_rank": 8,
}  # fmt: skip


def _shrink(config: Any) -> None:
    for name, value in _SIZES.items():
        present = getattr(config, name, None)
        if type(present) is type(value) or (present is None and name.endswith("token_id") and hasattr(config, name)):
            try:
                setattr(config, name, value)
            except (AttributeError, NotImplementedError):
                continue


ZOOS: dict[str, Callable[[], list[str]]] = {
    "torchvision": torchvision_names,
    "timm": timm_names,
    "transformers": transformers_names,
}
