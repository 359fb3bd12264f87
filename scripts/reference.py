"""Reference numbers of SOT-GLP, computed again with the code that training uses, for scripts.conformance."""

import json
from typing import NamedTuple

import numpy as np
import open_clip
import torch
import torch.nn.functional as F

from sotglp import scores
from sotglp.clip import CLIP
from sotglp.matching import similarities
from trainers.sotglp import SparseTransportCLIP, predict, sotglp_loss

INPUTS = {"meta", "images", "targets", "trainable", "dropout_indices", "global_prompts", "local_prompts", "local_proj"}
OOD_SCORES = {"MCM": scores.mcm, "L-MCM": scores.l_mcm, "GL-MCM": scores.gl_mcm}
TIE = 1e-6  # patches are interchangeable in a support if their mean similarities differ by less


class Row(NamedTuple):
    """The largest absolute and relative error of a quantity, and the largest relative error allowed."""

    quantity: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def passed(self):
        return self.relative <= self.tolerance


def tolerance(quantity):
    """Return the allowed error of a quantity, relative to its largest magnitude."""
    if quantity.startswith(("grad_", "final_")):
        return 5e-3
    # The reference stops its transport early.
    return {"transport_plan": 2e-3, "losses": 1e-3}.get(quantity.split("/")[0], 1e-4)


def compare(quantity, ours, reference):
    """Return the Row of a quantity.

    Raises:
        ValueError: The two arrays have different shapes.
    """
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    if ours.shape != reference.shape:
        raise ValueError(
            f"{quantity} has shape {reference.shape} in the file, but its meta and prompts give {ours.shape}"
        )
    # NaN on either side counts as an infinite error.
    absolute = float(np.nan_to_num(np.abs(ours - reference), nan=np.inf).max(initial=0))
    largest = float(np.abs(reference).max(initial=0))
    return Row(quantity, absolute, absolute / largest if largest else absolute, tolerance(quantity))


def build_model(file, meta):
    """Return the model of a reference file, with its start values.

    Args:
        file: {name: array}.
        meta: the file's meta, decoded.
    """
    clip = CLIP.from_state_dict(
        {key.removeprefix("clip/"): torch.from_numpy(file[key]) for key in file if key.startswith("clip/")}
    )
    with torch.no_grad():
        clip.logit_scale.fill_(meta["logit_scale"]).log_()
    model = SparseTransportCLIP(
        clip,
        meta["class_names"],
        n_global=meta["n_global"],
        n_local=meta["n_local"],
        context=meta["template"],
        topk=meta["topk"],
        eps=meta["epsilon"],
        projection="local_proj" in file,
    )
    with torch.no_grad():
        for name, parameter in parameters(model).items():
            parameter.copy_(torch.from_numpy(file[name]))
    return model


def parameters(model):
    """Return {name in reference files: parameter} of the prompts and the projection."""
    named = {f"{branch}_prompts": model.learned[f"{branch}_prompts"].context for branch in ("global", "local")}
    if "projection" in model.learned:
        named["local_proj"] = model.learned["projection"].weight
    return named


def check_support(ours, reference, s):
    """Return the Row of two supports (B, C, K): the number and share of classes in which they differ, except for ties.

    Args:
        ours: indices of patches.
        reference: indices of patches.
        s: mean similarities, (B, P, C).
    """
    mean = s.transpose(0, 2, 1)  # (B, C, P)
    kept = [np.sort(np.take_along_axis(mean, support, axis=-1), axis=-1) for support in (ours, reference)]
    same = (np.abs(kept[0] - kept[1]) < TIE).all(axis=-1)
    return Row("support_indices", float((~same).sum()), float((~same).mean()), 0.0)


def conformance(file):
    """Return a list of Rows, one for every quantity of a reference file, {name: array}."""
    meta = json.loads(str(file["meta"]))
    model = build_model(file, meta)
    images, targets = torch.from_numpy(file["images"]), torch.from_numpy(file["targets"])
    with torch.no_grad():
        image, patches = model.clip.visual(images)
        match = model(images)
        prediction = predict(match, model.logit_scale)
        global_text, local_text = (
            model.learned[f"{branch}_prompts"].encode(model.clip) for branch in ("global", "local")
        )
        s = similarities(model.to_joint(patches, model.projection), F.normalize(local_text, dim=-1))
    ours = {
        "token_ids": open_clip.tokenize(meta["class_names"], context_length=len(model.clip.positional_embedding)),
        "image_cls_before_proj": image,
        "image_vv_tokens_before_proj": patches,
        "global_text": global_text,
        "local_text": local_text,
        "global_logits": match.g,
        "local_logits": s,
        "probs": prediction["combined"],
        "probs_global": prediction["global"],
        "probs_local": prediction["local"],
    }
    if "transport_plan" in file and "support_indices" in file:
        # On the reference's support, whose order and choice among ties check_support checks.
        support = torch.from_numpy(file["support_indices"])[..., None]
        ours["transport_plan"] = model.transport_plan(s.transpose(1, 2).take_along_dim(support, dim=2))
    for quantity in file:
        if quantity.startswith("ood/"):
            _, method, tau = quantity.split("/")
            ours[quantity] = OOD_SCORES[method](match, float(tau.removeprefix("T")))
    rows = [compare(name, value, file[name]) for name, value in ours.items() if name in file]
    if "support_indices" in file:
        rows.append(check_support(match.support.numpy(), file["support_indices"], match.s.numpy()))
    if "losses" in file:
        rows += train(model, file, meta, images, targets)
    return rows


def train(model, file, meta, images, targets):
    """Return the Rows of the SGD steps: losses, gradients of the first step, final parameters.

    Args:
        model: the model with its start values; it is trained.
        file: {name: array}.
        meta: the file's meta, decoded.
        images: (B, 3, S, S).
        targets: (B,).
    """
    learned = parameters(model)
    if "trainable" in file:
        names = tuple(str(name).split(".")[0] for name in file["trainable"])
        learned = {name: value for name, value in learned.items() if name.startswith(names)}
    optimizer = torch.optim.SGD(
        learned.values(), lr=meta["lr"], momentum=meta["momentum"], weight_decay=meta["weight_decay"]
    )
    losses, rows = [], []
    for step, drawn in enumerate(torch.from_numpy(file["dropout_indices"])):
        terms = sotglp_loss(model(images), targets, model.logit_scale, drawn)
        loss = sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            rows += [compare(f"grad_{k}", v.grad, file[f"grad_{k}"]) for k, v in learned.items() if f"grad_{k}" in file]
        optimizer.step()
        losses.append([loss.item(), terms["global"].item(), terms["local"].item()])
    rows.append(compare("losses", losses, file["losses"]))
    return rows + [
        compare(f"final_{k}", v.detach(), file[f"final_{k}"]) for k, v in learned.items() if f"final_{k}" in file
    ]
