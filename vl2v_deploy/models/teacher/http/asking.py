"""One request until it is answered: paced, accounted for, sent, kept; again where that may help."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from vl2v_deploy.errors import VendorError
from vl2v_deploy.models.ledger.ledger import Ledger
from vl2v_deploy.models.ledger.pacer import Pacer
from vl2v_deploy.models.teacher.http.answers import BadAnswer, checked_embeddings, read_rows
from vl2v_deploy.models.teacher.http.apis.wire import Request, Wire
from vl2v_deploy.models.teacher.http.retries import delay_s
from vl2v_deploy.models.teacher.http.transport import Failed, Transport

TRIES = 4  # of a request that failed where it may have been paid for, or that did not reach the server
TRIES_LIMITED = 20  # of a request that came when there were too many: a refusal costs nothing


@dataclass(frozen=True)
class Question:
    """A request that is ready to be sent.

    count:          items whose embeddings are wanted
    repeated:       which of them stands once more at the end, to check the order; None = none does
    images, texts:  that are sent, the repeated one too
    usd_per_1k:     of what is sent
    positions:      of the items in what is bought
    """

    request: Request
    count: int
    repeated: int | None
    images: int
    texts: int
    usd_per_1k: float
    positions: range

    @property
    def place(self) -> str:
        """The items in words, counted from 0."""
        first, last, what = self.positions[0], self.positions[-1], "image" if self.images else "text"
        return f"{what} {first}" if first == last else f"{what}s {first} to {last}"


class Asker:
    """Asks one server for one teacher; threads may share it.

    teacher: identity, for the ledger
    dim:     D of its embeddings
    version: of the model, as the last answer named it
    """

    def __init__(
        self, teacher: str, dim: int, wire: Wire, transport: Transport, ledger: Ledger, pacer: Pacer
    ) -> None:
        self.teacher, self.dim, self.wire, self.transport = teacher, dim, wire, transport
        self.ledger, self.pacer = ledger, pacer
        self.version: str | None = None

    def ask(self, question: Question, keep: Callable[[Tensor], None], stop: threading.Event) -> None:
        """Asks until an answer was kept, or until `stop` is set: then there may be none.

        keep: takes the embeddings, (count, D), and returns when they are on disk

        Raises VendorError for what does not change by asking again, or has not after several tries;
        BudgetError before more is spent than allowed.
        """
        failures = refusals = 0
        while not stop.is_set():
            self.pacer.wait(question.images, stop)
            if stop.is_set():
                return
            failed = self._send(question, keep)
            if failed is None:
                self.pacer.speed_up()
                return
            if failed.verdict == "wait":
                refusals += 1
                self.pacer.slow_down()
                self.pacer.pause(delay_s(refusals - 1) if failed.wait_s is None else failed.wait_s)
            else:
                failures += 1
            if failed.verdict in ("stop", "refused") or failures >= TRIES or refusals >= TRIES_LIMITED:
                raise _error(failed, question, failures + refusals)
            if failed.verdict == "again":
                if failed.wait_s is not None:
                    self.pacer.pause(failed.wait_s)
                stop.wait(delay_s(failures - 1))

    def _send(self, question: Question, keep: Callable[[Tensor], None]) -> Failed | None:
        """Sends the question once. None = it was answered, the embeddings kept and what it costs settled."""
        images, texts = question.images, question.texts
        usd = question.usd_per_1k * (images + texts) / 1000
        reservation = self.ledger.reserve(self.teacher, images=images, texts=texts, usd=usd)
        outcome = self.transport.post(question.request)
        if isinstance(outcome, Failed):
            if outcome.paid:
                self.ledger.lose(reservation)
            else:
                self.ledger.release(reservation)
            return outcome
        billed = images + texts
        try:
            rows = read_rows(self.wire, outcome)
            billed = rows.billed or billed
            self.version = self.transport.without_key(str(rows.version)) if rows.version else self.version
            keep(checked_embeddings(rows, question.count, self.dim, question.repeated))
        except BadAnswer as fault:
            message = f"teacher: {self.transport.host}: {fault}"
            return Failed(message, 200, paid=True, verdict="again" if fault.again else "stop")
        finally:  # whatever the answer is worth, it is paid
            self.ledger.settle(
                reservation,
                images=billed if images else 0,
                texts=billed if texts else 0,
                usd=question.usd_per_1k * billed / 1000,
            )
        return None


def _error(failed: Failed, question: Question, tries: int) -> VendorError:
    """The error that ends a purchase; it names the items unless no item is to blame."""
    if failed.verdict == "stop" and failed.status != 200:
        return failed.error
    asked = f"; asked {tries} times" if tries > 1 else ""
    message = f"{failed.message} ({question.place}{asked})"
    return replace(failed, message=message, blamed=question.positions).error
