"""Losses of held-out batches, with or without pipeline stages."""

from typing import Any


def evaluator(engine: Any) -> Any:
    """A callable for losses of held-out batches: the engine itself, or its stages together."""
    if not hasattr(engine, "eval_batch"):
        return engine
    from pretrain.parallel.pipeline_parallel import PipelineEvaluator

    return PipelineEvaluator(engine)
