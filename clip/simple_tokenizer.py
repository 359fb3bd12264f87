"""The BPE of CLIP under OpenAI's name."""

from open_clip import tokenizer


class SimpleTokenizer(tokenizer.SimpleTokenizer):
    """open_clip's tokenizer; the two special tokens have OpenAI's names too."""

    def __init__(self):
        super().__init__()
        for name, token in (("<|startoftext|>", self.sot_token_id), ("<|endoftext|>", self.eot_token_id)):
            self.encoder[name] = token
            self.decoder[token] = name
