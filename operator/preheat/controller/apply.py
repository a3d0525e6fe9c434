"""All writes of one pass: children in order, then the status once, then the events that tell of it.

Every write may be the last before a crash: each is safe to repeat, and none is remembered anywhere but in
the cluster. A child that cannot be written does not keep the status from being written, nor the way to what serves.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from preheat.api.constants import ANNOTATION_APPLIED, ANNOTATION_ROOM, API_VERSION
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.cluster.kube import Kube
from preheat.controller.limits import Budget, Contests
from preheat.controller.pace import Pace
from preheat.controller.telemetry import Metrics
from preheat.controller.view import Key, View, key_of
from preheat.decide.ahead import START_SECONDS
from preheat.decide.changes import differs, fingerprint, is_progress
from preheat.decide.observed import is_controlled_by, parse_time
from preheat.decide.ownership import adoption, is_drift, words_of_drift
from preheat.decide.plan import (
    IMAGES,
    PAGES,
    POLL_SECONDS,
    RESYNC_SECONDS,
    Admit,
    Adopt,
    Apply,
    Delete,
    EventDraft,
    LabelNode,
    Plan,
    PricePod,
    Write,
    part_of,
)
from preheat.decide.refusals import with_contests, with_refusal, without_pagers, without_pullers
from preheat.decide.statuses import foreign_fields, own_part
from preheat.errors import (
    Denied,
    Forbidden,
    GoingAway,
    InvalidSpec,
    Leaving,
    NotInstalled,
    NotOwned,
    NotYet,
    Outdated,
    PreheatError,
    Unavailable,
)
from preheat.resources.metadata import Manifest
from preheat.resources.names import digest, fit
from preheat.resources.serving import as_stored, parse_controller_revision

Subject = LLMDeployment | ModelCache

SURE_SECONDS = 5.0
"""For so long after it was asked for, an object is taken to be as it was. A stopped process' clock goes on."""

AGAIN_SECONDS = 15.0
"""How often what is not let in is tried again, at most."""

LEAVING_SECONDS = 3.0
"""A child that is being deleted for longer is told of. In a namespace that is being deleted its owner goes by then."""

REFUSED_SECONDS = 30.0
"""A write that is refused for longer is told of, also where the object is Ready: by then it was tried five times."""

NOT_YET_SECONDS = 2.0
"""An API server learns kinds that were installed a moment ago within half a minute: too short for pauses that grow."""

_OF_REVISIONS = frozenset({"ControllerRevision", "Deployment"})

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Refused:
    """A status that the API server refused."""

    version: str
    """The version of the object."""
    digest: str
    until: float
    """By our clock: before that the same status is not tried again for the same version."""


class Writer:
    """Makes writes, and leaves out those that would change nothing."""

    def __init__(self, kube: Kube, view: View, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._kube = kube
        self._view = view
        self._metrics = metrics
        self._clock = clock
        self._equal: dict[Key, tuple[str, ...]] = {}
        """Which version of which object was found to be as its manifest says: it need not be compared again."""
        self._good_enough: dict[Key, str] = {}
        self._told: dict[Key, float] = {}
        self._firsts: dict[Key, float] = {}
        """When a new object is to be told of for the first time, unless there is news before."""
        self._unwritable: dict[Key, _Refused] = {}
        self._refused: dict[Key, float] = {}
        """Since when a write of an object's passes is refused, each time."""
        self._no_pullers: dict[Key, float] = {}
        """And since when one of its pullers is."""
        self._pace = Pace(clock)
        self._making: dict[Key, asyncio.Event] = {}
        """What is being created right now: set when that has ended, well or not."""
        self._begun: dict[Key, str] = {}
        """The uids of the objects for which something may have been made."""
        self._contests = Contests(clock)
        self._events = Budget(clock)

    async def apply(
        self,
        subject: Subject,
        body: dict[str, Any],
        plan: Plan,
        now: datetime,
        decided_from: Sequence[Manifest] = (),
    ) -> float:
        """Carry a plan out; return when to look again, in seconds. ``decided_from``: the children, as they were observed.

        Raises Unavailable when something outside kept it from being carried out.
        """
        refused = await self._write_all(plan.writes, subject, decided_from)
        if self._is_given_up(subject, refused.get(IMAGES)):
            plan = without_pullers(subject, plan, refused.pop(IMAGES), now)
        if PAGES in refused:
            plan = without_pagers(subject, plan, refused.pop(PAGES), now)
        refusal = next(iter(refused.values()), None)
        pause = _pause_seconds(refusal, now)
        if pause is not None:
            log.info("%s: %s", "/".join(_key_of(subject)), refusal)
            return pause
        lasts = self._lasts(subject, refusal)
        if refusal is not None:
            plan = with_refusal(subject, plan, refusal, now, lasts=lasts)
        children = [key_of(write.manifest) for write in plan.writes if isinstance(write, Apply)]
        contests = self._contests.among(children)
        if contests:
            plan = with_contests(subject, plan, contests, now)
        is_asked = plan.requeue_after <= POLL_SECONDS
        version = str(body["metadata"].get("resourceVersion"))
        changed = plan.status is not None and own_part(plan.status) != own_part(body.get("status"))
        if is_asked or changed:
            self._pace.moved(_key_of(subject))
        delay = self._pace.ask_seconds() if is_asked else plan.requeue_after
        delay = self._contests.look_again_seconds(children, delay)
        if changed and not self._is_unwritable(subject, version, plan):
            wait = self._patience(subject, plan)
            if wait > 0:
                delay = min(delay, wait)
            else:
                await self._tell(subject, plan, now)
        if isinstance(refusal, Unavailable):
            raise _with_other_work(refusal, delay)
        return delay

    async def write(self, writes: Sequence[Write]) -> None:
        """Carry out writes that belong to no object of a user. Raises what kept one from being made, the others made."""
        refusals = [refusal for write in writes for refusal in (await self._write_all([write])).values()]
        if refusals:
            raise refusals[0]

    def forget(self, key: Key) -> None:
        """Drop what is remembered of an object that is gone."""
        self._told.pop(key, None)
        self._firsts.pop(key, None)
        self._begun.pop(key, None)
        self._unwritable.pop(key, None)
        self._refused.pop(key, None)
        self._no_pullers.pop(key, None)
        self._pace.rests(key)
        self._good_enough.pop(key, None)
        self._equal.pop(key, None)
        self._contests.forget(key)
        self._events.forget(key)

    def _lasts(self, subject: Subject, refusal: PreheatError | None) -> bool:
        """Note whether a pass was refused a write; tell whether all of them were, for longer than a moment."""
        if refusal is None:
            self._refused.pop(_key_of(subject), None)
            return False
        return self._clock() - self._refused.setdefault(_key_of(subject), self._clock()) >= REFUSED_SECONDS

    def _is_given_up(self, subject: Subject, refusal: PreheatError | None) -> bool:
        """Tell whether no more pullers are tried: one is never let in, or each time was not for as long as anybody waits."""
        if refusal is None:
            self._no_pullers.pop(_key_of(subject), None)
            return False
        since = self._no_pullers.setdefault(_key_of(subject), self._clock())
        return isinstance(refusal, InvalidSpec | NotOwned | Denied) or self._clock() - since >= START_SECONDS

    def _is_unwritable(self, subject: Subject, version: str, plan: Plan) -> bool:
        """Tell whether this very status was refused of late. Why may lie outside the object: a webhook, a policy."""
        last = self._unwritable.get(_key_of(subject))
        return (
            last is not None
            and (last.version, last.digest) == (version, _digest_of(plan))
            and self._clock() < last.until
        )

    def _patience(self, subject: Subject, plan: Plan) -> float:
        """Return for how many seconds a status may still wait: none when it is news, a while for progress."""
        key = _key_of(subject)
        if not is_progress(subject, plan.status or {}):
            self._pace.rests(key)
            return 0.0
        if isinstance(subject, LLMDeployment) and subject.status.observed_generation is None:
            if key not in self._firsts:
                self._firsts[key] = self._pace.first_at()
            return self._firsts[key] - self._clock()
        return self._told.setdefault(key, self._clock()) + self._pace.tell_seconds() - self._clock()

    async def _tell(self, subject: Subject, plan: Plan, now: datetime) -> None:
        key = _key_of(subject)
        self._told[key] = self._clock()
        self._firsts.pop(key, None)
        before = self._unwritable.get(key)
        try:
            written = await self._write_status(subject, plan.status or {})
        except (InvalidSpec, Denied) as refused:
            # The object itself breaks the schema (written under another one), or a webhook says no: then an Event has to tell.
            # As long as it stays as it is, the same status is tried only now and then.
            log.warning("%s: status refused: %s", "/".join(key), refused)
            known = self._view.get(*key) or {"metadata": {}}
            version = str(known["metadata"].get("resourceVersion"))
            self._unwritable[key] = _Refused(version, _digest_of(plan), self._clock() + RESYNC_SECONDS)
            written = None
        else:
            self._unwritable.pop(key, None)
        if written is not None:
            self._view.put(written, author=key)
            self._metrics.turns.count((subject.namespace, subject.name), plan)
        if before is not None and before.digest == _digest_of(plan):
            return  # its Events told of it when it was refused
        for draft in plan.events:
            await self._emit(subject, draft, now)

    async def _write_status(self, subject: Subject, status: dict[str, Any]) -> Manifest | None:
        """Make a status so, and nothing else: what somebody else wrote there is removed."""
        key = _key_of(subject)
        kind = key[0]
        self._metrics.writes.labels(kind, "status").inc()
        live: Manifest | None
        try:
            live = await self._kube.apply_status(*key, subject.uid, status)
        except InvalidSpec:
            # What is there is no status, or leaves no room for ours: a thousand nodes, sixteen conditions of others.
            live = self._view.get(*key)
            return None if live is None else await self._kube.replace_status(live, status)
        foreign = foreign_fields(status, (live or {}).get("status") or {})
        if live is not None and foreign:
            self._metrics.writes.labels(kind, "status").inc()
            live = await self._kube.clear_status(live, foreign)
        return live

    async def _write_all(
        self, writes: Sequence[Write], subject: Subject | None = None, decided_from: Sequence[Manifest] = ()
    ) -> dict[str, PreheatError]:
        """Make the writes of each part in order, up to the first that fails; return why, by part, the first of all first.

        Where the object itself is another by now, that ends all parts.
        """
        sure_until = self._clock() + SURE_SECONDS if subject is None or self._begins(subject) else 0.0
        decided = {key_of(body): body for body in decided_from if body["kind"] in _OF_REVISIONS}
        absent = frozenset[Key]()
        refused: dict[str, PreheatError] = {}
        for write in writes:
            if part_of(write) in refused:
                continue
            try:
                if subject is not None and self._clock() > sure_until and self._changes(write):
                    await self._check_that_it_is_as_it_was(subject)
                    if self._moves_replicas(writes):
                        absent = await self._check_that_revisions_are_as_they_were(subject, writes, decided)
                    sure_until = self._clock() + SURE_SECONDS
                made = await self._write(write, absent if self._clock() <= sure_until else frozenset())
            except (GoingAway, Outdated) as error:
                return {"": error}
            except PreheatError as error:
                if isinstance(error, NotInstalled):
                    self._view.know_kind(error.kind, installed=False)
                refused[part_of(write)] = error
                continue
            # What this pass made is what it goes on from.
            if made is not None and made["kind"] in _OF_REVISIONS:
                decided[key_of(made)] = made
            elif isinstance(write, Delete):
                decided.pop((write.kind, write.namespace, write.name), None)
        return refused

    def _begins(self, subject: Subject) -> bool:
        """Tell whether this is the first pass over a new object: nothing of it was ever there, and can be gone."""
        key, before = _key_of(subject), self._begun.get(_key_of(subject))
        self._begun[key] = subject.uid
        return before != subject.uid and subject.status.observed_generation is None

    def _changes(self, write: Write) -> bool:
        """Tell whether a write may make, change or delete something: most find everything as it should be."""
        if not isinstance(write, Apply):
            return True
        key, manifest = key_of(write.manifest), write.manifest
        live = self._view.get(*key)
        if live is None:
            return True
        if write.once or self._equal.get(key) == _both(manifest, live):
            return False
        return differs(manifest, live) and self._good_enough.get(key) != fingerprint(manifest, live)

    async def _check_that_it_is_as_it_was(self, subject: Subject) -> None:
        """Ask before anything is changed. Raises GoingAway when the object is gone, Outdated when it has another spec by now.

        Watches of different kinds have no common order, and an operator may have been stopped for a while as
        another worked. Children may be seen gone before their owner, or scaled before the spec that asks for it:
        they would be made again, pods and all, or put back to what nobody wants any more.
        """
        key = _key_of(subject)
        live = await self._kube.get(*key)
        is_there = (
            live is not None
            and live["metadata"]["uid"] == subject.uid
            and "deletionTimestamp" not in live["metadata"]
        )
        if is_there and live is not None and live["metadata"].get("generation") == subject.generation:
            return
        known = self._view.get(*key)
        if live is not None:
            self._view.put(live)
        elif known is not None and known["metadata"].get("uid") == subject.uid:
            self._view.remove(known)
        if is_there:
            raise Outdated("it was changed; looking at it anew")
        raise GoingAway("it was deleted")

    def _moves_replicas(self, writes: Sequence[Write]) -> bool:
        return any(
            isinstance(write, Apply) and write.manifest["kind"] in _OF_REVISIONS and self._changes(write)
            for write in writes
        )

    async def _check_that_revisions_are_as_they_were(
        self, subject: Subject, writes: Sequence[Write], decided: Mapping[Key, Manifest]
    ) -> frozenset[Key]:
        """Ask for the revisions and their Deployments before replicas move; return what is not there, and is to be made.

        ``decided``: as they were decided from, or as this pass has made them. Raises Outdated when one is another than that.
        Whether a revision failed lies on it, and how many replicas each has on its Deployment, and neither in the object: an
        operator that was stopped while another worked may have heard of the new spec, and not yet of what became of it.
        """
        applied = {key_of(write.manifest) for write in writes if isinstance(write, Apply)}
        changed, absent = [], set[Key]()
        for key in sorted(decided.keys() | {key for key in applied if key[0] in _OF_REVISIONS}):
            live, known = await self._kube.get(*key), self._view.get(*key)
            if live is None:
                absent.add(key)
            if key in decided:
                if live is not None:
                    self._view.put(live)
                elif known is not None:
                    self._view.remove(known)
                changed.append(_decided(live) != _decided(decided[key]))
            elif live is not None and is_controlled_by(live, subject.uid):
                # Known already, and yet not observed: somebody took its labels. Then applying it mends that.
                changed.append(self._view.put(live) and _decided(live) != _decided(known))
        if any(changed):
            raise Outdated("its revisions changed; looking at them anew")
        return frozenset(absent)

    async def _write(self, write: Write, absent: Collection[Key] = ()) -> Manifest | None:
        """Make a write; return the object that it has made or changed. ``absent``: what was asked for and is not there."""
        match write:
            case Apply():
                return await self._apply(write, absent)
            case Adopt():
                return await self._adopt(write)
            case Delete():
                self._metrics.writes.labels(write.kind, "delete").inc()
                left = await self._kube.delete(write.kind, write.namespace, write.name, write.uid)
                self._good_enough.pop((write.kind, write.namespace, write.name), None)
                self._unlearn(write, left)
            case Admit():
                self._metrics.writes.labels("Job", "patch").inc()
                room = {} if write.room_bytes is None else {ANNOTATION_ROOM: str(write.room_bytes)}
                job = await self._kube.admit(write.namespace, write.name, write.uid, room)
                if job is not None:
                    self._view.put(job)
            case PricePod():
                self._metrics.writes.labels("Pod", "patch").inc()
                pod = await self._kube.price_pod(write.namespace, write.name, write.uid, write.cost)
                if pod is not None:
                    self._view.put({"apiVersion": "v1", "kind": "Pod", **pod})
            case LabelNode():
                self._metrics.writes.labels("Node", "patch").inc()
                node = await self._kube.label_node(write.node, write.labels, write.version)
                if node is not None:
                    self._view.put({"apiVersion": "v1", "kind": "Node", **node})
        return None

    async def _apply(self, write: Apply, absent: Collection[Key]) -> Manifest | None:
        manifest = write.manifest
        key = key_of(manifest)
        live = self._view.get(*key)
        if live is None and write.once:
            live = await self._create(manifest, key)
        elif live is None and key not in absent:
            # Ask before the first write: the name may be taken by somebody whose object we do not watch.
            live = await self._kube.get(*key)
        if live is not None:
            manifest = as_stored(manifest, live)
            write = replace(write, manifest=manifest)
        if live is not None and (
            self._equal.get(key) == _both(manifest, live) or await self._is_well(write, live)
        ):
            return None
        self._metrics.writes.labels(key[0], "apply").inc()
        result = await self._kube.apply(manifest)
        self._view.put(result)
        self._good_enough.pop(key, None)
        if differs(manifest, result):
            self._good_enough[key] = fingerprint(manifest, result)
        return result

    async def _is_well(self, write: Apply, live: Manifest) -> bool:
        """Tell whether what is there may stay as it is: it is as it should be, or somebody contests it."""
        manifest, key = write.manifest, key_of(write.manifest)
        live = await self._adopt(adoption(manifest, live)) or live
        if "deletionTimestamp" in live["metadata"] and not _is_mounted_on(live):
            raise Leaving(
                f"{'/'.join(key)} is being deleted; waiting until it is gone",
                parse_time(live["metadata"]["deletionTimestamp"]),
            )
        if write.once or not differs(manifest, live):
            self._view.put(live)
            self._equal[key] = _both(manifest, live)
            return True
        if self._good_enough.get(key) == fingerprint(manifest, live):
            return True
        if is_drift(manifest, live):
            if self._contests.wait_seconds(key) > 0:
                return True
            self._contests.put_back(key, words_of_drift(manifest, live))
        return False

    async def _create(self, manifest: Manifest, key: Key) -> Manifest:
        """Create what never changes, or return what has its name: the API server itself says that it is taken.

        What all caches of a namespace share is made by whichever comes first; the others wait for it.
        """
        others = self._making.get(key)
        if others is not None:
            await others.wait()
            found = self._view.get(*key)
            if found is None:
                raise Unavailable(f"{'/'.join(key)} is being made by another loop; looking again")
            return found
        self._making[key] = asyncio.Event()
        try:
            return await self._create_alone(manifest, key)
        finally:
            self._making.pop(key).set()

    async def _create_alone(self, manifest: Manifest, key: Key) -> Manifest:
        self._metrics.writes.labels(key[0], "create").inc()
        made = await self._kube.create(manifest)
        if made is not None:
            self._view.put(made)
            return made
        # Whoever has the name may be a stranger: nobody would tell the view when it goes.
        found = await self._kube.get(*key)
        if found is None:
            raise Unavailable(f"{'/'.join(key)} was there and is gone; looking again")
        return found

    async def _adopt(self, write: Adopt | None) -> Manifest | None:
        if write is None:
            return None
        self._metrics.writes.labels(write.live["kind"], "adopt").inc()
        log.info("%s: adopted by %s", "/".join(key_of(write.live)), write.owner["name"])
        adopted = await self._kube.adopt(write.live, write.owner)
        if adopted is not None:
            self._view.put(adopted)
        return adopted

    def _unlearn(self, write: Delete, left: Manifest | None) -> None:
        """Know our own deletion at once."""
        if left is not None:
            self._view.put(left)
            return
        known = self._view.get(write.kind, write.namespace, write.name)
        if known is not None and known["metadata"].get("uid") == write.uid:
            self._view.remove(known)

    async def _emit(self, subject: Subject, draft: EventDraft, now: datetime) -> None:
        key = _key_of(subject)
        if not self._events.take(key):
            log.info("%s: too many events: %s: %s", "/".join(key), draft.reason, draft.message)
            return
        kind = key[0]
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": _event_name(subject, draft, now), "namespace": subject.namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "preheat.dev/operator",
            "reportingInstance": "preheat-operator",
            "action": "Reconcile",
            "reason": draft.reason,
            # Kubernetes counts bytes.
            "note": draft.message.encode()[:1024].decode(errors="ignore"),
            "type": "Warning" if draft.warning else "Normal",
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": subject.uid,
            },
        }
        log.info("%s %s/%s: %s: %s", kind, subject.namespace, subject.name, draft.reason, draft.message)
        try:
            await self._kube.create_event(event)
        except GoingAway:
            return
        except (Unavailable, InvalidSpec) as error:
            log.warning("event not posted: %s", error)


def _decided(body: Manifest | None) -> object:
    """Return what is decided from of a revision or Deployment. A Deployment's status is not, nor what others annotate."""
    if body is None:
        return None
    metadata = body["metadata"]
    if body["kind"] == "Deployment":
        return metadata.get("uid"), metadata.get("generation")
    about = (metadata.get(field) for field in ("uid", "labels", "ownerReferences", "deletionTimestamp"))
    # A scaler's memory lies in the annotations of one that pins no revision.
    return *about, parse_controller_revision(body) or (metadata.get("annotations"), body.get("data"))


def _is_mounted_on(live: Manifest) -> bool:
    """Tell whether what is being deleted does its work on: a volume stays for as long as its claim does, and pods mount it."""
    return live["kind"] == "PersistentVolume" and (live.get("status") or {}).get("phase") == "Bound"


def _key_of(subject: Subject) -> Key:
    return type(subject).__name__, subject.namespace, subject.name


def _pause_seconds(refusal: PreheatError | None, now: datetime) -> float | None:
    """Return when to come back after what is not even told, None where there is something to tell."""
    if isinstance(refusal, GoingAway):
        return RESYNC_SECONDS
    if isinstance(refusal, Leaving) and _is_recent(refusal, now):
        return LEAVING_SECONDS
    return NOT_YET_SECONDS if isinstance(refusal, NotYet | NotInstalled | Outdated) else None


def _digest_of(plan: Plan) -> str:
    """Name what a status says, without when and how far: of one that is not written, times are new in each pass."""
    conditions = own_part(plan.status).get("conditions") or ()
    return digest([[c["type"], c["status"], c["reason"]] for c in conditions], 32)


def _with_other_work(refusal: Unavailable, delay: float) -> Unavailable:
    """Return a refusal after which the other work of an object goes on. An API server that has too much to do is left alone."""
    if isinstance(refusal, Forbidden):
        refusal.again_seconds = max(delay, AGAIN_SECONDS)
    return refusal


def _is_recent(refusal: Leaving, now: datetime) -> bool:
    # The API server's clock may be another than ours: what began in the future is told.
    return refusal.since is not None and 0 <= (now - refusal.since).total_seconds() < LEAVING_SECONDS


def _both(manifest: Manifest, live: Manifest) -> tuple[str, ...]:
    """Name a version of a live object, and by its stamp what is wanted of it."""
    metadata = live["metadata"]
    stamp = manifest["metadata"]["annotations"][ANNOTATION_APPLIED]
    return str(metadata.get("uid")), str(metadata.get("resourceVersion")), str(stamp)


def _event_name(subject: Subject, draft: EventDraft, now: datetime) -> str:
    return fit(f"{subject.name}.{digest([subject.uid, draft.reason, now.isoformat()], 16)}", 250)
