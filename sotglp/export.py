"""A trained run as an ONNX graph, from pixels to probabilities, and its head as safetensors.

Neither needs the text tower, the toolbox or open_clip any more. Needs onnx, onnxscript and onnxruntime.
"""

import json
import shutil
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import onnxscript
import torch
from onnxscript import opset18 as op
from safetensors.torch import save_file
from torch import nn

from dassl.utils import UserError
from sotglp import classify, transport
from sotglp.predictor import load
from sotglp.prompts import Prompts
from sotglp.scores import ood_scores
from sotglp.transport import transport_plan, uniform_plan

MODEL, HEAD = "model.onnx", "head.safetensors"


@torch.library.custom_op("sotglp::solve", mutates_args=())
def solve(log_plan: torch.Tensor, tol: float, max_iter: int) -> torch.Tensor:
    """``transport.solve`` as one operator, which an export does not look into."""
    solved = log_plan.clone()
    transport.solve(solved, tol, max_iter)
    return solved


@solve.register_fake
def _(log_plan, tol, max_iter):
    return torch.empty_like(log_plan)


@onnxscript.script(onnxscript.values.Opset("sotglp", 1))
def onnx_solve(log_plan: onnxscript.FLOAT, tol: float, max_iter: int) -> onnxscript.FLOAT:
    """``transport.solve`` in ONNX: steps until the plans of all images are solved; a solved one stands still."""
    uniform = 1.0 / op.Cast(op.Shape(log_plan, start=1, end=2), to=1)
    log_rows = op.Log(op.Cast(op.Shape(log_plan, start=0, end=1), to=1))
    current = log_plan
    step = op.Constant(value_int=0)
    unsolved = op.Constant(value_int=0) < max_iter
    while unsolved:
        columns = op.ReduceLogSumExp(current, [0], keepdims=1)
        wrong = op.ReduceMax(op.Abs(op.Exp(columns) - uniform), [1], keepdims=1) > tol
        current = op.Where(wrong, op.LogSoftmax(current - columns, axis=1) - log_rows, current)
        step = step + 1
        any_wrong = op.Cast(op.ReduceMax(op.Cast(wrong, to=1), keepdims=0), to=9)
        unsolved = op.And(any_wrong, step < max_iter)
    return op.Identity(current)


def exported_plan(s, eps=0.1, tol=1e-6, max_iter=100_000):
    """``transport_plan`` (..., K, N) with its steps as one operator."""
    log_plan = transport.scale_rows(s.flatten(0, -3).float().permute(1, 2, 0) / eps)
    return torch.ops.sotglp.solve(log_plan, tol, max_iter).exp().permute(2, 0, 1).reshape(s.shape)


class ImagePath(nn.Module):
    """Preprocessed images (n, 3, S, S) -> probabilities of both branches and of each alone, and the OOD score."""

    def __init__(self, trainer, score):
        super().__init__()
        self.model, self.trainer, self.score = trainer.model, trainer, score
        self.text = trainer.model.encode_text()

    def forward(self, images):
        match = self.model.match(self.model.features(images), self.text)
        return *self.trainer.probabilities(match).values(), ood_scores(match, self.model.logit_scale)[self.score]


@torch.no_grad()
def export(run, out):
    """Write MODEL, HEAD and classify.py, which uses the model, into a folder; return how far off the model is.

    That is the largest difference of its probabilities from the predictor's, on images of noise.
    Raises OSError or UserError as ``load`` does, and for a run that cannot be exported.
    """
    predictor, out = load(run), Path(out)
    trainer = predictor.trainer
    model, cfg = trainer.model, trainer.cfg
    check_exportable(trainer)
    images = torch.randn(3, 3, *[model.clip.visual.image_size] * 2, generator=torch.Generator().manual_seed(0))
    expected = predictor.predict_batch(images)
    if getattr(model, "plan", None) is not None and model.plan.func is transport_plan:
        model.plan = partial(exported_plan, **model.plan.keywords)
    outputs = [*(name for name in ("combined", "global_", "local") if getattr(expected, name) is not None), "ood"]
    normalized = "normalize" in cfg.INPUT.TRANSFORMS
    facts = {
        "classnames": predictor.classnames,
        "size": model.clip.visual.image_size,
        "interpolation": cfg.INPUT.INTERPOLATION,
        "pixel_mean": list(cfg.INPUT.PIXEL_MEAN) if normalized else [0.0] * 3,
        "pixel_std": list(cfg.INPUT.PIXEL_STD) if normalized else [1.0] * 3,
        "ood_score": predictor.score,
        "ood_threshold": predictor.thresholds.get(predictor.score),
        "trainer": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "settings": dict(trainer.node),
    }
    facts = {key: json.dumps(value) for key, value in facts.items()}
    out.mkdir(parents=True, exist_ok=True)
    path = ImagePath(trainer, predictor.score).eval()
    program = to_onnx(path, (images.to(trainer.device),), [name.rstrip("_") for name in outputs], ["images"])
    program.model.metadata_props.update(facts)
    program.save(str(out / MODEL), external_data=False)
    save_file(head(trainer), str(out / HEAD), facts)
    shutil.copy(classify.__file__, out / "classify.py")
    session = onnxruntime.InferenceSession(str(out / MODEL), providers=["CPUExecutionProvider"])
    got = dict(zip(outputs, session.run(None, {"images": images.numpy()}), strict=True))
    return max(float(np.abs(got[name] - getattr(expected, name).numpy()).max()) for name in outputs)


def to_onnx(module, inputs, outputs, names):
    """The ONNX program of a module.

    inputs: examples, tensors (n, ...) of any n. outputs, names: what outputs and inputs are called.
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


def check_exportable(trainer):
    """Raise UserError for a method whose image path is no function of the image alone."""
    model, name = trainer.model, trainer.cfg.TRAINER.NAME
    if not model.frozen_images:
        raise UserError(f"{name} changes the image tower: only methods with a frozen one can be exported")
    if model.encode_text() is None and any(isinstance(part, Prompts) for part in model.learned.modules()):
        raise UserError(f"{name} makes its text features of each image: only methods whose text is fixed are exported")
    if "instance_norm" in trainer.cfg.INPUT.TRANSFORMS:
        raise UserError("INPUT.TRANSFORMS instance_norm cannot be exported")
    if getattr(model, "plan", None) is not None and model.plan.func not in (transport_plan, uniform_plan):
        raise UserError(f"{name} with unbalanced transport cannot be exported: only balanced transport and the mean")


def head(trainer):
    """{name: tensor} of what stands between the image tower and the logits; prompts as the text features they give."""
    model = trainer.model
    text = model.encode_text()
    tensors = dict(zip(("text_global", "text_local"), text, strict=True)) if isinstance(text, tuple) else {"text": text}
    contexts = [part.context for part in model.learned.modules() if isinstance(part, Prompts)]
    for name, value in model.learned.state_dict(keep_vars=True).items():
        if not any(value is context for context in contexts):
            tensors[name] = value
    tensors.update(image_proj=model.clip.visual.proj, logit_scale=model.logit_scale)
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items() if value is not None}
