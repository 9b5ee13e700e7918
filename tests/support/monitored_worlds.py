"""A CaptureWorld whose nodes stop VMs through QEMU's monitors, and fail to in every way that there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from kigi.api.node_cache import CaptureOrder, CaptureReport
from kigi.planning.captures import plan_capture
from tests.support.capture_worlds import CaptureWorld, Copy, Pause, Planner
from tests.support.worlds import Vmi

Times = tuple[datetime, datetime]


class MonitoredWorld(CaptureWorld):
    """Daemons make the copies of one attempt at one barrier, or none of them."""

    def __init__(self, planner: Planner = plan_capture) -> None:
        super().__init__(planner)
        self.without_monitors = False
        """A VM has no monitor, so that its node reports Unavailable."""
        self.earlier_daemons = False
        """The daemons are of a version that knows no monitors: they copy at once, whoever was to stop the VMs."""
        self.resumed_next = False
        """virt-launcher continues a VM during the next barrier."""
        self.broken: set[str] = set()
        """Ids of copies whose barrier broke; a daemon that starts again does not know them."""
        self.times: dict[tuple[str, str], Times] = {}
        self.barriers = 0

    def move(self, number: int) -> None:
        """Beside the moves of every world: those of monitors and their daemons."""
        moves: Sequence[Callable[[], None]] = (
            lambda: setattr(self, "without_monitors", not self.without_monitors),
            lambda: setattr(self, "earlier_daemons", not self.earlier_daemons),
            lambda: setattr(self, "resumed_next", True),
            self.broken.clear,
        )
        kind = number // 7 % 14
        if number % 7 < len(moves) and kind == 0:
            moves[number % 7]()
        else:
            super().move(number)

    def run_daemons(self) -> None:
        for node in self.w.nodes:
            if node not in self.silent and not self.earlier_daemons:
                orders = self.orders.get(node, ())
                self._meet([o for o in orders if _is_stopped(o) and (node, o.id) not in self.copies], node)
        self.broken &= {order.id for orders in self.orders.values() for order in orders if _is_stopped(order)}
        super().run_daemons()

    def settle(self) -> None:
        self.earlier_daemons = False
        super().settle()

    def _act(self, node: str, order: CaptureOrder) -> CaptureReport:
        if self.earlier_daemons:
            return super()._act(node, order)
        if order.action == "Check":
            ready = "Unavailable" if self.without_monitors else "Available"
            return CaptureReport(id=order.id, state="Possible", monitor=ready)
        if order.id in self.broken and (node, order.id) not in self.copies:
            return CaptureReport(id=order.id, state="Refused", reason="Waiting", monitor="Broken")
        found = super()._act(node, order)
        times = self.times.get((node, order.id))
        if times is None or found.state == "Lost":
            return found
        return found.model_copy(update={"stop_time": times[0], "continue_time": times[1]})

    def _meet(self, orders: Sequence[CaptureOrder], node: str) -> None:
        """The barrier of one capture on one node."""
        if not orders or any(order.id in self.broken for order in orders):
            return
        vmis = [self._vmi_of(order) for order in orders]
        if self.resumed_next or any(vmi is None or self._guest(vmi).pause is not None for vmi in vmis):
            self.resumed_next = False
            self.broken.update(order.id for order in orders)
            return
        self.barriers += 1
        pauses = {vmi.uid: Pause("capture", next(self.ticks)) for vmi in vmis if vmi is not None}
        end = next(self.ticks)
        for order, vmi in zip(orders, vmis, strict=True):
            assert vmi is not None
            pause = pauses[vmi.uid]
            pause.end = end
            self.copies[(node, order.id)] = Copy(vmi.uid, pause, f"copy-{next(self.ticks)}")
            self.times[(node, order.id)] = (_time(pause.begin), _time(end))

    def _vmi_of(self, order: CaptureOrder) -> Vmi | None:
        for vmi in self.w.vmis.values():
            if any(self.w._volume_of(claim).handle == order.volume for claim in vmi.claims):
                return vmi
        return None

    def lose_copies(self, node: str) -> None:
        super().lose_copies(node)
        self.times = {key: times for key, times in self.times.items() if key[0] != node}


def _is_stopped(order: CaptureOrder) -> bool:
    return order.action == "Copy" and order.paused_by == "Daemon"


def _time(tick: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=tick)
