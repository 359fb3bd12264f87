"""CLIP's tokenizer (byte-pair encoding) under OpenAI's name."""

from open_clip import tokenizer


class SimpleTokenizer(tokenizer.SimpleTokenizer):
    """open_clip's tokenizer, in which the two special tokens also have OpenAI's names."""

    def __init__(self):
        super().__init__()
        for name, token in (("<|startoftext|>", self.sot_token_id), ("<|endoftext|>", self.eot_token_id)):
            self.encoder[name] = token
            self.decoder[token] = name
