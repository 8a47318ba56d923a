"""The models of `zoo.py`, by name, with inputs: torchvision, timm, transformers and our own, weights random."""

# ruff: noqa: PLC0415 - only the zoo that is asked for has to be installed.

import importlib
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import nn
from zoo_own import NETS

_LIBRARIES: list[torch.library.Library] = []


def prepare(zoo: str) -> None:
    """Torchvision's compiled operators do not load beside a CPU torch: declare what its import asks for."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)
    # Before the processes fork: the imports take longer than most models.
    library_of = {"transformers": "transformers.modeling_utils", "own": "zoo_own"}
    for name in (library_of.get(zoo, zoo), "torch._dynamo", "torch.export._trace"):
        importlib.import_module(name)


def build(name: str) -> tuple[nn.Module, Any]:
    zoo, _, key = name.partition("/")
    torch.manual_seed(0)
    return {"tv": _torchvision, "timm": _timm, "hf": _transformers, "own": _own}[zoo](key)


def _own(name: str) -> tuple[nn.Module, Any]:
    make, inputs = NETS[name]
    return make(), inputs()


def torchvision_names() -> list[str]:
    from torchvision import models

    classification = models.list_models(module=models)
    segmentation = models.list_models(module=models.segmentation)
    # Too large for the machine's memory together with its copy in double precision.
    return [f"tv/{name}" for name in (*classification, *segmentation) if name != "vit_h_14"]


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

    # Of the largest, some of the equal layers.
    options = {"depth": 4} if name in ("deepseek_vit_412m", "gemma4_vit_167m", "naflexvit_base_patch16_siglip") else {}
    model = timm.create_model(name, pretrained=False, **options)
    channels, *size = model.pretrained_cfg.get("input_size", (3, 224, 224))
    if size[0] > 384:
        # The images of some would take minutes on one core.
        size = [256, 256]
        if "img_size" in signature(type(model).__init__).parameters:
            side = next(side for side in (256, 252, 224) if _divisible(model, side))
            size = [side, side]
            model = timm.create_model(name, pretrained=False, img_size=side, **options)
    return model, torch.randn(1, channels, *size)


def _divisible(model: nn.Module, side: int) -> bool:
    """Whether patches fill an image of that size, windows of patches included."""
    stride = next((module.stride[0] for module in model.modules() if isinstance(module, nn.Conv2d)), 16)
    return side % stride == 0 and side // stride % 2 == 0


# Kinds of heads -> architectures.
_TEXT = {
    "ForSequenceClassification": "Bert Roberta DistilBert Albert Electra DebertaV2 MPNet XLMRoberta Camembert "
    "ModernBert MobileBert SqueezeBert ConvBert",
    "ForCausalLM": "OPT Cohere GPTNeo GPTNeoX GPTJ Llama Mistral Qwen2 Qwen3 Gemma Gemma2 Olmo2 Starcoder2 StableLm "
    "Granite SmolLM3 Phi Phi3 Mixtral Falcon Bloom Mamba Mamba2",
    "LMHeadModel": "GPT2",
    "ForConditionalGeneration": "Bart MBart Pegasus T5",
    "MTModel": "Marian",
}
_IMAGES = {
    "ForImageClassification": "ViT DeiT Beit Segformer Swin PvtV2 Dinov2 Levit MobileViT ConvNext ConvNextV2 ResNet "
    "RegNet PoolFormer CLIP Siglip",
    "ForVideoClassification": "VideoMAE",
    "ForObjectDetection": "Yolos",
}
_AUDIO = {"ForCTC": "Wav2Vec2 Hubert", "ForConditionalGeneration": "Whisper"}


def transformers_names() -> list[str]:
    return [f"hf/{name}" for kinds in (_TEXT, _IMAGES, _AUDIO) for names in kinds.values() for name in names.split()]


def _head(name: str, kinds: dict[str, str]) -> str | None:
    return next((head for head, names in kinds.items() if name in names.split()), None)


def _transformers(name: str) -> tuple[nn.Module, Any]:
    import transformers

    config = getattr(transformers, f"{name}Config")()
    for part in (config, getattr(config, "vision_config", None), getattr(config, "text_config", None)):
        if part is not None:
            _shrink(part)
    for key, value in _OPTIONS.get(name, {}).items():
        setattr(config, key, value)
    config.use_cache = False
    head = _head(name, _TEXT) or _head(name, _IMAGES) or _head(name, _AUDIO)
    kind = getattr(transformers, f"{name}{head}")
    config._attn_implementation = "eager" if name == "GPTNeoX" else "sdpa"
    try:
        model = kind(config)
    except ValueError:
        config._attn_implementation = "eager"
        model = kind(config)
    return model, _inputs(name, model, config)


def _inputs(name: str, model: nn.Module, config: Any) -> Any:
    if name == "VideoMAE":
        return {"pixel_values": torch.randn(1, config.num_frames, 3, config.image_size, config.image_size)}
    if _head(name, _IMAGES):
        side = getattr(getattr(config, "vision_config", config), "image_size", 64)
        height, width = (side, side) if isinstance(side, int) else side
        return {"pixel_values": torch.randn(1, 3, height, width)}
    if name in ("Wav2Vec2", "Hubert"):
        return {"input_values": torch.randn(1, 2000)}
    ids = torch.randint(3, config.vocab_size, (1, 12))
    if name == "Whisper":
        features = torch.randn(1, config.num_mel_bins, 40)
        return {"input_features": features, "decoder_input_ids": ids, "use_cache": False}
    if getattr(config, "is_encoder_decoder", False):
        return {"input_ids": ids, "decoder_input_ids": ids[:, :7], "use_cache": False}
    return {"input_ids": ids} | ({"use_cache": False} if "use_cache" in signature(model.forward).parameters else {})


_OPTIONS: dict[str, dict[str, Any]] = {
    "Mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2, "expand": 2},
    "Swin": {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 4},
    "ConvNext": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "num_stages": 4, "patch_size": 4},
    "ConvNextV2": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "num_stages": 4, "patch_size": 4},
    "VideoMAE": {"num_frames": 4, "image_size": 32, "tubelet_size": 2},
    "SqueezeBert": {"embedding_size": 64},
    # Sequences of the example are shorter than what is masked in training by default.
    "Wav2Vec2": {"mask_time_length": 2, "mask_time_prob": 0.3},
    "Hubert": {"mask_time_length": 2, "mask_time_prob": 0.3},
    # Experts as plain matrix products, not as an operator of the library's own.
    "Mixtral": {"_experts_implementation": "batched_mm"},
    "DebertaV2": {"pooler_hidden_size": 64},
}


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
    "own": lambda: [f"own/{name}" for name in NETS],
}
