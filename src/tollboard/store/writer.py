"""The one writer: a thread that owns the write connection and commits whatever has gathered (group commit).

Who calls it: the store and the journals, from the event loop only. What they rely on:

    * Order. Writes become durable in the order of `submit`. All of a batch becomes durable in one transaction.
    * Commit, then resolve, then emit. A batch is committed with synchronous=FULL; then one callback on the loop settles
      its writes in order; then the feed callbacks see its items, one step of the loop later, so that whoever
      awaited a commit has run before anybody is told about it.
    * One bad statement fails its own caller. The batch first runs as a whole; when that raises, it is rolled back and
      run again write by write in savepoints.
    * A failed medium (disk full, I/O error, read-only) fails every write of the batch and nothing more: the thread goes
      on, and later writes succeed as soon as the medium does.
    * The owner's epoch is read inside each transaction, after the write lock was taken. When it is no longer ours
      every write fails with StaleOwner from then on.
    * Bounded. `congested` asks producers to wait for a flush; at the hard limit `submit` raises Overloaded.
    * No polling: the thread sleeps on its queue, the loop on the thread's callback.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from tollboard.errors import Overloaded, StaleOwner, StoreUnavailable, TollboardError
from tollboard.fleet.records import FeedItem
from tollboard.store.batch import run_quickly, run_singly
from tollboard.store.faults import code_of, is_storage, translate
from tollboard.store.feed import FeedWrite
from tollboard.store.identity import OpenFiles
from tollboard.store.queries import EPOCH
from tollboard.store.retention import Pruner
from tollboard.store.write import Flush, Group, Write

_log = logging.getLogger(__name__)

MAX_BATCH = 512
CONGESTED_AT = 20_000
MAX_QUEUED = 200_000

OnFeed = Callable[[Sequence[FeedItem]], None]
Connect = Callable[[], sqlite3.Connection]


class Writer:
    """Commits writes in the order they are submitted. Made on the loop; `start` begins the thread."""

    def __init__(self, path: str, connect: Connect, *, epoch: int, pruner: Pruner, files: OpenFiles) -> None:
        self._path = path
        self._files = files
        self._connect = connect
        self._epoch = epoch
        self._pruner = pruner
        self._queue: SimpleQueue[Write | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="tollboard-writer", daemon=True)
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        # Only the loop touches these.
        self._queued = 0
        self._settled = 0
        self._last_failure: tuple[int, TollboardError | None] = (0, None)
        self._answered = 0
        self._group: list[Write] | None = None
        self._callbacks: list[OnFeed] = []
        self.closing = False
        self.trouble: StoreUnavailable | None = None
        """What the newest writes ran into; `None` as soon as some succeed."""
        # Only the thread touches these.
        self._connection: sqlite3.Connection | None = None
        self._stale = False

    # -- on the loop

    def start(self) -> None:
        """Begin the thread."""
        self._thread.start()

    def on_feed(self, callback: OnFeed) -> None:
        """Call back with each committed batch of feed items."""
        self._callbacks.append(callback)

    @property
    def congested(self) -> bool:
        """Whether producers should await a flush before they go on."""
        return self._queued >= CONGESTED_AT

    def submit(self, write: Write, *, must: bool = False) -> Write:
        """Queue a write and return it. With `must` it is taken beyond the limit: the outcome of work that was done.

        Raises Overloaded when too much waits. After the close a write settles at once, with StoreUnavailable.
        """
        if self._group is not None:
            self._group.append(write)
            return write
        if self.closing:
            write.error = StoreUnavailable("the store is closed")
            write.settle()
            return write
        if self._queued >= MAX_QUEUED and not must:
            raise Overloaded("store queue", limit=MAX_QUEUED, size=self._queued, unit="writes")
        self._queued += 1
        self._queue.put(write)
        return write

    @contextmanager
    def group(self) -> Iterator[None]:
        """Make everything submitted inside one write. An exception inside withdraws it all."""
        if self._group is not None:
            yield  # joins the outer group
            return
        parts = self._group = []
        try:
            yield
        except BaseException:
            self._withdraw(parts)
            raise
        finally:
            self._group = None
        if parts:
            self._submit_group(Group(parts))

    def _submit_group(self, group: Group) -> None:
        try:
            _ = self.submit(group)
        except Overloaded:
            self._withdraw(group.parts)
            raise

    def _withdraw(self, parts: Sequence[Write]) -> None:
        for part in parts:
            part.error = StoreUnavailable("withdrawn: the group of writes it belonged to was given up")
            part.settle()

    def flush(self) -> Write:
        """Return a barrier: durable is everything submitted before it; it raises what failed since the last one."""
        flush = Flush(self._answered)
        # Directly into the queue: also inside a group, which could not be flushed before it ends, and at the limit.
        if self.closing:
            return self.submit(flush)
        self._queued += 1
        self._queue.put(flush)
        return flush

    async def close(self, deadline: asyncio.Future[None]) -> None:
        """Commit what waits and end the thread, or give up when `deadline` is done.

        The thread is a daemon: one that hangs in a dead disk cannot keep the process alive.
        """
        if not self.closing:
            self.closing = True
            self._queue.put(None)
        await asyncio.wait({self._stopped, deadline}, return_when=asyncio.FIRST_COMPLETED)
        if not self._stopped.done():
            raise StoreUnavailable(
                f"the database {self._path!r} does not answer; {self._queued} writes are not durable"
            )

    def note_failure(self, error: TollboardError) -> None:
        """Let the next flush raise this: something nobody awaits was not written."""
        self._last_failure = (self._settled + 1, error)

    def _settle(self, batch: Sequence[Write]) -> None:
        """Resolve a batch's commits, in order; then let the feed callbacks run one step later."""
        items: list[FeedItem] = []
        trouble = self.trouble
        self._queued -= len(batch)
        for write in batch:
            self._settled += 1
            if isinstance(write, Flush):
                self._answer(write)
            elif write.error is not None:
                self._last_failure = (self._settled, write.error)
                trouble = write.error if isinstance(write.error, StoreUnavailable) else trouble
            else:
                trouble = None
            write.settle()
            if write.error is None:
                items += [part.numbered() for part in write.flatten() if isinstance(part, FeedWrite)]
        self.trouble = trouble
        if items:
            self._loop.call_soon(self._emit, items)

    def _answer(self, flush: Flush) -> None:
        failed_at, error = self._last_failure
        if flush.error is None and failed_at > flush.since:
            flush.error = error
        self._answered = self._settled

    def _emit(self, items: Sequence[FeedItem]) -> None:
        for callback in self._callbacks:
            try:
                callback(items)
            except Exception:
                _log.exception("a feed callback raised; it will be called again for the next items")

    # -- in the thread

    def _run(self) -> None:
        going = True
        while going:
            batch, going = self._gather()
            if batch:
                self._commit(batch)
                self._tell(self._settle, batch)
        self._disconnect()
        self._tell(self._end)

    def _end(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _tell(self, callback: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            # The loop was closed without closing the store: nobody waits any more.
            _log.debug("the event loop ended before the store was closed")

    def _gather(self) -> tuple[list[Write], bool]:
        """Wait for a write, then take what else is there. The second value is false after the close."""
        batch: list[Write] = []
        write = self._queue.get()
        while write is not None:
            batch.append(write)
            if len(batch) >= MAX_BATCH:
                return batch, True
            try:
                write = self._queue.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _commit(self, batch: Sequence[Write]) -> None:
        """Make a batch durable, or give each of its writes its error. Never raises."""
        writes = [write for write in batch if not isinstance(write, Flush)]
        if not writes:
            return
        try:
            try:
                self._transact(writes, singly=False)
            except Exception as error:
                if is_storage(error) or isinstance(error, StaleOwner):
                    raise
                self._transact(writes, singly=True)
        except Exception as error:
            self._fail(writes, error)

    def _transact(self, writes: Sequence[Write], *, singly: bool) -> None:
        """Run writes in one transaction; raises after rolling everything back."""
        if self._connection is None:
            self._files.reopened()
            self._connection = self._connect()
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._files.check()
            self._check_owner(connection)
            if singly:
                run_singly(connection, writes, self._path)
            else:
                run_quickly(connection, writes)
            self._pruner.run(connection, writes)
            connection.execute("COMMIT")
        except Exception:
            self._roll_back(connection)
            raise

    def _check_owner(self, connection: sqlite3.Connection) -> None:
        row = connection.execute(EPOCH.sql).fetchone()
        self._stale = self._stale or row is None or row[0] != self._epoch
        if self._stale:
            raise StaleOwner(
                f"another daemon has taken over {self._path!r}; this one may no longer write. Stop this process"
            )

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            # A connection that cannot even roll back is of no more use; closing it rolls back too.
            self._disconnect()

    def _fail(self, writes: Sequence[Write], error: Exception) -> None:
        translated = translate(error, self._path)
        for write in writes:
            write.error = translated
        if code_of(error) not in (0, sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
            # After an I/O error the connection may hold on to a bad state of the file: the next batch opens anew.
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                _log.warning("the database %r could not be closed cleanly", self._path)
