"""What admission speaks of: classes of work, a call's place, and what each class may use. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from services.corpus.errors import GroundwireError
from services.resilience.concurrency import LimitPolicy


class WorkClass(Enum):
    """How a call is treated: never limited; before others; after others."""

    OPERATIONS = "operations"
    INTERACTIVE = "interactive"
    BATCH = "batch"


class Outcome(Enum):
    """How a call ended, as far as it tells something about load: done, out of time, or neither."""

    COMPLETED = "completed"
    LATE = "late"
    OTHER = "other"


class TicketState(Enum):
    """Where a call stands."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    REFUSED = "refused"


class Refusal(Enum):
    """Why a call was refused, for metrics."""

    QUEUE_FULL = "queue_full"
    WAITED_TOO_LONG = "waited_too_long"
    TOO_LATE = "too_late"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class ClassPolicy:
    """What one class may use; ``max_wait`` in seconds."""

    limit: LimitPolicy = field(default_factory=LimitPolicy)
    queue_length: int = 128
    max_wait: float = 5.0


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """``newest_first_after`` seconds of a queue that was never empty, the newest of each tenant goes first."""

    interactive: ClassPolicy = field(default_factory=ClassPolicy)
    batch: ClassPolicy = field(default_factory=lambda: ClassPolicy(queue_length=256, max_wait=60.0))
    newest_first_after: float = 1.0


@dataclass(eq=False, slots=True)
class Ticket:
    """One call's place. ``settled`` is called once when a waiting call may run or is refused."""

    work: WorkClass
    tenant: str
    kind: str
    arrived: float
    deadline: float
    expires: float
    state: TicketState = TicketState.WAITING
    began: float = 0.0
    refusal: GroundwireError | None = None
    settled: Callable[[], None] | None = None

    @property
    def waiting(self) -> bool:
        """Whether it has neither begun nor been refused."""
        return self.state is TicketState.WAITING


@dataclass(frozen=True, slots=True)
class ClassSnapshot:
    """One class at one moment; ``limit`` is 0 where there is none, ``refused`` counts since the start."""

    limit: int
    in_flight: int
    queued: int
    refused: Mapping[str, int]
