"""The `[objective]` table: what a run learns (imports no torch)."""

from typing import Literal

from pydantic import Field

from spectral.config import ModelConfig
from spectral.config_table import Positive, Table


class ObjectiveConfig(Table):
    """The `[objective]` table: what a run learns from its rows."""

    kind: Literal["next_token", "masked_token", "classify", "text_to_text"] = Field(
        "next_token",
        description="Predict every next token, predict tokens that are masked (an encoder), "
        "predict labels of texts (a classifier), or write the target of a source.",
    )
    mask_rate: float = Field(
        0.3, gt=0.0, lt=1.0, description="Share of the tokens that are predicted."
    )
    mask_span: Positive = Field(
        1, description="Neighbouring tokens that are masked together; spans end with the text."
    )
    mask_random: float = Field(
        0.1, ge=0.0, le=1.0, description="Share of predicted tokens that become a random token."
    )
    mask_keep: float = Field(
        0.1, ge=0.0, le=1.0, description="Share of predicted tokens that are shown as they are."
    )
    labels: tuple[str, ...] = Field(
        (), description="Names of the classes; empty for those of the data, in their order."
    )

    def problem(self, model: ModelConfig) -> str:
        """Why a model cannot learn this; empty if it can."""
        if self.mask_random + self.mask_keep > 1.0:
            return (
                "objective.mask_random and mask_keep are shares of the predicted tokens; expected "
                f"at most 1 together, got {self.mask_random} and {self.mask_keep}"
            )
        if self.kind == "next_token" and not model.causal:
            return (
                "model.causal must be true to predict next tokens, got false: such a model reads "
                "the tokens that it would predict. objective.kind masked_token or classify trains "
                "it"
            )
        if self.kind == "masked_token" and model.causal:
            return (
                "model.causal must be false with objective.kind masked_token, got true: masked "
                "tokens are predicted from both sides"
            )
        if self.kind == "classify" and not model.classes:
            return (
                "model.classes is 0 with objective.kind classify; expected the number of labels of "
                "the data"
            )
        if self.kind != "classify" and model.classes:
            return (
                f"model.classes is {model.classes} with objective.kind {self.kind}, which predicts "
                "tokens; expected 0, or objective.kind classify"
            )
        if (self.kind == "text_to_text") != bool(model.source_layers):
            return (
                f"model.source_layers is {model.source_layers} with objective.kind {self.kind}; "
                "expected layers that read sources with text_to_text, and 0 with others"
            )
        if self.labels and model.classes and len(self.labels) != model.classes:
            return (
                f"objective.labels has {len(self.labels)} names; expected model.classes, "
                f"{model.classes}"
            )
        return ""
