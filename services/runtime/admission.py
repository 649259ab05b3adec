"""Binds the limiter and the quotas to the calls of one server: which class a method belongs to, and who calls."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from functools import partial

from interceptors import current
from interceptors._shapes import Call
from interceptors.permits import Ended
from services.corpus.principal import Caller
from services.resilience.admission import Limiter
from services.resilience.brownout import Brownout, BrownoutStep
from services.resilience.concurrency import LimitPolicy
from services.resilience.quotas import Quota, Quotas
from services.resilience.tickets import (
    AdmissionPolicy,
    ClassPolicy,
    ClassSnapshot,
    Outcome,
    Ticket,
    TicketState,
    WorkClass,
)
from services.runtime.options import AdmissionOptions, QuotaOptions
from services.security.permissions import EVERYTHING, Rule

# What operators look at, and what services tell each other about themselves.
_OPERATIONS = frozenset({"stores", "endpoints", "topology", "dependencies", "metrics", "alerts", "alert_rules"})
# Before it is climbed the brownout ladder waits for half a second of pressure: until then calls that come at the same time
# need not look at it each.
_LOOK_INTERVAL = 0.02


def work_class(path: str, rule: Rule) -> WorkClass:
    """Which class a method belongs to, by what the contract says of it.

    OPERATIONS: what operators need to see and to do, reflection where it is for administrators, and between services the audit
    log's own calls and the questions about state (capabilities, counts, whether sources may still be shown), which are
    cheap and which work under way depends on. BATCH: taking documents in, and what rewrites or copies a store.
    """
    resource, _, action = rule.permission.partition(":")
    method = path.rpartition("/")[2]
    if rule.permission == EVERYTHING or resource in _OPERATIONS or (rule.mesh_only and resource == "audit"):
        return WorkClass.OPERATIONS
    if rule.mesh_only and method.startswith(("Get", "Check", "Count")):
        return WorkClass.OPERATIONS
    if action == "ingest" or (resource == "chunks" and (action == "write" or method.startswith("List"))):
        return WorkClass.BATCH
    return WorkClass.INTERACTIVE


class Admissions:
    """The gate of one server. Its clock is the event loop's, which is the one that deadlines stand on."""

    def __init__(
        self,
        options: AdmissionOptions,
        *,
        initial_limit: int,
        rules: Mapping[str, Rule],
        brownout: Brownout | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._classes = {path: work_class(path, rule) for path, rule in rules.items()}
        self._brownout = brownout if options.brownout else None
        self.quotas = Quotas(
            clock, _quota(options.quota), {tenant: _quota(own) for tenant, own in options.tenants.items()}
        )
        self.limiter = Limiter(
            clock,
            _policy(options, initial_limit),
            weight=self.quotas.weight,
            spread=random.random,
        )
        self._over_quota = 0
        self._clock = clock
        self._step = BrownoutStep.NONE
        self._looked = -math.inf
        if self._brownout is not None:
            self._brownout.pressure = self.limiter.pressure

    @property
    def step(self) -> BrownoutStep:
        """Where the brownout ladder stands; at its foot, where it stood a few milliseconds ago."""
        if self._brownout is not None:
            now = self._clock()
            if self._step is not BrownoutStep.NONE or now - self._looked >= _LOOK_INTERVAL:
                self._looked = now
                self._step = self._brownout.step()
        return self._step

    def snapshot(self) -> dict[WorkClass, ClassSnapshot]:
        """Limits, calls that run and wait, and refusals, by class."""
        return self.limiter.snapshot()

    def readings(self) -> dict[tuple[str, str], float]:
        """The gauges and counters by name and label, for metrics."""
        read: dict[tuple[str, str], float] = {
            ("groundwire.brownout.step", ""): float(self.step),
            ("groundwire.admission.refused", "over_quota"): float(self._over_quota),
        }
        for work, seen in self.snapshot().items():
            read["groundwire.admission.limit", work.value] = float(seen.limit)
            read["groundwire.admission.in_flight", work.value] = float(seen.in_flight)
            read["groundwire.admission.queued", work.value] = float(seen.queued)
            for reason, count in seen.refused.items():
                read["groundwire.admission.refused", f"{work.value}.{reason}"] = float(count)
        if self._brownout is not None:
            for step, count in self._brownout.entered.items():
                read["groundwire.brownout.entered", step.name.lower()] = float(count)
        return read

    def arrive(self, call: Call) -> Ticket:
        """See the interceptor; raises ResourceExhausted when the tenant's quota is used up."""
        work = self._classes.get(call.method, WorkClass.INTERACTIVE)
        caller: Caller | None = current.caller.get()
        tenant = "" if caller is None else caller.tenant
        # Services act for somebody who was counted at the front.
        counted = work is not WorkClass.OPERATIONS and caller is not None and not caller.acting_service
        if counted and self.quotas.limits(tenant):
            try:
                self.quotas.admit(tenant)
            except Exception:
                self._over_quota += 1
                raise
            current.spend.set(partial(self.quotas.charge, tenant))
        # What is left out changes how long a call takes: such calls are a kind of their own.
        step = self.step
        kind = call.method if step is BrownoutStep.NONE else f"{call.method} {step.name}"
        return self.limiter.arrive(work, tenant, kind, deadline=current.deadline.get())

    def advance(self) -> None:
        """See the interceptor."""
        self.limiter.advance()

    def end(self, place: Ticket, how: Ended) -> None:
        """See the interceptor."""
        if place.state is TicketState.RUNNING:
            if how is Ended.COMPLETED:
                outcome = Outcome.COMPLETED
            else:
                outcome = Outcome.LATE if how is Ended.LATE else Outcome.OTHER
            self.limiter.finish(place, outcome)
        else:
            self.limiter.leave(place)
        _ = self.step  # so that the ladder is left when nobody comes any more


def _policy(options: AdmissionOptions, initial_limit: int) -> AdmissionPolicy:
    limit = LimitPolicy(
        initial=options.initial_limit or initial_limit, minimum=options.min_limit, maximum=options.max_limit
    )
    return AdmissionPolicy(
        interactive=ClassPolicy(limit, options.queue_length, options.max_wait),
        batch=ClassPolicy(limit, options.batch_queue_length, options.batch_max_wait),
    )


def _quota(options: QuotaOptions) -> Quota:
    return Quota(**options.model_dump())
