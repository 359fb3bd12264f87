"""Accuracy of a batch."""


def compute_accuracy(output, target, topk=(1,)):
    """Return the share of samples whose class is among the k classes with the largest scores, in %.

    Args:
        output: (B, C) scores, or a tuple whose first item they are.
        target: (B,) labels.
        topk: The values of k.

    Returns:
        A list with a tensor of one element for each k.
    """
    if isinstance(output, (tuple, list)):
        output = output[0]
    ranked = output.topk(max(topk), dim=1).indices  # (B, max k)
    hits = ranked == target.view(-1, 1)
    return [100 * hits[:, :k].any(dim=1).float().mean().view(1) for k in topk]
