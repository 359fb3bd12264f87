"""OpenAI's `clip` module as trainers of the CoOp family use it, over this project's weights and tokenizer."""

from .clip import available_models, build_model, load, tokenize

__all__ = ["available_models", "build_model", "load", "tokenize"]

# CoOp and those after it write `from clip import clip` and then use that module's private names; others `import clip`.
from .clip import _MODELS, _download  # noqa: E402, F401
