"""The source files that travel with an exported model: copied, with only their imports changed."""

import functools
import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "pretrain.huggingface.modeling_resonance"
OWN = ("kernels", "spectral", "pretrain")
# our torch operators; exported ones are named by their sources: several may share a process
OPERATORS = "resonance::"
# the exported configuration has the same attributes, and needs no pydantic
RENAMED = {
    "spectral.config": "pretrain.huggingface.configuration_resonance",
    "spectral.feed_forward.config": "pretrain.huggingface.configuration_resonance",
    "spectral.gates.config": "pretrain.huggingface.configuration_resonance",
    "ModelConfig": "ResonanceConfig as ModelConfig",
    "ExpertsConfig": "Table as ExpertsConfig",
    "GatesConfig": "Table as GatesConfig",
}

# transformers follows `from .module import names` only, so bundled files import in no other way
_IMPORT = re.compile(r"^from ([\w.]+) import (\([^)]*\)|.+)$", re.MULTILINE)


def bundled_sources() -> dict[str, str]:
    """File name -> text of every module that an exported model needs, found by its imports.

    A folder of transformers' remote code is flat, so a module's name becomes its file's name.
    """
    pending, sources = [ENTRY], {}
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
    digest = hashlib.sha256("".join(sources[name] for name in sorted(sources)).encode()).hexdigest()
    return {
        name: text.replace(OPERATORS, f"resonance_{digest[:12]}::")
        for name, text in sources.items()
    }


def _rewrite(needed: list[str], match: re.Match[str]) -> str:
    module, names = match.groups()
    if module.split(".")[0] not in OWN:
        return match.group()
    module = RENAMED.get(module, module)
    needed.append(module)
    return f"from .{_file_name(module)} import {RENAMED.get(names, names)}"


def _file_name(module: str) -> str:
    # configuration_* and modeling_* keep the names that transformers' users know
    parts = module.split(".")
    return parts[-1] if parts[:2] == ["pretrain", "huggingface"] else "_".join(parts)
