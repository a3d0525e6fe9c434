"""One call to the API server: what it asks for, in the words of the campaign and in those of RBAC."""

from dataclasses import dataclass

_VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Place:
    """What an API path names. ``resource`` is empty for discovery."""

    group: str
    namespace: str
    resource: str
    name: str
    subresource: str


def place_of(path: str) -> Place:
    """Take an API path apart.

    >>> place_of("/apis/apps/v1/namespaces/a/deployments/b")
    Place(group='apps', namespace='a', resource='deployments', name='b', subresource='')
    >>> place_of("/api/v1/nodes/n/status")
    Place(group='', namespace='', resource='nodes', name='n', subresource='status')
    >>> place_of("/apis/apps/v1").resource, place_of("/openid/v1/jwks").resource
    ('', '')
    """
    root, *parts = path.strip("/").split("/")
    if root not in {"api", "apis"}:
        return Place("", "", "", "", "")
    group = ""
    if root == "apis" and parts:
        group, *parts = parts
    parts = parts[1:]
    namespace = ""
    if len(parts) > 2 and parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    resource, name, subresource = (*parts, "", "", "")[:3]
    return Place(group, namespace, resource, name, subresource)


@dataclass(frozen=True, slots=True)
class Call:
    """One request of the operator."""

    method: str
    path: str
    query: str = ""
    text: str = ""
    """The body."""

    @property
    def is_watch(self) -> bool:
        """Tell whether it is a watch."""
        return "watch=true" in self.query

    @property
    def is_write(self) -> bool:
        """Tell whether it asks for a change."""
        return self.method != "GET"

    @property
    def is_list(self) -> bool:
        """Tell whether it asks for a collection."""
        place = place_of(self.path)
        return self.method == "GET" and not self.is_watch and bool(place.resource) and not place.name

    @property
    def site(self) -> str:
        """The call site: verb, resource and subresource, without names.

        >>> Call("PATCH", "/apis/preheat.dev/v1alpha1/namespaces/a/llmdeployments/b/status").site
        'PATCH llmdeployments/status'
        >>> Call("GET", "/api/v1/pods", "limit=500").site, Call("GET", "/apis").site
        ('LIST pods', 'GET /apis')
        """
        place = place_of(self.path)
        if not place.resource:
            return f"{self.method} {self.path}"
        verb = "WATCH" if self.is_watch else "LIST" if self.is_list else self.method
        return f"{verb} {place.resource}{'/' + place.subresource if place.subresource else ''}"

    @property
    def rbac(self) -> tuple[str, str, str, str] | None:
        """(verb, group, resource, subresource) as RBAC has it; None for discovery, which everybody may ask."""
        place = place_of(self.path)
        if not place.resource:
            return None
        if self.method == "GET":
            verb = "watch" if self.is_watch else "list" if self.is_list else "get"
        else:
            verb = _VERBS[self.method]
        return verb, place.group, place.resource, place.subresource
