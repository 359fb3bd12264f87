"""OpenAI's `clip` module for trainers of the CoOp family, with this project's weights and tokenizer."""

from .clip import available_models, build_model, load, tokenize

__all__ = ["available_models", "build_model", "load", "tokenize"]

# CoOp and its successors write `from clip import clip` and use private names of that module; others `import clip`.
from .clip import _MODELS, _download  # noqa: E402, F401
