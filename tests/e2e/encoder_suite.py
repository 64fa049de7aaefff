"""transformers' common model tests on encoders and classifiers; as `transformers_suite.py`."""

from typing import Any

import test_resonance as causal
import torch
from hf_tests.test_modeling_common import ids_tensor

from pretrain.huggingface.configuration_resonance import ResonanceConfig
from pretrain.huggingface.modeling_resonance_encoder import (
    ResonanceEncoderModel,
    ResonanceForMaskedLM,
    ResonanceForSequenceClassification,
)

LABELS = {ResonanceForMaskedLM: [3, 12], ResonanceForSequenceClassification: [3]}


class Tester(causal.Tester):
    """A tiny bidirectional model of two labels."""

    def get_config(self) -> ResonanceConfig:
        """Its configuration."""
        config = super().get_config()
        config.causal, config.num_labels = False, 2
        return config


class ResonanceEncoderTest(causal.ResonanceModelTest):
    """The common tests."""

    all_model_classes = (
        ResonanceEncoderModel,
        ResonanceForMaskedLM,
        ResonanceForSequenceClassification,
    )

    def setUp(self) -> None:
        self.model_tester = Tester()

    def _prepare_for_class(
        self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False
    ) -> dict[str, Any]:
        inputs: dict[str, Any] = super()._prepare_for_class(inputs_dict, model_class)
        if return_labels and model_class in LABELS:
            inputs["labels"] = ids_tensor(LABELS[model_class], 2).to(torch.long)
        return inputs


# collected where it is defined
del causal
