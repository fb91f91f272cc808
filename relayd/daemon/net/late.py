"""Late imports: code that only some nodes or calls need is loaded when the first of them comes.

Rule: in a thread, because the loop waits for no disk; what is loaded stays.

Theory: what nobody asks a node for costs it neither time at its start nor memory. `tests/daemon/test_late_imports.py`
says what the usual start and a plain call leave out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import attrs
import trio

from relayd.daemon.net.exchange import Exchange
from relayd.daemon.net.server import Application
from relayd.wire.call import Reply
from relayd.wire.refusal import Refusal

_whole: set[str] = set()  # modules that are loaded; in sys.modules stands one whose import has only begun, too


async def load(module: str) -> None:
    """Import a module, so that who imports it next need not wait."""
    if module not in _whole:
        await trio.to_thread.run_sync(importlib.import_module, module)
        _whole.add(module)


@attrs.define(eq=False)
class LateApplication:
    """An application that is made when it is first asked.

    Args:
        module: what `make` imports.
        make: makes the application.
    """

    module: str
    make: Callable[[], Application]
    _made: Application | None = attrs.field(default=None, init=False)

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request."""
        await load(self.module)
        await self._application().serve(exchange)

    def refuse(self, refusal: Refusal, path: str) -> Reply:
        """The answer to a refusal of the server itself."""
        return self._application().refuse(refusal, path)

    def _application(self) -> Application:
        if self._made is None:  # no checkpoint between this and the next line: there is one, however many ask at once
            self._made = self.make()
        return self._made
