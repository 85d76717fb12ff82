"""Weights of published encoders: found on the hub, in a folder or in a file, and read without running code."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file

from stimage_qupath.errors import MissingPartError, UnknownModelError

if TYPE_CHECKING:
    from stimage_qupath.models.encoder_cards import RegisteredEncoder

MAIN = "main"
CONFIG = "config.json"
WRAPPERS = ("state_dict", "model", "teacher")
"""Under which training code puts the weights beside its own state."""
PREFIXES = ("module.", "_orig_mod.", "backbone.")
"""What parallel training, compilation and DINO put before every name."""
WIDTH_KEYS = ("num_features", "hidden_size")
"""How timm and transformers call the width of a network in ``config.json``."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A file of weights and where it came from.

    Attributes
    ----------
    path
        The file.
    commit
        Of the hub's repository; None for a local one.
    """

    path: Path
    commit: str | None = None


def find_weights(entry: RegisteredEncoder, weights: str | None, *, revision: str | None = None) -> Weights:
    """Return the file that holds an encoder's weights.

    Parameters
    ----------
    entry
        The encoder.
    weights
        A checkpoint, or a folder laid out as the hub's snapshot; None asks the hub, or what it left on this machine.
    revision
        Commit to take from the hub; None takes the entry's.

    Raises
    ------
    MissingPartError
        There are none: no file, no network, or no access to a gated repository. The message says the way out.
    UnknownModelError
        The folder is another network's.
    """
    if weights is None:
        return _from_hub(entry, revision or entry.revision or MAIN)
    folder = Path(weights)
    return Weights(_in_folder(entry, folder) if folder.is_dir() else require_file(weights))


def require_file(weights: str) -> Path:
    """Return the path of a checkpoint.

    Raises
    ------
    MissingPartError
        There is no such file.
    """
    path = Path(weights)
    if not path.is_file():
        msg = f"expected a checkpoint at {path}, found none; pass the path of a .safetensors, .bin or .pth file"
        raise MissingPartError(msg)
    return path


def on_this_machine(entry: RegisteredEncoder) -> bool:
    """Whether an earlier download is still here; nothing is fetched."""
    if entry.hub is None:
        return False
    revision = entry.revision or MAIN
    return any(isinstance(try_to_load_from_cache(entry.hub, name, revision=revision), str) for name in entry.files)


def _in_folder(entry: RegisteredEncoder, folder: Path) -> Path:
    config = folder / CONFIG
    if config.is_file():
        _check_config(entry, config)
    for name in entry.files:
        if (folder / name).is_file():
            return folder / name
    msg = f"expected {' or '.join(entry.files)} of {entry.title} in {folder}, found no such file; see {entry.page}"
    raise MissingPartError(msg)


def _check_config(entry: RegisteredEncoder, path: Path) -> None:
    """Refuse the folder of a network of another width."""
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"expected JSON in {path}, found {error}; copy the folder from {entry.page} again"
        raise UnknownModelError(msg) from error
    width = next((config[key] for key in WIDTH_KEYS if isinstance(config, dict) and key in config), None)
    expected = entry.width // 2 if entry.pooling == "class+mean" else entry.width
    if width is not None and entry.family in ("vit", "cnn") and width != expected:
        msg = f"expected the weights of {entry.title}, {expected} wide, found a network {width} wide in {path.parent}"
        raise UnknownModelError(msg)


def _from_hub(entry: RegisteredEncoder, revision: str) -> Weights:
    if entry.hub is None:
        msg = (
            f"expected a checkpoint of {entry.title}, which no hub offers; "
            f"download one from {entry.page} and pass it as --encoder-weights"
        )
        raise MissingPartError(msg)
    failure: Exception | None = None
    for name in entry.files:
        try:
            path = Path(hf_hub_download(entry.hub, name, revision=revision))
        except RepositoryNotFoundError as error:  # a gated one to which this machine has no access is one of these
            refused = entry.gated or isinstance(error, GatedRepoError)
            raise MissingPartError(_no_access(entry) if refused else _no_way(entry, revision, error)) from error
        except EntryNotFoundError as error:  # the repository may call its weights by the next name
            failure = error
        except OSError as error:
            raise MissingPartError(_no_way(entry, revision, error)) from error
        else:
            return Weights(path, commit=path.parent.name)
    raise MissingPartError(_no_way(entry, revision, failure)) from failure


def _no_access(entry: RegisteredEncoder) -> str:
    return (
        f"expected access to the weights of {entry.title}, found that the hub refuses this machine's token; "
        f"ask for access at {entry.page}, then set HF_TOKEN or run `hf auth login`"
    )


def _no_way(entry: RegisteredEncoder, revision: str, error: Exception | None) -> str:
    return (
        f"expected the weights of {entry.title}, found none on this machine and none to be had ({_first_line(error)}); "
        f"connect once, or copy {entry.page}/tree/{revision} to this machine and pass its folder as --encoder-weights"
    )


def _first_line(error: Exception | None) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint's tensors by name; nothing in it is run.

    What training code wraps around them (``state_dict``, ``module.``, ...) is taken off.

    Raises
    ------
    UnknownModelError
        The file holds no tensors, or something else than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        reason = _first_line(error)
        msg = (
            f"expected a checkpoint of plain tensors in {path}, found one that cannot be read ({reason}); copy it again"
        )
        raise UnknownModelError(msg) from error
    while isinstance(content, dict) and (
        inner := next((w for w in WRAPPERS if isinstance(content.get(w), dict)), None)
    ):
        content = content[inner]
    if not isinstance(content, dict) or not content or not all(isinstance(t, torch.Tensor) for t in content.values()):
        msg = f"expected a checkpoint of named tensors in {path}, found {type(content).__name__} of something else"
        raise UnknownModelError(msg)
    return _without_prefixes(content)


def _without_prefixes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in PREFIXES:
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state
