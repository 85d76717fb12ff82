"""The model folder: ``model.json`` (the card) beside ``heads.safetensors``. Never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.numpy import save as save_tensors
from safetensors.torch import save as save_torch
from torch import Tensor

from stimage_qupath import __version__
from stimage_qupath.config import STARTER
from stimage_qupath.errors import UnknownGeneError, UnknownModelError
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.models.checked_weights import read_checked
from stimage_qupath.models.encoders import Encoder
from stimage_qupath.models.ensemble import Ensemble, Heads
from stimage_qupath.models.high_low import HighLow
from stimage_qupath.models.recalibration import Recalibration
from stimage_qupath.models.recorded_encoder import TunedWeights, load_recorded
from stimage_qupath.models.uncertainty import OutlierScore
from stimage_qupath.names import ENCODER_SAFETENSORS, HEADS_SAFETENSORS, MODEL_JSON, research_use
from stimage_qupath.results import Panel

FORMAT = 2
REQUIRED = ("format", "name", "panel", "default_genes", "encoder", "reference_total", "training", "files")


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model.

    Attributes
    ----------
    card
        Everything ``model.json`` says.
    sha256
        Of ``model.json``, which holds the hashes of the weights: one hash stands for the whole model.
    encoder, ensemble
        The two halves, ready to run.
    """

    card: Mapping[str, Any]
    sha256: str
    encoder: Encoder
    ensemble: Ensemble

    @property
    def name(self) -> str:
        """Name on the card."""
        return str(self.card["name"])

    @property
    def panel(self) -> Panel:
        """Genes the model predicts."""
        return self.ensemble.panel

    @property
    def default_genes(self) -> tuple[str, ...]:
        """Genes that QuPath gets unless others are asked for."""
        return tuple(self.card["default_genes"])

    @property
    def research_use(self) -> str:
        """Sentence that every output shows."""
        return research_use(int(self.card["training"]["patients"]))

    def choose_genes(self, asked: tuple[str, ...]) -> tuple[str, ...]:
        """Return the genes to write: those asked for, else the default list.

        Raises
        ------
        UnknownGeneError
            A gene is not in the panel; the message names those that look like it.
        """
        if not asked:
            return self.default_genes
        unknown = [gene for gene in asked if gene not in self.panel.genes]
        if unknown:
            close = [g for g in self.panel if g.upper().startswith(unknown[0].upper()[:3])][:5]
            hint = f"; close to it: {', '.join(close)}" if close else ""
            msg = (
                f"expected genes of the panel of model '{self.name}' ({len(self.panel)} genes), "
                f"found {', '.join(unknown)}{hint}"
            )
            raise UnknownGeneError(msg)
        return tuple(dict.fromkeys(asked))

    def unsupported(self, genes: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of ``genes`` whose held-out interval does not exclude 0."""
        figures: Mapping[str, Any] = self.card.get("genes", {})
        return tuple(g for g in genes if g not in figures or not figures[g]["ci"][0] > 0)


def save_model(folder: Path, card: Mapping[str, Any], ensemble: Ensemble) -> None:
    """Write card and weights into an existing folder; hashes and versions are added to the card.

    Weights of an encoder that was learnt with the model stand there already.

    Raises
    ------
    OutputError
        The disk is full or not writable.
    """
    heads, outliers = ensemble.heads, ensemble.outliers
    tensors = {name: getattr(heads, name) for name in Heads.__dataclass_fields__}
    tensors["outlier_components"] = outliers.components
    tensors["outlier_scale"] = np.array([outliers.residual_variance, outliers.limit], dtype=np.float64)
    tensors |= ensemble.recalibration.tensors() | {"high_threshold": ensemble.high_low.threshold}
    # safetensors writes the memory of an array as it lies: a transposed one would come back scrambled.
    weights = save_tensors({name: np.ascontiguousarray(values) for name, values in tensors.items()})
    with output_errors(folder):
        (folder / HEADS_SAFETENSORS).write_bytes(weights)
    full = {
        "format": FORMAT,
        **card,
        "panel": list(ensemble.panel),
        "package_version": __version__,
        "files": {HEADS_SAFETENSORS: hashlib.sha256(weights).hexdigest(), **_encoder_file(folder)},
    }
    with output_errors(folder):
        (folder / MODEL_JSON).write_text(json.dumps(full, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_model(name: str) -> Model:
    """Load ``starter`` (ships with the package) or the model folder at a path.

    Raises
    ------
    UnknownModelError
        No such model, or the folder is not one, is damaged or of a newer format.
    """
    folder = model_folder(name)
    try:
        text = (folder / MODEL_JSON).read_bytes()
        card = json.loads(text)
    except (OSError, ValueError) as error:
        msg = f"expected a model folder with a readable {MODEL_JSON} at {folder}, found {error}"
        raise UnknownModelError(msg) from error
    _check_card(card, folder)
    tensors = read_checked(folder / HEADS_SAFETENSORS, card["files"].get(HEADS_SAFETENSORS))
    try:
        heads = Heads(**{key: tensors[key] for key in Heads.__dataclass_fields__})
        variance, limit = tensors["outlier_scale"].tolist()
        ensemble = Ensemble(
            panel=Panel(tuple(card["panel"])),
            heads=heads,
            outliers=OutlierScore(tensors["outlier_components"], variance, limit),
            recalibration=Recalibration.from_tensors(tensors, patients=int(card["training"]["patients"])),
            high_low=HighLow(tensors["high_threshold"]),
        )
    except (KeyError, ValueError) as error:
        msg = f"the model at {folder} is damaged: {error}"
        raise UnknownModelError(msg) from error
    try:
        encoder = load_recorded(card["encoder"], _tuned_weights(folder, card))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"expected an encoder of this version in {folder / MODEL_JSON}, found one that it cannot read: {error!r}"
        raise UnknownModelError(msg) from error
    if encoder.card.width != len(heads.feature_mean):
        msg = (
            f"expected {len(heads.feature_mean)} features for the model at {folder}, found {encoder.card.width} from "
            f"encoder {encoder.card.name}; train the model again with this version"
        )
        raise UnknownModelError(msg)
    return Model(card=card, sha256=hashlib.sha256(text).hexdigest(), encoder=encoder, ensemble=ensemble)


def write_encoder(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of an encoder that was learnt with a model, all tensors of its network by name."""
    with output_errors(folder):
        (folder / ENCODER_SAFETENSORS).write_bytes(save_torch({k: v.cpu().contiguous() for k, v in weights.items()}))


def _encoder_file(folder: Path) -> dict[str, str]:
    path = folder / ENCODER_SAFETENSORS
    return {ENCODER_SAFETENSORS: hashlib.sha256(path.read_bytes()).hexdigest()} if path.is_file() else {}


def _tuned_weights(folder: Path, card: Mapping[str, Any]) -> TunedWeights | None:
    if ENCODER_SAFETENSORS not in card["files"]:
        return None
    weights = read_checked(folder / ENCODER_SAFETENSORS, card["files"][ENCODER_SAFETENSORS])
    seen = frozenset(card.get("images_seen", {}).get("encoder", ()))
    return TunedWeights({name: torch.tensor(values) for name, values in weights.items()}, seen)


def model_folder(name: str) -> Path:
    """Return the folder of ``starter`` or of the model at a path.

    Raises
    ------
    UnknownModelError
        There is no such folder.
    """
    if name == STARTER:
        return Path(str(resources.files("stimage_qupath") / STARTER))
    folder = Path(name)
    if not folder.is_dir():
        msg = f"expected '{STARTER}' or the path of a model folder, found nothing at {folder}; pass --model"
        raise UnknownModelError(msg)
    return folder


def _check_card(card: Any, folder: Path) -> None:
    missing = [key for key in REQUIRED if not isinstance(card, dict) or key not in card]
    if missing:
        msg = f"expected a model card in {folder / MODEL_JSON}, found one without {', '.join(missing)}"
        raise UnknownModelError(msg)
    if card["format"] != FORMAT:
        msg = f"expected a model of format {FORMAT} at {folder}, found {card['format']}; update stimage-qupath"
        raise UnknownModelError(msg)
    wrong = [key for key, is_right in SHAPES.items() if not is_right(card[key])]
    if not wrong and not set(card["default_genes"]) <= set(card["panel"]):
        wrong = ["default_genes"]
    if wrong:
        key = wrong[0]
        msg = f"expected a model card in {folder / MODEL_JSON}, found {key} that is none: {str(card[key])[:60]!r}"
        raise UnknownModelError(msg)


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_word, value))


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()  # HDF5 holds no NUL, a sentence no new line


def _is_training(value: Any) -> bool:
    patients = value.get("patients") if isinstance(value, dict) else None
    return isinstance(patients, int) and not isinstance(patients, bool) and patients >= 1


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _are_files(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


SHAPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "name": _is_word,
    "panel": _are_words,
    "default_genes": _are_words,
    "encoder": lambda value: isinstance(value, dict),
    "reference_total": _is_positive,
    "training": _is_training,
    "files": _are_files,
}
"""What the loading of a model rests on."""
