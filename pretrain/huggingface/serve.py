"""`transformers serve` for the folder that this file lies in: `python FOLDER/serve.py --port 8000`.

transformers 5.23 looks for the class of a served model in its own package only, so the class is put
there first. The server, its options and its interface are those of transformers.
"""

import sys
from pathlib import Path

import transformers
from transformers.cli.transformers import main
from transformers.dynamic_module_utils import get_class_from_dynamic_module

CLASS = "ResonanceForCausalLM"


def serve(folder: Path, options: list[str]) -> None:
    """Run the server until it is stopped."""
    loaded = get_class_from_dynamic_module(f"modeling_resonance.{CLASS}", str(folder))
    setattr(transformers, CLASS, loaded)
    sys.argv = ["transformers", "serve", str(folder), "--trust-remote-code", *options]
    main()


if __name__ == "__main__":
    serve(Path(__file__).resolve().parent, sys.argv[1:])
