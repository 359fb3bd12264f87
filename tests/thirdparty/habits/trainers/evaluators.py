"""An evaluator of this repository's own."""

from dassl.evaluation.build import EVALUATOR_REGISTRY
from dassl.evaluation.evaluator import Classification


@EVALUATOR_REGISTRY.register()
class TopTwo(Classification):
    """The accuracy, and how often the label is among the two highest scores."""

    def reset(self):
        super().reset()
        self._top2 = []

    def process(self, mo, gt):
        super().process(mo, gt)
        self._top2 += (mo.topk(2, dim=1).indices == gt[:, None]).any(dim=1).tolist()

    def evaluate(self):
        results = super().evaluate()
        results["top2"] = 100.0 * sum(self._top2) / len(self._top2)
        print(f"* top2: {results['top2']:.1f}%")
        return results
