"""An endless iterator over new facts that asks the log again and again."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import Event
from typing import Final

from esper_es.ledger.kernel import ApplicationRecorder, Notification, Subscription

_BATCH: Final = 500


class PollingSubscription(Subscription[ApplicationRecorder]):
    """Yield every fact after `gt`, then wait for new ones, asking every `interval` seconds.

    `stop()`, also from another thread, ends the iteration. Nothing is remembered between processes: a read
    model that must see each fact exactly once uses `followers.follow`.
    """

    def __init__(
        self,
        recorder: ApplicationRecorder,
        gt: int | None = None,
        topics: Sequence[str] = (),
        *,
        interval: float = 0.2,
    ) -> None:
        super().__init__(recorder, gt, topics)
        self._interval = interval
        self._stopped = Event()
        self._waiting: deque[Notification] = deque()

    def stop(self) -> None:
        """End the iteration; a waiting iterator wakes at once."""
        super().stop()
        self._stopped.set()

    def __next__(self) -> Notification:
        while not self._stopped.is_set():
            if not self._waiting:
                self._waiting.extend(
                    self._recorder.select_notifications(
                        self._last_notification_id, _BATCH, topics=self._topics, inclusive_of_start=False
                    )
                )
            if self._waiting:
                notification = self._waiting.popleft()
                self._last_notification_id = notification.id
                return notification
            self._stopped.wait(self._interval)
        raise StopIteration
