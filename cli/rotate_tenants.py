"""``groundwire keys rotate TENANT``: a new data key, and everything encrypted again under it while the mesh runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

from cli.errors import CliError, ExitCode
from cli.keys import existing_key_store, explained, no_such_tenant
from cli.on_record import on_record
from cli.options import Globals
from cli.output import Format, Screen
from cli.progress import Progress, progress
from cli.services import KEYS
from cli.text import plural
from services.corpus.cleaning import cleaned
from services.corpus.errors import GroundwireError, Unavailable
from services.ingestion.settings import IngestionSettings
from services.retrieval.settings import RetrievalSettings
from services.runtime import logs
from services.runtime.encryption import Encryption
from services.runtime.process import Process
from services.runtime.sealed_places import CatalogDetails, StoreChunks
from services.runtime.settings import Settings
from services.security.encryption import Purpose
from services.security.keyring import Keyring
from services.security.master_keys import NoMasterKey
from services.security.resealing import ResealProgress, SealedItems
from services.security.rotation import Rotation


@dataclass(frozen=True)
class Rotated:
    """What was done for one tenant."""

    tenant: str
    key_number: int
    checked: int
    resealed: int
    refused: int
    keys_destroyed: int


async def rotate(screen: Screen, options: Globals, settings: Settings, *, tenant: str | None, retire: bool) -> int:
    """Rotate one tenant, or all; returns the exit code."""
    logs.configure(settings.log.model_copy(update={"level": "warning"}))
    tenants = _tenants(settings, tenant)
    with explained():
        async with AsyncExitStack() as stack:
            process = Process(tls=settings.tls)
            stack.push_async_callback(process.close)
            # From here on this process's calls carry its own token of the mesh.
            await process.identify(settings)
            keys = await process.encryption(settings)
            if keys is None:
                raise CliError("encryption.enabled is false: there are no keys")
            catalog = await process.catalog(settings)
            stack.push_async_callback(catalog.close)
            places: list[SealedItems] = [CatalogDetails(catalog)]
            stores = _stores(options, settings)
            for name, address in stores.items():
                own = address == settings.address("store")
                store = process.remote_store("" if own else address, KEYS, name, settings)
                stack.push_async_callback(store.close)
                places.append(StoreChunks(store, name))
            work = _Work(screen, keys, places, stores, retire=retire)
            for name in tenants:
                with on_record(settings, "keys rotate", f"tenants/{name}/keys", tenant=name):
                    await work.do(name, await catalog.tenant_size(name))
    return work.finish()


class _Work:
    def __init__(
        self,
        screen: Screen,
        keys: Encryption,
        places: Sequence[SealedItems],
        stores: Mapping[str, str],
        *,
        retire: bool,
    ) -> None:
        self._screen = screen
        self._keyring = keys.keyring
        self._rotation = Rotation(keys.keyring, keys.sealer, keys.checkpoints, places)
        self._stores = stores
        self._retire = retire
        self._done: list[Rotated] = []
        self._failures: list[CliError] = []

    async def do(self, tenant: str, size: tuple[int, int]) -> None:
        """Rotate one tenant; a failure is kept for the end, so that it is nobody else's."""
        reporter = _Reporter(self._screen, tenant, size)
        try:
            if not self._retire:
                number, made = await self._rotation.begin(tenant)
                how = "new" if made else "going on with"
                self._screen.note(f"tenant {cleaned(tenant)}: {how} data key {number}")
            report = await self._rotation.finish(tenant, reporter.told)
            destroyed = await self._rotation.retire(tenant, report) if self._retire else 0
        except GroundwireError as error:
            self._failures.append(self._explain(tenant, error))
            return
        finally:
            reporter.end()
        done = Rotated(tenant, report.key_number, report.checked, report.resealed, report.broken, destroyed)
        self._done.append(done)
        if self._screen.format is not Format.JSON:
            self._screen.say(_line(done))

    def finish(self) -> int:
        """Show what is left to show; the exit code."""
        if self._screen.format is Format.JSON:
            self._screen.json({"tenants": [asdict(done) for done in self._done]})
        for failure in self._failures:
            self._screen.note("\n".join(failure.lines()))
        refused = sum(done.refused for done in self._done)
        if refused:
            self._screen.note(
                f"{plural(refused, 'sealed value')} did not open and stayed as they are: they were changed, or moved "
                "from where they belong; take their documents in again"
            )
        codes = {failure.code for failure in self._failures}
        if ExitCode.UNAVAILABLE in codes:
            return ExitCode.UNAVAILABLE
        return ExitCode.FAILED if codes or refused else ExitCode.OK

    def _explain(self, tenant: str, error: GroundwireError) -> CliError:
        address = self._stores.get(error.metadata.get("dependency", ""))
        if address is not None:
            return CliError(
                f"tenant {cleaned(tenant)}: the store at {address} does not answer, and its part is left; start the mesh "
                "(`groundwire up`) and run the command again, which goes on from here",
                code=ExitCode.UNAVAILABLE,
            )
        code = ExitCode.UNAVAILABLE if isinstance(error, Unavailable) else ExitCode.FAILED
        return CliError(f"tenant {cleaned(tenant)}: {error.message}", code=code)


class _Reporter:
    """Progress of one tenant: a bar, or lines, for each place and pass."""

    def __init__(self, screen: Screen, tenant: str, size: tuple[int, int]) -> None:
        self._screen = screen
        self._tenant = cleaned(tenant)
        self._documents, self._chunks = size
        self._at: tuple[str, int] | None = None
        self._shown: Progress | None = None
        self._checked = 0

    def told(self, place: SealedItems, state: ResealProgress) -> None:
        """A page more is done."""
        if (place.name, state.walk) != self._at:
            self.end()
            self._at, self._checked = (place.name, state.walk), 0
            verb = "Encrypting" if state.walk == 1 else "Checking"
            self._shown = progress(self._screen.err, f"{verb} {self._tenant}, {place.name}", "value")
            expected = self._documents if place.name == CatalogDetails.name else self._chunks
            self._shown.begin(max(expected, state.checked))
        if self._shown is not None:
            self._shown.advance(state.checked - self._checked)
        self._checked = state.checked

    def end(self) -> None:
        """Nothing more is to come."""
        if self._shown is not None:
            self._shown.end()
        self._shown = None


def _tenants(settings: Settings, tenant: str | None) -> list[str]:
    """The one that was named, which must have keys, or all that have."""
    with existing_key_store(settings) as store:
        records = {record.tenant: record for record in Keyring(NoMasterKey(), store).list_tenants()}
    if tenant is None:
        return [name for name, record in records.items() if record.of(Purpose.DATA)]
    if tenant not in records:
        raise no_such_tenant(tenant)
    return [tenant]


def _stores(options: Globals, settings: Settings) -> dict[str, str]:
    """Every store that may hold sealed texts, by name: those that are searched, and the one that is written to."""
    searched = options.load(RetrievalSettings).retrieval.vector_stores
    written = options.load(IngestionSettings).ingestion.vector_store_url or settings.address("store")
    found = {store.name: store.address or settings.address("store") for store in searched}
    if written not in found.values():
        found["ingestion"] = written
    return found


def _line(done: Rotated) -> str:
    parts = [
        f"{plural(done.checked, 'value')} checked",
        f"{done.resealed:,} encrypted again",
        f"{done.refused:,} refused" if done.refused else "",
        f"{plural(done.keys_destroyed, 'older key')} destroyed" if done.keys_destroyed else "",
    ]
    return f"tenant {cleaned(done.tenant)}: data key {done.key_number}, {', '.join(part for part in parts if part)}"
