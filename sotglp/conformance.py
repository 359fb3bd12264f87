"""Check this implementation against reference numbers: ``python -m sotglp.conformance FILE.npz``.

The file holds a CLIP in OpenAI's format (``clip/*``), ``meta`` (JSON), images, targets and start values, and what a
reference implementation made of them (the format of ``tests/data/sotglp_reference.npz``). Everything in it is
computed again by the parts that training uses; a table lists the largest errors.

Exit code: 0 all agree, 1 an error is too large, 2 the file cannot be used.
"""

import argparse
import json
import sys
import zipfile
from typing import NamedTuple

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from tabulate import tabulate

from sotglp import scores
from sotglp.clip import CLIP
from sotglp.loss import sotglp_loss
from sotglp.matching import similarities
from sotglp.model import SOTGLP

INPUTS = {"meta", "images", "targets", "trainable", "dropout_indices", "global_prompts", "local_prompts", "local_proj"}
OOD_SCORES = {"MCM": scores.mcm, "L-MCM": scores.l_mcm, "GL-MCM": scores.gl_mcm}
TIE = 1e-6  # patches whose mean similarities differ by less may stand for each other in a support


class Row(NamedTuple):
    quantity: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def passed(self):
        return self.relative <= self.tolerance


def tolerance(quantity):
    """Allowed error, relative to the quantity's largest magnitude."""
    if quantity.startswith(("grad_", "final_")):
        return 5e-3
    # The reference stops its transport early.
    return {"transport_plan": 2e-3, "losses": 1e-3}.get(quantity.split("/")[0], 1e-4)


def compare(quantity, ours, reference):
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    if ours.shape != reference.shape:
        raise ValueError(
            f"{quantity} has shape {reference.shape} in the file, but {ours.shape} by its meta and prompts"
        )
    # A NaN on either side is an error, not a number to compare with.
    absolute = float(np.nan_to_num(np.abs(ours - reference), nan=np.inf).max(initial=0))
    largest = float(np.abs(reference).max(initial=0))
    return Row(quantity, absolute, absolute / largest if largest else absolute, tolerance(quantity))


def build_model(file, meta):
    """The SOTGLP model that a reference file describes, with its start values."""
    clip = CLIP.from_state_dict(
        {key.removeprefix("clip/"): torch.from_numpy(file[key]) for key in file if key.startswith("clip/")}
    )
    with torch.no_grad():
        clip.logit_scale.fill_(meta["logit_scale"]).log_()
    model = SOTGLP(
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
    """The prompts and the projection by the names that reference files give them."""
    named = {f"{branch}_prompts": model.learned[f"{branch}_prompts"].context for branch in ("global", "local")}
    if "projection" in model.learned:
        named["local_proj"] = model.learned["projection"].weight
    return named


def check_support(ours, reference, s):
    """Whether two supports (B, C, K) agree up to ties of s (B, P, C): the share of classes in which they do not."""
    mean = s.transpose(0, 2, 1)  # (B, C, P)
    kept = [np.sort(np.take_along_axis(mean, support, axis=-1), axis=-1) for support in (ours, reference)]
    same = (np.abs(kept[0] - kept[1]) < TIE).all(axis=-1)
    return Row("support_indices", float((~same).sum()), float((~same).mean()), 0.0)


def conformance(file):
    """Rows for every quantity of a reference file, a mapping from names to arrays."""
    meta = json.loads(str(file["meta"]))
    model = build_model(file, meta)
    images, targets = torch.from_numpy(file["images"]), torch.from_numpy(file["targets"])
    with torch.no_grad():
        image, patches = model.clip.visual(images)
        match = model(images)
        prediction = scores.predict(match, model.logit_scale)
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
        "probs": prediction.combined,
        "probs_global": prediction.global_,
        "probs_local": prediction.local,
    }
    if "transport_plan" in file and "support_indices" in file:
        # On the reference's support: its order, and its choice between equal patches, are checked apart.
        support = torch.from_numpy(file["support_indices"])[..., None]
        ours["transport_plan"] = model.plan(s.transpose(1, 2).take_along_dim(support, dim=2))
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
    """Rows of the SGD steps: losses, gradients of the first step, final parameters."""
    learned = parameters(model)
    if "trainable" in file:
        names = tuple(str(name).split(".")[0] for name in file["trainable"])
        learned = {name: value for name, value in learned.items() if name.startswith(names)}
    optimizer = torch.optim.SGD(
        learned.values(), lr=meta["lr"], momentum=meta["momentum"], weight_decay=meta["weight_decay"]
    )
    losses, rows = [], []
    for step, drawn in enumerate(torch.from_numpy(file["dropout_indices"])):
        loss_global, loss_local = sotglp_loss(model(images), targets, model.logit_scale, drawn)
        loss = loss_global + loss_local
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            rows += [compare(f"grad_{k}", v.grad, file[f"grad_{k}"]) for k, v in learned.items() if f"grad_{k}" in file]
        optimizer.step()
        losses.append([loss.item(), loss_global.item(), loss_local.item()])
    rows.append(compare("losses", losses, file["losses"]))
    return rows + [
        compare(f"final_{k}", v.detach(), file[f"final_{k}"]) for k, v in learned.items() if f"final_{k}" in file
    ]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="reference numbers, .npz")
    path = parser.parse_args(argv).file
    try:
        with np.load(path, allow_pickle=False) as archive:
            file = dict(archive)
        rows = conformance(file)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        print(f"error: {path} is no usable reference file: {error}", file=sys.stderr)
        return 2
    table = [(*row, "ok" if row.passed else "FAILED") for row in rows]
    headers = ["quantity", "largest error", "relative", "tolerance", ""]
    print(tabulate(table, headers, floatfmt=("", ".1e", ".1e", ".0e")))
    failed = sum(not row.passed for row in rows)
    unknown = {key for key in file if not key.startswith("clip/")} - INPUTS - {row.quantity for row in rows}
    if unknown:
        print(f"not known, and so not checked: {', '.join(sorted(unknown))}")
    print(f"{len(rows) - failed} of {len(rows)} quantities agree with {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
