#!/usr/bin/env python3
"""Write cbam/cards/synonyms.tsv: the names that WordNet 3.0 has for the bundled models' classes.

    apt install wordnet-base
    python scripts/synonyms.py /usr/share/wordnet/data.noun

A WordNet id, "n02123045", is the part of speech and the place in WordNet's file of nouns. Its
licence and copyright notice, which must stay with every copy, come first in both files.
"""

import sys
from pathlib import Path

from cbam.cards.families import available

TARGET = Path(__file__).parent.parent / "cbam" / "cards" / "synonyms.tsv"


def names(nouns: Path) -> tuple[list[str], dict[str, list[str]]]:
    """The licence's lines, and WordNet id -> names, from WordNet's `data.noun` (see wndb(5))."""
    licence: list[str] = []
    found: dict[str, list[str]] = {}
    for line in nouns.read_text(encoding="ascii").splitlines():
        if line.startswith(" "):  # "  14 WordNet 3.0 Copyright 2006 by Princeton University ..."
            licence.append(" ".join(line.split()[1:]))
            continue
        place, _, _, count, *rest = line.split()
        words = rest[: 2 * int(count, 16) : 2]  # each is followed by a number
        found[f"n{place}"] = [word.replace("_", " ") for word in words]
    return licence, found


def main(nouns: Path) -> None:
    licence, found = names(nouns)
    wanted = sorted({folder for card in available().values() for folder in card.folders})
    missing = [each for each in wanted if each not in found]
    if missing:
        sys.exit(f"{nouns} is not WordNet 3.0: it lacks {', '.join(missing[:5])}.")
    notice = "".join(f"# {line}".rstrip() + "\n" for line in licence)
    rows = "".join(f"{each}\t{'; '.join(found[each])}\n" for each in wanted)
    TARGET.write_text(notice + rows, encoding="utf-8")
    print(f"{TARGET}: names of {len(wanted)} classes")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
