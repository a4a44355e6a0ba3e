"""One model in memory, and whoever wants it: orders wait in line, are worked off one after the other, and can be called off."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from biasgym.errors import BiasGymError
from biasgym.progress import Step
from biasgym.run import Session

State = Literal["waiting", "working", "done", "failed", "cancelled"]
Work = Callable[[Session], Iterator[Any]]
REMEMBERED = 50

log = logging.getLogger(__name__)


class Cancelled(BaseException):
    """An order was called off. Not an Exception, so that nothing on its way out takes it for an error to be handled."""


@dataclass(frozen=True)
class Progress:
    """How far an order is: its last step, and seconds until the item in hand is done; None where nobody knows yet."""

    step: Step | None
    seconds_left: float | None
    seconds: float


@dataclass(eq=False)
class Order:
    """One piece of work: what it gives out, piece by piece, and how it stands. `owner` says for whom it is done."""

    number: int
    label: str
    owner: str
    work: Work = field(repr=False)
    state: State = "waiting"
    error: str = ""
    said: str = ""
    result: Any = None
    _step: Step | None = None
    _item: tuple[str, str] = ("", "")
    _item_began: tuple[float, int] = (0.0, 0)
    _began: float = 0.0
    _ended: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _pieces: "queue.SimpleQueue[Any]" = field(default_factory=queue.SimpleQueue, repr=False)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("done", "failed", "cancelled")

    @property
    def called_off(self) -> bool:
        """Whether somebody called it off, noticed or not."""
        return self._stop.is_set()

    def cancel(self) -> None:
        """Call it off: at once if it waits, at its next piece or step if it is worked on; afterwards nothing happens."""
        self._stop.set()

    def pieces(self) -> Iterator[Any]:
        """Everything that the work gives out, as it comes; ends with the work. For one reader.

        Raises BiasGymError when it failed; an order that was called off just ends.
        """
        while (piece := self._pieces.get()) is not _END:
            yield piece
        if self.state == "failed":
            raise BiasGymError(self.error)

    def wait(self) -> Any:
        """The last piece, when all is done."""
        for _ in self.pieces():
            pass
        return self.result

    def progress(self) -> Progress:
        """How far it is."""
        now = self._ended or time.monotonic()
        left, step = None, self._step
        if step is not None and step.done > self._item_began[1]:
            left = (now - self._item_began[0]) / (step.done - self._item_began[1]) * (step.total - step.done)
        return Progress(step, left, now - self._began if self._began else 0.0)

    def _begin(self) -> None:
        self.state, self._began = "working", time.monotonic()

    def _told(self, step: Step) -> None:
        if (step.stage, step.what) != self._item and (step.stage != self._item[0] or step.stage in ("inject", "mitigate")):
            self._item, self._item_began = (step.stage, step.what), (time.monotonic(), step.done)
        self._step = step

    def _give(self, piece: Any) -> None:
        self.result = piece
        self._pieces.put(piece)

    def _end(self, state: State, error: str = "") -> None:
        self.error, self.state, self._ended = error, state, time.monotonic()
        self._pieces.put(_END)


_END = object()


class Room:
    """Owns a session: only its own thread ever touches the model. Takes over the session's `tell` and `say`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        session.tell, session.say = self._tell, self._say
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._orders: list[Order] = []
        self._line: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._now: Order | None = None
        self._worker = threading.Thread(target=self._work, name="model room", daemon=True)
        self._worker.start()

    def order(self, label: str, work: Work, owner: str = "") -> Order:
        """Put work in line: a function from the session to an iterator of pieces, run on the room's thread alone."""
        order = Order(next(self._numbers), label, owner, work)
        with self._lock:
            over = [one for one in self._orders if one.over]
            self._orders = [one for one in self._orders if one not in over[:-REMEMBERED]] + [order]
        self._line.put(order)
        return order

    def cancel(self, owner: str) -> int:
        """Call off whatever is waiting or worked on for an owner; gives back how many."""
        mine = [order for order in self.open_orders() if order.owner == owner]
        for order in mine:
            order.cancel()
        return len(mine)

    def open_orders(self) -> list[Order]:
        """What is worked on and what waits, in order; called-off ones that have not noticed yet included."""
        with self._lock:
            return [order for order in self._orders if not order.over]

    def last(self, owner: str) -> Order | None:
        """The latest order of an owner."""
        with self._lock:
            return next((order for order in reversed(self._orders) if order.owner == owner), None)

    def ahead(self, order: Order) -> list[Order]:
        """The orders before this one."""
        return [one for one in self.open_orders() if one.number < order.number and not one.called_off]

    def close(self, seconds: float = 10.0) -> bool:
        """Call everything off and wait for the thread to end; False when the model was still busy then."""
        for order in self.open_orders():
            order.cancel()
        self._line.put(None)
        self._worker.join(seconds)
        return not self._worker.is_alive()

    # ------------------------------------------------------------ the room's own thread

    def _work(self) -> None:
        while (order := self._line.get()) is not None:
            if order.called_off:
                order._end("cancelled")
                continue
            self._now = order
            try:
                self._do(order)
            finally:
                self._now = None

    def _do(self, order: Order) -> None:
        order._begin()
        pieces: Iterator[Any] = iter(())
        try:
            try:
                pieces = order.work(self.session)
                for piece in pieces:
                    order._give(piece)
                    self._look_up()
            finally:
                if hasattr(pieces, "close"):
                    pieces.close()  # edits come off here, on this thread, before the next order
        except Cancelled:
            order._end("cancelled")
        except BiasGymError as error:
            order._end("failed", str(error))
        except Exception as error:  # the next in line must not suffer for it
            log.exception("order %s failed", order.label)
            order._end("failed", f"{type(error).__name__}: {error}")
        else:
            order._end("done")

    def _look_up(self) -> None:
        if self._now is not None and self._now.called_off:
            raise Cancelled

    def _tell(self, step: Step, /) -> None:
        if self._now is not None:
            self._now._told(step)
        self._look_up()

    def _say(self, text: str) -> None:
        if self._now is not None:
            self._now.said = text
        self._look_up()
