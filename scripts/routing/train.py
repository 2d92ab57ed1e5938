"""Trains the classifier of prompts and writes its weights; two minutes of a processor, and the standard library alone.

    python -m scripts.routing.train PROMPTS.jsonl.gz [WEIGHTS]          (from the project's folder)

WEIGHTS is otherwise the file that is shipped. The same prompts give the same bytes.
"""

import argparse
from pathlib import Path

from mcp_gateway.core.routing.classifier.weights import FILE, MOST_BYTES
from scripts.routing.labelled import read
from scripts.routing.training import judged, temperature_for, weights_file, with_unseen_sources


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(";")[0])
    parser.add_argument("prompts", type=Path)
    parser.add_argument("weights", type=Path, nargs="?", default=FILE)
    asked = parser.parse_args(arguments)
    prompts = read(asked.prompts)
    temperature = temperature_for(one for made, unseen in with_unseen_sources(prompts) for one in judged(made, unseen))
    content = weights_file(prompts, temperature)
    if len(content) > MOST_BYTES:
        raise SystemExit(f"The weights take {len(content)} bytes, of {MOST_BYTES} that they may.")
    asked.weights.write_bytes(content)
    print(f"{len(prompts)} prompts, temperature {temperature}, {len(content)} bytes: {asked.weights}")


if __name__ == "__main__":
    main()
