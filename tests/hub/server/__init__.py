"""A Hub on loopback that keeps git repositories, answers as the real one, and fails on demand.

`running()` starts the server. `Server.fresh` makes a new, empty `Hub`, which is the state of one
test. `faults` has the faults that a test can make happen. The Hub has models only, and of Xet what
an upload needs.
"""

from tests.hub.server import faults
from tests.hub.server.log import Log, Logged
from tests.hub.server.serving import Server, running
from tests.hub.server.state import Hub, Settings

__all__ = ["Hub", "Log", "Logged", "Server", "Settings", "faults", "running"]
