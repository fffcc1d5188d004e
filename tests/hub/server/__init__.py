"""A Hub on loopback that keeps git repositories, answers as the real one, and fails on demand.

`running()` serves; `Server.fresh` makes the state of a test, a `Hub`; `faults` are what can go
wrong. It has models only, and no Xet.
"""

from tests.hub.server import faults
from tests.hub.server.log import Log, Logged
from tests.hub.server.serving import Server, running
from tests.hub.server.state import Hub, Settings

__all__ = ["Hub", "Log", "Logged", "Server", "Settings", "faults", "running"]
