"""Weights of the pretrained networks as arrays: what a network is, its files, and checks of what is read. No torch."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays

from predictors.errors import PredictorError, PredictorFileError
from predictors.relations import HEADS, RELATIONS, field_sizes
from predictors.tokens import PAD, TEXT_RELATIONS, UNKNOWN, text_sizes

NETWORKS = ("graph", "text")
FOLDER = Path(__file__).parent / "pretrained"
NETWORK_VERSION = 1  # raised when the same weights would give other numbers
_MOST = {"width": 1024, "inner": 4096, "layers": 24, "outputs": 1024, "heads": 16}
_MOST_WORDS, _LONGEST_WORD = 4096, 64
_LARGEST = 1e4  # of a weight
_HEADER_LENGTH = 8

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Network:
    """A pretrained network: it makes `outputs` numbers of a cell, of which the first has a meaning of its own.

    `kind` is "graph" or "text", `vocabulary` the words that it knows, `arrays` its weights by name. The first output
    says what an untrained stack of the cell makes of neighbouring tokens together, the others are components of
    the encoding of `predictors.encode`; all as foreseen from the graph or the text alone.
    """

    kind: str
    vocabulary: tuple[str, ...]
    sizes: Mapping[str, int]  # width, inner, layers, heads, outputs
    arrays: Arrays

    def header(self) -> str:
        """All but the arrays, as JSON that `restored` takes."""
        about = {"version": NETWORK_VERSION, "kind": self.kind, "vocabulary": list(self.vocabulary)}
        return json.dumps({**about, "sizes": dict(self.sizes)})


def shapes(kind: str, words: int, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The shape of each array of a network."""
    width, inner, outputs = sizes["width"], sizes["inner"], sizes["outputs"]
    vocabulary = [""] * words
    fields = field_sizes(vocabulary) if kind == "graph" else text_sizes(vocabulary)
    relations = RELATIONS if kind == "graph" else TEXT_RELATIONS
    found: dict[str, tuple[int, ...]] = {f"embed{i}": (size, width) for i, size in enumerate(fields)}
    for layer in range(sizes["layers"]):
        found |= {
            f"layer{layer}.norm": (width,),
            f"layer{layer}.attend": (3 * width, width),
            f"layer{layer}.relations": (sizes["heads"], relations),
            f"layer{layer}.merge": (width, width),
            f"layer{layer}.norm2": (width,),
            f"layer{layer}.up": (inner, width),
            f"layer{layer}.up_bias": (inner,),
            f"layer{layer}.down": (width, inner),
        }
    return found | {
        "norm": (width,),
        "read": (2 * width, 2 * width),
        "read_bias": (2 * width,),
        "head": (outputs, 2 * width),
        "head_bias": (outputs,),
    }


def restored(header: Any, arrays: Mapping[str, NDArray[Any]]) -> Network:
    """The network of a header and arrays that were read. Raises PredictorFileError where they do not fit each other."""
    about = _json(header)
    kind, words, sizes = about.get("kind"), about.get("vocabulary"), about.get("sizes")
    if about.get("version") != NETWORK_VERSION or kind not in NETWORKS:
        raise PredictorFileError(
            f"this version reads networks of version {NETWORK_VERSION} of kinds {', '.join(NETWORKS)}"
        )
    if not (
        isinstance(words, list)
        and len(words) <= _MOST_WORDS
        and all(isinstance(word, str) and len(word) <= _LONGEST_WORD for word in words)
        and {PAD, UNKNOWN} <= set(words)
    ):
        raise PredictorFileError(f"the vocabulary of a network has at most {_MOST_WORDS} short words")
    if not isinstance(sizes, dict) or set(sizes) != set(_MOST):
        raise PredictorFileError(f"the sizes of a network are {', '.join(_MOST)}")
    for name, most in _MOST.items():
        if type(sizes[name]) is not int or not 1 <= sizes[name] <= most:
            raise PredictorFileError(f"the {name} of a network is a whole number from 1 to {most}")
    if sizes["width"] % sizes["heads"] or sizes["heads"] != len(HEADS):
        raise PredictorFileError(f"{sizes['heads']} heads do not fit this network")
    expected = shapes(kind, len(words), sizes)
    for name, shape in expected.items():
        array = arrays.get(name)
        if array is None or array.dtype != np.float32 or array.shape != shape:
            raise PredictorFileError(f"the network's `{name}` is float32 of the shape {list(shape)}")
        if not np.abs(array).max(initial=0.0) <= _LARGEST:
            raise PredictorFileError(f"the network's `{name}` has numbers that are not finite, or too large")
    return Network(kind, tuple(words), sizes, {name: arrays[name] for name in expected})


def _json(header: Any) -> dict[str, Any]:
    try:
        about = json.loads(header)
    except (ValueError, TypeError, RecursionError) as error:
        raise PredictorFileError(f"the header of the network is not JSON: {error}") from error
    if not isinstance(about, dict):
        raise PredictorFileError("the header of the network is not a JSON object")
    return about


def save_network(network: Network, path: Path, about: Mapping[str, Any]) -> None:
    """Write the weights in 16 bits, with `about`, which says how they came about."""
    arrays = {name: array.astype(np.float16) for name, array in network.arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(write_arrays(arrays, {"recell_network": network.header(), "about": json.dumps(about)}))


def load_network(path: Path) -> Network:
    """The network in a file of `save_network`. Raises PredictorFileError where it is none, or damaged."""
    try:
        data = path.read_bytes()
        arrays = read_arrays(data)
        length = int.from_bytes(data[:_HEADER_LENGTH], "little")
        header = json.loads(data[_HEADER_LENGTH : _HEADER_LENGTH + length])
    except OSError as error:
        raise PredictorFileError(f"cannot read the network {path}: {error.strerror}") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise PredictorFileError(f"{path}: the file is damaged or not complete: {error}") from error
    try:
        wide = {name: array.astype(np.float32) for name, array in arrays.items()}
        return restored(header.get("__metadata__", {}).get("recell_network"), wide)
    except PredictorFileError as error:
        raise PredictorFileError(f"{path}: {error}") from error


@functools.cache
def pretrained(kind: str) -> Network:
    """The network that comes with the package, made by `scripts/pretrain_networks.py`."""
    if kind not in NETWORKS:
        raise PredictorError(f"networks are of kinds {', '.join(NETWORKS)}; received {kind!r}")
    return load_network(FOLDER / f"{kind}.recell")
