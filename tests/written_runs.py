"""Folders of finished runs, written by hand."""

import json


def write_runs(
    folder,
    accuracies,
    dataset="FashionMNIST",
    backbone="small",
    shots=16,
    trainer="CoOp",
    protocol="published",
    split="",
    **extra,
):
    """Runs of seeds 1, 2, ... with these accuracies; None is a run that is not finished.

    A split stands for its test images; each seed has training images of its own.
    """
    for seed, accuracy in enumerate(accuracies, 1):
        if accuracy is not None:
            run = {"metrics": {"accuracy": accuracy, **extra}, "seed": seed, "trainer": trainer, "seconds": 10.0 * seed}
            run.update(dataset=dataset, shots=shots, protocol=protocol, backbone=backbone, epochs=50)
            if split:
                run["split_hash"] = {"train": f"{split}, seed {seed}", "test": split}
            (folder / f"seed{seed}").mkdir(parents=True)
            (folder / f"seed{seed}" / "results.json").write_text(json.dumps(run))
    return folder
