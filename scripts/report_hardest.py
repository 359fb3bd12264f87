"""The section of a report with the images that most runs misclassify."""

import contextlib
import io
from collections import Counter, defaultdict
from typing import NamedTuple

import torch
from PIL import Image, ImageOps

from dassl.data.data_manager import reading
from dassl.finished import FinishedRun
from dassl.utils import UserError, read_image
from scripts import prompt_figures
from scripts.methods import unique
from scripts.report_html import grid, picture, text

HARDEST = 12  # images per data set


def hardest(groups, predictions):
    """Return the images that most runs misclassify, the surest mistakes first, per data set.

    Args:
        groups: list of Group.
        predictions: list of scripts.report_sections.Predicted.
    """
    parts = []
    for dataset in unique(group.dataset for group in groups):
        seen = defaultdict(list)
        for one in predictions:
            for row in one.rows if one.group.dataset == dataset else ():
                seen[row["path"]].append(row)
        ranked = []
        for path, rows in seen.items():
            if wrong := [row for row in rows if row["predicted"] != row["class"]]:
                sure = sum(float(row["p_predicted"]) for row in wrong) / len(wrong)
                ranked.append((-len(wrong) / len(rows), -sure, path, wrong, len(rows)))
        found = [
            Mistake(path, wrong[0]["class"], Counter(row["predicted"] for row in wrong).most_common(1)[0][0],
                    f"wrong in {len(wrong)} of {total} runs, {-sure:.0%} sure")
            for _, sure, path, wrong, total in sorted(ranked, key=lambda entry: entry[:3])[:HARDEST]
        ]  # fmt: skip
        if found:
            of_dataset = [group for group in groups if group.dataset == dataset and group.runs]
            note, figures = faces(found, of_dataset)
            parts.append(f"<h3>{text(dataset)}</h3>{note}{grid(figures, 'faces')}")
    return "".join(parts)


class Mistake(NamedTuple):
    """An image that runs take for another class.

    Attributes:
        path: the image.
        truth: its class.
        taken: the class that most runs predict.
        verdict: how many runs are wrong, and how sure they are, in words.
    """

    path: str
    truth: str
    taken: str
    verdict: str

    @property
    def caption(self):
        return f"{self.truth}, taken for {self.taken}; {self.verdict}"


def faces(mistakes, groups):
    """Return a paragraph about the overlays, and a figure per Mistake, a mere caption if the image is gone.

    Args:
        mistakes: list of Mistake.
        groups: list of Group with finished runs on the data set.
    """
    readable, how = [], how_to_read(groups)
    for mistake in mistakes:
        with contextlib.suppress(UserError):
            readable.append((mistake, read_image(mistake.path, **how)))
    note, drawn = overlays(readable, groups)
    figures = []
    for mistake in mistakes:
        if mistake in drawn:
            figures.append(picture(drawn[mistake], f"{mistake.truth}, taken for {mistake.taken}", mistake.caption))
        else:
            gone = f"{mistake.caption} (its file is gone: {mistake.path})"
            figures.append(f"<figure><figcaption>{text(gone)}</figcaption></figure>")
    return f"<p>{text(note)}</p>", figures


def how_to_read(groups):
    """Return the keyword arguments of `read_image` with which the first of the groups read its images."""
    for group in groups:
        with contextlib.suppress(UserError):  # a folder with results alone
            return reading(FinishedRun(group.folder / f"seed{min(group.runs)}").cfg)
    return {}


def overlays(readable, groups):
    """Return a note about the pictures, and {Mistake: Figure, or bytes of a PNG file}.

    A picture shows the image, and how the first loadable run of SOT-GLP with local prompts divides its patches among
    them, for the true and for the predicted class. Without such a run it shows the image alone.

    Args:
        readable: list of (Mistake, its image).
        groups: list of Group with finished runs on the data set.
    """
    reason = "no run of SOT-GLP with local prompts"
    for group in groups if readable else ():
        if group.method.trainer != "SOTGLP":
            continue
        try:
            predictor = prompt_figures.load(group.folder / f"seed{min(group.runs)}")
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            continue
        seen = prompt_figures.look(predictor, torch.stack([predictor.preprocess(image) for _, image in readable]))
        labels = prompt_figures.labels_of(predictor)
        drawn = {}
        for i, (mistake, _) in enumerate(readable):
            titles = {labels[name]: name for name in (mistake.truth, mistake.taken) if name in labels}
            drawn[mistake] = prompt_figures.draw_card(seen, i, titles)
        name = f"{group.method.name}, seed {min(group.runs)}"
        return f"Beside each image: its support for both classes, divided among the local prompts of {name}.", drawn
    return f"Without overlays of local prompts: {reason}.", {mistake: thumbnail(image) for mistake, image in readable}


def thumbnail(image):
    """Return an image, scaled to at most 128 pixels, as the bytes of a PNG file."""
    png = io.BytesIO()
    ImageOps.contain(image, (128, 128), Image.Resampling.NEAREST).save(png, "PNG")
    return png.getvalue()
