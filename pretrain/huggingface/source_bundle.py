"""The source files that travel with an exported model: copied, with only their imports changed."""

import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "pretrain.huggingface.modeling_resonance"
OWN = ("kernels", "spectral", "pretrain")
# namespace of the torch operators; in an export each module has its own, because a second
# registration of an operator destroys the first, and copies of an export may share a process
OPERATORS = '"resonance::'
OWN_OPERATORS = 'f"resonance_{__name__.encode().hex()}::'
# the exported configuration has the same attributes, and needs no pydantic
RENAMED = {
    "spectral.config": "pretrain.huggingface.configuration_resonance",
    "spectral.feed_forward.config": "pretrain.huggingface.configuration_resonance",
    "spectral.gates.config": "pretrain.huggingface.configuration_resonance",
    "ModelConfig": "ResonanceConfig as ModelConfig",
    "ExpertsConfig": "Table as ExpertsConfig",
    "GatesConfig": "Table as GatesConfig",
}

# transformers follows only `from .module import names`, so bundled files import in no other way
_IMPORT = re.compile(r"^from ([\w.]+) import (\([^)]*\)|.+)$", re.MULTILINE)


def bundled_sources(entry: str = ENTRY) -> dict[str, str]:
    """Texts of all modules that an exported model imports, by file name.

    A folder of transformers' remote code is flat, so the full module name becomes the file name.

    Args:
        entry: Module of the exported classes.
    """
    pending, sources = [entry], {}
    while pending:
        module = pending.pop()
        name = _file_name(module)
        if f"{name}.py" in sources:
            continue
        text = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        needed: list[str] = []
        text = _IMPORT.sub(functools.partial(_rewrite, needed), text)
        sources[f"{name}.py"] = text
        pending += needed
    return {name: text.replace(OPERATORS, OWN_OPERATORS) for name, text in sources.items()}


def _rewrite(needed: list[str], match: re.Match[str]) -> str:
    module, names = match.groups()
    if module.split(".")[0] not in OWN:
        return match.group()
    module = RENAMED.get(module, module)
    needed.append(module)
    return f"from .{_file_name(module)} import {RENAMED.get(names, names)}"


def _file_name(module: str) -> str:
    # configuration_* and modeling_* keep the names that are usual in transformers
    parts = module.split(".")
    return parts[-1] if parts[:2] == ["pretrain", "huggingface"] else "_".join(parts)
