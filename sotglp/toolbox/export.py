"""A trained run as an ONNX graph, from pixels to probabilities, and its head as safetensors.

The exported files need neither the text tower nor the toolbox nor open_clip. The export needs onnx, onnxscript and
onnxruntime.

Letters: n images of S x S pixels, C classes, K patches of a support, N prompts.
"""

import json
import shutil
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import save
from torch import nn

from dassl.data.data_manager import reading
from dassl.utils import UserError, images, replacing
from sotglp import transport
from sotglp.prompts import Prompts
from sotglp.toolbox.loading import load
from sotglp.toolbox.onnx_transport import onnx_solve
from sotglp.toolbox.trainer import CLIPTrainer
from sotglp.transport import transport_plan, uniform_plan

MODEL, HEAD = "model.onnx", "head.safetensors"


@torch.library.custom_op("sotglp::solve", mutates_args=())
def solve(log_plan: torch.Tensor, tol: float, max_iter: int) -> torch.Tensor:
    """Do ``transport.solve`` as one operator, which an export does not look into."""
    solved = log_plan.clone()
    transport.solve(solved, tol, max_iter)
    return solved


@solve.register_fake
def _(log_plan: torch.Tensor, tol: float, max_iter: int) -> torch.Tensor:
    return torch.empty_like(log_plan)


def exported_plan(s: torch.Tensor, eps: float = 0.1, tol: float = 1e-6, max_iter: int = 100_000) -> torch.Tensor:
    """Return ``transport_plan`` (..., K, N), with its steps as one operator."""
    log_plan = transport.scale_rows(s.flatten(0, -3).float().permute(1, 2, 0) / eps)
    return torch.ops.sotglp.solve(log_plan, tol, max_iter).exp().permute(2, 0, 1).reshape(s.shape)


class ImagePath(nn.Module):
    """From preprocessed images (n, 3, S, S) to the probabilities (n, C), those of each branch and the OOD score (n,).

    Args:
        trainer: of a trained run.
        score: name of the OOD score.
    """

    def __init__(self, trainer: CLIPTrainer, score: str) -> None:
        super().__init__()
        self.model, self.trainer, self.score = trainer.model, trainer, score
        self.text = trainer.model.encode_text()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.model.features(images)
        match = self.model.match(features, self.text)
        return *self.trainer.probabilities(match).values(), self.trainer.ood_scores(match, features=features)[
            self.score
        ]


@torch.no_grad()
def export(run: str | Path, out: str | Path, score: str | None = None) -> float:
    """Write MODEL, HEAD and classify.py, which uses the model and images.py, into a folder.

    Args:
        run: the run's folder.
        out: the folder to write.
        score: name of the OOD score; the predictor's default if None. NegLabel's words become constants.

    Returns:
        The largest difference of the model's outputs from the predictor's, on images of noise.

    Raises:
        OSError, UserError: as in ``load``, the run cannot be exported, or the method has no such score.
    """
    predictor, out = load(run), Path(out)
    trainer = predictor.trainer
    model, cfg = trainer.model, trainer.cfg
    check_exportable(trainer)
    noise = torch.randn(3, 3, *[model.clip.visual.image_size] * 2, generator=torch.Generator().manual_seed(0))
    score = score or predictor.score
    expected = predictor.predict_batch(noise, score)
    if model.transport_plan is not None and model.transport_plan.func is transport_plan:
        model.transport_plan = partial(exported_plan, **model.transport_plan.keywords)
    outputs = [*(name for name in ("combined", "global_", "local") if getattr(expected, name) is not None), "ood"]
    normalized = "normalize" in cfg.INPUT.TRANSFORMS
    facts = {
        "classnames": predictor.classnames,
        "size": model.clip.visual.image_size,
        **{key: value for key, value in reading(cfg).items() if key != "truncated"},
        "interpolation": cfg.INPUT.INTERPOLATION,
        "pixel_mean": list(cfg.INPUT.PIXEL_MEAN) if normalized else [0.0] * 3,
        "pixel_std": list(cfg.INPUT.PIXEL_STD) if normalized else [1.0] * 3,
        "ood_score": score,
        "ood_threshold": predictor.thresholds.get(score),
        "trainer": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "settings": dict(trainer.node),
    }
    metadata = {key: json.dumps(value) for key, value in facts.items()}
    out.mkdir(parents=True, exist_ok=True)
    path = ImagePath(trainer, score).eval()
    program = to_onnx(path, (noise.to(trainer.device),), [name.rstrip("_") for name in outputs], ["images"])
    program.model.metadata_props.update(metadata)
    program.save(str(out / MODEL), external_data=False)
    with replacing(out / HEAD, "wb") as file:
        file.write(save(head(trainer), metadata))  # its save_file hides the file from others
    for source in (Path(__file__).parent / "classify.py", images.__file__):
        shutil.copy(source, out)
    session = onnxruntime.InferenceSession(str(out / MODEL), providers=["CPUExecutionProvider"])
    got = dict(zip(outputs, session.run(None, {"images": noise.numpy()}), strict=True))
    return max(float(np.abs(got[name] - getattr(expected, name).numpy()).max()) for name in outputs)


def to_onnx(module: nn.Module, inputs: tuple[torch.Tensor, ...], outputs: Sequence[str], names: Sequence[str]) -> Any:
    """Return the ONNX program of a module, for any number of images.

    Args:
        module: that maps inputs to outputs.
        inputs: examples, tensors (n, ...) of any n.
        outputs, names: names of the outputs and of the inputs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own deprecations
        return torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            opset_version=18,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),
            custom_translation_table={torch.ops.sotglp.solve.default: onnx_solve},
            verbose=False,
        )


def check_exportable(trainer: CLIPTrainer) -> None:
    """Check that a method's image path is a function of the image alone, which ONNX can express.

    Raises:
        UserError: it is not.
    """
    model, name = trainer.model, trainer.cfg.TRAINER.NAME
    if not model.frozen_images:
        raise UserError(f"{name} changes the image tower: only methods with a frozen one can be exported")
    if model.encode_text() is None and any(isinstance(part, Prompts) for part in model.learned.modules()):
        raise UserError(f"{name} encodes a text for each image: only methods whose text is fixed can be exported")
    if "instance_norm" in trainer.cfg.INPUT.TRANSFORMS:
        raise UserError("INPUT.TRANSFORMS instance_norm cannot be exported")
    plan = model.transport_plan
    if plan is not None and plan.func not in (transport_plan, uniform_plan):
        raise UserError(f"{name} with unbalanced transport cannot be exported: only balanced transport and the mean")


def head(trainer: CLIPTrainer) -> dict[str, torch.Tensor]:
    """Return {name: tensor} of all between the image tower and the logits, with prompts as their text features."""
    model = trainer.model
    text = model.encode_text()
    tensors = dict(zip(("text_global", "text_local"), text, strict=True)) if isinstance(text, tuple) else {"text": text}
    contexts = [part.context for part in model.learned.modules() if isinstance(part, Prompts)]
    for name, value in model.learned.state_dict(keep_vars=True).items():
        if not any(value is context for context in contexts):
            tensors[name] = value
    clip = model.clip
    tensors.update(image_proj=clip.visual.proj, image_bias=clip.visual.bias)
    tensors.update(logit_scale=model.logit_scale, logit_bias=clip.logit_bias)
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items() if value is not None}
