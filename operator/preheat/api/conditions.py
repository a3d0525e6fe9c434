"""Conditions as the Kubernetes API conventions ask for them, and the reasons we give."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from preheat.api.base import APIModel


class ConditionStatus(StrEnum):
    """The three answers a condition can give."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ConditionType(StrEnum):
    """Every condition type of both kinds. Ready, Reconciling and Stalled are the kstatus ones."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    ACCEPTED = "Accepted"
    WEIGHTS_READY = "WeightsReady"
    AVAILABLE = "Available"
    SCALING_ACTIVE = "ScalingActive"
    """Whether Preheat can decide the number of replicas. Only there where it is to."""
    WEIGHTS_QUARANTINED = "WeightsQuarantined"
    """Replicas run on weights that were found wrong since they were loaded. Only there while it is True."""
    CONTESTED = "Contested"
    """Somebody else changes a child back, again and again. Only there while it is True."""
    NODE_AVOIDED = "NodeAvoided"
    """New replicas keep off a node. Only there while it is True."""
    HEALING_RATIONED = "HealingRationed"
    """Replicas that do not answer are not restarted, for a reason that is told. Only there while it is True."""
    ROLLED_BACK = "RolledBack"
    """Another revision is wanted than the spec's: it failed, or a person asked. False: what was asked for is not there."""
    PREFLIGHT_PASSED = "PreflightPassed"
    """Whether the spec's revision can run anywhere, as far as is known. Only there until a replica of it has a GPU."""
    FELL_BACK = "FellBack"
    """Replicas are on another GPU type than the first. Only there while it is True."""
    ROUTED = "Routed"
    """Whether the gateways take requests for it by its HTTPRoute. Only there with spec.rollout.gateway."""
    IMAGE_READY = "ImageReady"
    """Whether nodes have, ahead of replicas, the images of the pods and what these name. Only there where any pulls."""
    PAGE_CACHE_FILLED = "PageCacheFilled"
    """Weights could not be read into memory ahead of a load. Only there while that is so, until the load is over."""


class Reason(StrEnum):
    """Why a condition is as it is. A reason is part of the API: scripts match it."""

    # Accepted
    VALID = "Valid"
    INVALID_SPEC = "InvalidSpec"
    NAME_TAKEN = "NameTaken"
    CHILD_REFUSED = "ChildRefused"
    CONTESTED = "Contested"
    OPERATOR_ERROR = "OperatorError"
    # weights
    WEIGHTS_READY = "WeightsReady"
    WEIGHTS_FETCHING = "WeightsFetching"
    WEIGHTS_FAILED = "WeightsFailed"
    NO_MATCHING_NODE = "NoMatchingNode"
    OVER_BUDGET = "OverBudget"
    MAKING_ROOM = "MakingRoom"
    EVICTED = "Evicted"
    WEIGHTS_CORRUPT = "WeightsCorrupt"
    # images
    IMAGE_PULLED = "ImagePulled"
    IMAGE_PULLING = "ImagePulling"
    IMAGE_NOT_PULLED = "ImageNotPulled"
    PAGE_CACHE_NOT_FILLED = "PageCacheNotFilled"
    # pods
    SCALED_TO_ZERO = "ScaledToZero"
    PODS_PENDING = "PodsPending"
    PODS_REFUSED = "PodsRefused"
    REFERENCE_MISSING = "ReferenceMissing"
    CLAIM_NOT_BOUND = "ClaimNotBound"
    POD_NOT_STARTING = "PodNotStarting"
    NO_CAPACITY = "NoCapacity"
    ENGINE_STARTING = "EngineStarting"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    ENGINE_CRASHING = "EngineCrashing"
    CONTAINER_CRASHING = "ContainerCrashing"
    MODEL_LOADING = "ModelLoading"
    MODEL_PROBING = "ModelProbing"
    MODEL_HEALING = "ModelHealing"
    NODE_AVOIDED = "NodeAvoided"
    HEALING_RATIONED = "HealingRationed"
    LOAD_FAILED = "LoadFailed"
    LOAD_STALLED = "LoadStalled"
    CANARY_FAILED = "CanaryFailed"
    UNSCHEDULABLE = "Unschedulable"
    PROGRESS_DEADLINE = "ProgressDeadlineExceeded"
    ROLLING_OUT = "RollingOut"
    REPLACING_PODS = "ReplacingPods"
    ROLLOUT_BLOCKED = "RolloutBlocked"
    ROLLOUT_PAUSED = "RolloutPaused"
    ROLLED_OUT = "RolledOut"
    SERVING = "Serving"
    NOT_SERVING = "NotServing"
    # going back
    ROLLED_BACK = "RolledBack"
    ROLLOUT_FAILED = "RolloutFailed"
    ROLLBACK_REQUESTED = "RollbackRequested"
    REVISION_UNKNOWN = "RevisionUnknown"
    ERROR_RATE = "ErrorRateRose"
    LATENCY = "LatencyRose"
    # before a revision goes out
    PREFLIGHT_PASSED = "PreflightPassed"
    PREFLIGHT_FAILED = "PreflightFailed"
    FELL_BACK = "FellBack"
    # through a gateway
    ROUTED = "Routed"
    ROUTE_PENDING = "RoutePending"
    ROUTE_REFUSED = "RouteRefused"
    GATEWAY_API_MISSING = "GatewayAPIMissing"
    # scaling
    DECIDING = "Deciding"
    SIGNALS_MISSING = "SignalsMissing"
    SIGNALS_SCRAPED = "SignalsScraped"
    SCALING_UP = "ScalingUp"
    SCALING_DOWN = "ScalingDown"
    SCALING_LIMITED = "ScalingLimited"
    SCALING_IGNORED = "ScalingIgnored"
    # kstatus
    SETTLED = "Settled"
    PROGRESSING = "Progressing"


class Condition(APIModel):
    """One observation about an object, with the time at which its status last changed."""

    type: Annotated[str, Field(max_length=64, description="What is observed, CamelCase.")]
    status: Annotated[ConditionStatus, Field(description="True, False or Unknown.")]
    observed_generation: Annotated[
        int, Field(ge=0, description="The metadata.generation that this condition was computed from.")
    ]
    last_transition_time: Annotated[
        str, Field(max_length=32, description="When status last changed, RFC 3339, UTC.")
    ]
    reason: Annotated[str, Field(min_length=1, max_length=64, description="Why, CamelCase, for programs.")]
    message: Annotated[str, Field(max_length=1024, description="Why and what to do, for people.")]
